"""A clock that a test sets, for one process and what it starts; the host's clock is not touched.

Owns compiling the library that does it, and the file that says by how much.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class Clock:
    """The library and its file, in a folder."""

    folder: Path

    @classmethod
    def build(cls, folder: Path) -> Clock:
        """Compile it; a few tenths of a second."""
        clock = cls(folder)
        command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", clock._library, str(SOURCE)]
        subprocess.run(command, check=True)
        clock.set(0)
        return clock

    @property
    def _library(self) -> str:
        return str(self.folder / "clock.so")

    @property
    def env(self) -> dict[str, str]:
        """What a process must find in its environment when it starts."""
        return {"LD_PRELOAD": self._library, "GPULAB_TEST_CLOCK": str(self.folder / "clock")}

    def set(self, seconds: int) -> None:
        """Set the clock so far ahead of the host's; at once, also in processes that run."""
        # Replaced in one step: a reader never sees an empty file.
        new = self.folder / "clock.new"
        new.write_text(f"{seconds}\n")
        new.rename(self.folder / "clock")
