"""Tiny labs for measurements of many: an image whose container answers every request, and the hub that uses it.

Owns the image, the hub and their end. Never measures.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound

from bench.subject import HubApi
from scripts import images
from spawner.engine import Engine
from tests.support.hub import HubProcess, make_lab_files, remove_docker_objects

REPOSITORY = "gpulab/bench"
# What the hub asks of a lab: an answer at any address; and what reclaim asks: its kernels, here an idle one, and its terminals.
# One process of 10 MB.
SERVER = """
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
KERNELS = b'[{"execution_state": "idle", "last_activity": "2026-01-05T08:00:00Z"}]'
class Lab(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        end = self.path.rsplit("/", 1)[-1]
        body = KERNELS if end == "kernels" else b"[]" if end == "terminals" else b"{}"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("", 8888), Lab).serve_forever()
"""
MEMORY = "64m"


@contextlib.contextmanager
def image() -> Iterator[str]:
    """A name of the run's own for a small image on the labs' base; it goes afterwards."""
    client = docker.from_env()
    tag = f"{REPOSITORY}:tiny-{secrets.token_hex(3)}"
    recipe = f'FROM {images.ensure_base(client)}\nCOPY lab.py /lab.py\nCMD ["python3", "/lab.py"]\n'
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in (("Dockerfile", recipe), ("lab.py", SERVER)):
            about = tarfile.TarInfo(name)
            about.size = len(text.encode())
            tar.addfile(about, io.BytesIO(text.encode()))
    packed.seek(0)
    client.images.build(fileobj=packed, custom_context=True, tag=tag, rm=True)
    try:
        yield tag
    finally:
        with contextlib.suppress(ImageNotFound, APIError):
            client.images.remove(tag, force=True)
        client.close()


def simulated(number: int, model: str = "Simulated 24 GB") -> list[dict[str, str]]:
    """So many GPUs for lab.yaml."""
    return [{"uuid": f"GPU-5f0e2a10-0000-4000-8000-{index:012x}", "model": model, "memory": "24g"} for index in range(number)]


@contextlib.contextmanager
def hub(tag: str, gpus: int, **changes: Any) -> Iterator[HubProcess]:
    """A hub of its own whose labs are tiny; it and everything that it made go afterwards."""
    engine = Engine()
    with tempfile.TemporaryDirectory(prefix="gpulab-bench-") as folder:
        files = make_lab_files(Path(folder))
        small = {f"profiles__{key}__memory": MEMORY for key in ("cpu", "gpu-1", "gpu-2")}
        settings: Mapping[str, Any] = {"image": tag, "gpus__simulated": simulated(gpus), **small, **changes}
        files.edit(**settings)
        made = HubProcess(files, engine)
        try:
            yield made
        except BaseException:
            print(made.log_tail(30))
            raise
        finally:
            made.stop()
            remove_docker_objects(engine, files.name)
            engine.close()


def api(made: HubProcess, people: Sequence[str], profile: str) -> HubApi:
    """The hub's REST API with a token for each person."""
    tokens = {name: made.token(name) for name in people}
    return HubApi(made.url, tokens, {"profile": profile})


def each(action: Callable[[str], Any], people: Sequence[str], at_once: int) -> dict[str, Any]:
    """Do something for all people, so many at once; what came of it, an exception included."""

    def safely(name: str) -> Any:
        try:
            return action(name)
        except Exception as error:
            return error

    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(people, pool.map(safely, people), strict=True))
