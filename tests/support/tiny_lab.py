"""The smallest lab there is, as an image: one static program that answers, and that a test can hold up.

Owns building the image and the files that steer the program. Never decides what a container gets.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import docker

SOURCE = Path(__file__).with_name("tiny_lab.c")
TAG = "tiny-lab"


@cache
def _root() -> bytes:
    with tempfile.TemporaryDirectory(prefix="gpulab-test-") as folder:
        program = Path(folder) / "lab"
        subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-static", "-o", str(program), str(SOURCE)], check=True)
        binary = program.read_bytes()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo("lab")
        entry.size, entry.mode = len(binary), 0o755
        tar.addfile(entry, io.BytesIO(binary))
        passwd = b"root:x:0:0::/:/lab\nengineer:x:1000:1000::/home/engineer:/lab\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size, entry.mode = len(passwd), 0o644
        tar.addfile(entry, io.BytesIO(passwd))
        for path in ("home/engineer", "workspace/data", "workspace/models"):
            entry = tarfile.TarInfo(path)
            entry.type, entry.uid, entry.gid, entry.mode = tarfile.DIRTYPE, 1000, 1000, 0o755
            tar.addfile(entry)
    return made.getvalue()


def load(client: docker.APIClient, name: str) -> str:
    """Make the image in an engine, under the name of a test's lab; the image's name."""
    client.import_image_from_data(_root(), repository=name, tag=TAG, changes=['CMD ["/lab"]'])
    return f"{name}:{TAG}"


@dataclass(frozen=True)
class Cues:
    """The labs of one person, steered through the models folder of the host."""

    models: Path
    user: str

    def file(self, what: str) -> Path:
        return self.models / f"{self.user}.{what}"

    def set(self, what: str) -> None:
        """`hold`: a lab that starts does not answer. `save`: a lab that is to end goes on."""
        self.file(what).touch()

    def let_go(self, what: str) -> None:
        """The end of `set`."""
        self.file(what).unlink(missing_ok=True)

    def seen(self, what: str) -> bool:
        """`answered`: it answered a request. `ending`: it was asked to end."""
        return self.file(what).exists()

    def forget(self) -> None:
        """Nothing is held up, and nothing was seen."""
        for what in ("hold", "save", "answered", "ending"):
            self.let_go(what)
