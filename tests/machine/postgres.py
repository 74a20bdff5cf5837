"""A PostgreSQL server of the tests' own: in a folder of its own, on a socket there, by a user without rights.

Owns its start and its end, by its own process id. Never touches a server that runs on this machine already.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

START_SECONDS = 60


def programs() -> Path:
    """Folder of the newest server that the distribution has installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.fail("these tests need a PostgreSQL server (Debian's package `postgresql`): run scripts/test-deps.sh as root")
    return found[-1].parent


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """The server's SQLAlchemy URL while it runs."""
    # Not in pytest's folders: the name of a socket may have some hundred characters only, and its user must get there.
    folder = Path(tempfile.mkdtemp(prefix="gpulab-pg-"))
    # PostgreSQL refuses to run as root.
    person: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    if person:
        shutil.chown(folder, "nobody", "nogroup")
    common = {"cwd": folder, "env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}, **person}
    log = folder / "server.log"
    try:
        made = subprocess.run(
            [programs() / "initdb", "-D", folder / "data", "-A", "trust", "-U", "lab", "-E", "UTF8", "--no-sync"],
            capture_output=True, text=True, check=False, **common,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with log.open("w") as words:
            server = subprocess.Popen(
                [programs() / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
                stdout=words, stderr=words, **common,
            )  # fmt: skip
        try:
            _wait(server, folder, log)
            yield f"postgresql+psycopg://lab@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(host=str(folder), user="lab", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
