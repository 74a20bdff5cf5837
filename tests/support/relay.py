"""A relay in front of a Docker engine's socket that can be stalled, as an engine stalls under a dead disk.

Owns a process that forwards bytes. A stall stops that process: the kernel goes on accepting connections, nobody answers.
It can also hold one kind of request back and pass everything else, as an engine does that is busy with one thing.
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
        # What is held and whether something was is told through files, which both processes see.
        self._wanted = path.with_suffix(".hold")
        self._caught = path.with_suffix(".held")

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self) -> StallingRelay:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, (self.path, self._target, self._wanted, self._caught))]
        )
        deadline = time.monotonic() + 20
        while not self.path.exists():
            assert self._process.poll() is None, "the relay ended"
            assert time.monotonic() < deadline, "the relay did not listen"
            time.sleep(0.02)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()
        self.resume()
        self._process.terminate()
        self._process.wait(10)

    def stall(self) -> None:
        """Forward nothing from now on; connections stay open."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Forward again, also what was held back."""
        os.kill(self._process.pid, signal.SIGCONT)

    def hold(self, path: str) -> None:
        """Keep POST requests back whose path ends so, from now on; whoever sent them may give up meanwhile."""
        self._caught.unlink(missing_ok=True)
        self._wanted.write_text(path)

    @property
    def holds_one(self) -> bool:
        """Whether a request was kept back since `hold`."""
        return self._caught.exists()

    def release(self) -> None:
        """Send on what is kept back, and hold no more."""
        self._wanted.unlink(missing_ok=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _pump_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wanted: Path, caught: Path) -> None:
    held = False
    while data := await reader.read(65536):
        if _is_wanted(data, wanted):
            held = True
            caught.touch()
            while wanted.exists():
                await asyncio.sleep(0.02)
        writer.write(data)
        await writer.drain()
    # A request that was on its way arrives whole, also when its sender has hung up since.
    if not held:
        writer.write_eof()


def _is_wanted(data: bytes, wanted: Path) -> bool:
    if not data.startswith(b"POST ") or not wanted.exists():
        return False
    end = wanted.read_bytes()
    return bool(end) and data.split(b" ", 2)[1].partition(b"?")[0].endswith(end)


async def _serve(path: str, target: str, wanted: Path, caught: Path) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(target)
        try:
            await asyncio.gather(_pump_requests(reader, far_writer, wanted, caught), _pump(far_reader, writer))
        except OSError:
            pass
        finally:
            far_writer.close()
            writer.close()

    server = await asyncio.start_unix_server(relay, path)
    await server.serve_forever()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    asyncio.run(_serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
