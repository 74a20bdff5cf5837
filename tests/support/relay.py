"""A relay in front of a Docker engine's socket that can be stalled, as an engine stalls under a dead disk.

Owns a process that forwards bytes. A stall stops that process: the kernel goes on accepting connections, nobody answers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


class StallingRelay:
    """A unix socket that forwards to the engine's."""

    def __init__(self, path: Path) -> None:
        host = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
        assert host.scheme == "unix", f"the tests relay a unix socket, not {host.geturl()}"
        self.path = path
        self._target = host.path

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self) -> StallingRelay:
        self._process = subprocess.Popen([sys.executable, __file__, str(self.path), self._target])
        deadline = time.monotonic() + 20
        while not self.path.exists():
            assert self._process.poll() is None, "the relay ended"
            assert time.monotonic() < deadline, "the relay did not listen"
            time.sleep(0.02)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.resume()
        self._process.terminate()
        self._process.wait(10)

    def stall(self) -> None:
        """Forward nothing from now on; connections stay open."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Forward again, also what was held back."""
        os.kill(self._process.pid, signal.SIGCONT)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _serve(path: str, target: str) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(target)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        except OSError:
            pass
        finally:
            far_writer.close()
            writer.close()

    server = await asyncio.start_unix_server(relay, path)
    await server.serve_forever()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))
