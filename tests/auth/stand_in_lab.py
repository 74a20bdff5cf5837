"""Answers every request with 200, like a lab that is up."""

import os
import signal
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlparse


class Lab(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


# The hub ends its labs with an interrupt; that is no error here.
signal.signal(signal.SIGINT, signal.SIG_DFL)
with open("token", "w") as file:
    file.write(os.environ["JUPYTERHUB_API_TOKEN"])
url = urlparse(os.environ["JUPYTERHUB_SERVICE_URL"])
HTTPServer((url.hostname or "127.0.0.1", url.port or 0), Lab).serve_forever()
