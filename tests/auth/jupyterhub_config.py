"""A hub with nothing but the sign-in: no engine, and stand-ins for labs."""

import os
import sys

from jupyterhub.spawner import SimpleLocalProcessSpawner

from spawner import auth

port = int(os.environ["TEST_PORT"])
secrets = os.environ["TEST_SECRETS"]
here = os.path.dirname(os.path.abspath(__file__))


class StandInLab(SimpleLocalProcessSpawner):
    """A process that answers every request, and leaves the token it was given where the test finds it."""

    home_dir_template = os.path.join(os.getcwd(), "{username}")
    cmd = [sys.executable, os.path.join(here, "stand_in_lab.py")]  # noqa: RUF012


c = get_config()
auth.configure_token_sign_in(c)
c.JupyterHub.bind_url = f"http://127.0.0.1:{port}"
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = port + 1
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.spawner_class = StandInLab
c.JupyterHub.cleanup_servers = True
c.JupyterHub.allow_named_servers = True
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['TEST_PROXY_PORT']}"
c.ConfigurableHTTPProxy.command = [os.environ["TEST_PROXY"]]
with open(os.path.join(secrets, "cli_token")) as file:
    c.JupyterHub.services = [
        {"name": "gpulab-cli", "api_token": file.read().strip()},
        {
            "name": "board",
            "api_token": "b" * 32,
            "oauth_client_id": "service-board",
            "oauth_redirect_uri": "/services/board/callback",
            "oauth_no_confirm": True,
        },
    ]
c.JupyterHub.load_roles = [
    {"name": "gpulab-cli", "scopes": list(auth.CLI_SCOPES), "services": ["gpulab-cli"]},
    {"name": "user", "scopes": ["self", "access:services!service=board"]},
]
