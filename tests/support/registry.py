"""A container registry on the loopback of a private engine, which takes it for a mirror of Docker's own.

Owns the registry's process, its store and its settings. Nothing of it can be reached from this host's network.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.private_engine import PrivateEngine
from tests.support.roots import registry_program

LOOPBACK = ("127.0.0.1", 5000)
ADDRESS = "127.0.0.1:5000"
MIRRORED = {"registry-mirrors": [f"http://{ADDRESS}"]}
START_SECONDS = 20
SILENT = "import signal, socket; s = socket.create_server(('127.0.0.1', 5000)); print('ready', flush=True); signal.pause()"


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    engine: PrivateEngine

    def push(self, image: str, repository: str, tag: str) -> str:
        """Put an image of the engine in as an official one; the digest to pin it by."""
        name = f"{ADDRESS}/library/{repository}"
        with self.engine.client() as client:
            client.timeout = 600
            client.tag(image, name, tag)
            words = list(client.push(name, tag, stream=True, decode=True))
            client.remove_image(f"{name}:{tag}")
        digests = [word["aux"]["Digest"] for word in words if "aux" in word]
        assert digests, words
        return str(digests[0])


@contextlib.contextmanager
def registry(engine: PrivateEngine, folder: Path) -> Iterator[Registry]:
    """Run a registry with a store in `folder` until the block ends."""
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder / 'store'}}}}}\n"
        f"http: {{addr: '{ADDRESS}'}}\n"
    )
    with _inside(engine, str(registry_program()), "serve", str(config)) as process:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(engine):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail("the test's container registry does not start")
            time.sleep(0.1)
        yield Registry(engine)


@contextlib.contextmanager
def silent_registry(engine: PrivateEngine) -> Iterator[None]:
    """Something that takes connections where the registry would be and never says a word."""
    with _inside(engine, sys.executable, "-c", SILENT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield


@contextlib.contextmanager
def _inside(engine: PrivateEngine, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of this host in the engine's network."""
    with engine.network():
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def _answers(engine: PrivateEngine) -> bool:
    with engine.network(), contextlib.suppress(OSError):
        socket.create_connection(LOOPBACK, timeout=1).close()
        return True
    return False
