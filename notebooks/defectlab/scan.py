"""A folder that somebody else filled: what is in it, looked at with care.

Owns listing such a folder, opening its images and texts within bounds, and the list of what is wrong with them. Never writes,
never trusts a file's name or size, and never stops at the first bad file: whoever mends a folder wants to see them all.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defectlab.folders import DataError

Layout = Literal["mvtec", "neu", "yolo"]
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# Only these readers of Pillow are let near a stranger's file; others start programs.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
MOST_FILES = 200_000
MOST_PIXELS = 100_000_000
MOST_TEXT = 4_000_000
MOST_PROBLEMS = 1_000
# What file managers leave behind.
_LITTER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle around a defect, in pixels; right and bottom are not part of it.

    Attributes:
        kind: the defect's class.
        left, top, right, bottom: its edges.
    """

    kind: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a folder, with what its labels say.

    Attributes:
        file: its path in the folder.
        kind: `good`, or the class of its defect (of the largest, where there are several).
        source: what it shows, such as the product; the folder's name where nothing says so.
        mask: path of its mask, or empty.
        boxes: around its defects, where the layout has boxes.
    """

    file: str
    kind: str
    source: str
    mask: str = ""
    boxes: tuple[Box, ...] = ()

    @property
    def defective(self) -> bool:
        """Whether it shows a defect."""
        return self.kind != "good"


@dataclass(slots=True)
class Scan:
    """A folder under examination.

    Attributes:
        folder: which.
        decode: whether images are read to their last byte; the header alone is quicker, and finds less.
        files: paths of all its files, in order, without hidden ones.
        problems: one sentence per bad file, the file first; at most `MOST_PROBLEMS`.
        count: of all problems.
    """

    folder: Path
    decode: bool = True
    files: list[PurePosixPath] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        """List the files.

        Raises:
            DataError: the folder cannot be read, or holds too many files.
        """
        if not self.folder.is_dir():
            raise DataError(f"There is no folder {self.folder}.")
        for where, folders, names in os.walk(self.folder, onerror=self._unlistable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = PurePosixPath(Path(where).relative_to(self.folder).as_posix())
            self.files += [inside / n for n in names if not n.startswith(".") and n.lower() not in _LITTER]
            if len(self.files) > MOST_FILES:
                raise DataError(f"{self.folder} holds more than {MOST_FILES:,} files: name the folder of one data set.")
        # A pipe would be waited at for ever, and a link to /dev/zero has no end.
        odd = [file for file in self.files if not os.path.isfile(self.folder / file)]
        for file in sorted(odd):
            self.bad(file, "is no plain file, or cannot be reached")
        self.files = sorted(set(self.files) - set(odd))

    def bad(self, file: PurePosixPath | str, reason: str) -> None:
        """Note what is wrong with a file."""
        self.count += 1
        if len(self.problems) < MOST_PROBLEMS:
            # A file's name is somebody else's text: no line breaks and nothing that moves a cursor.
            self.problems.append("".join(c if c.isprintable() else "?" for c in f"{file}: {reason}"))

    def image(self, file: PurePosixPath | str) -> tuple[int, int] | None:
        """Width and height of an image; None, and a problem noted, where it cannot be used."""
        opened = self._opened(file)
        return None if opened is None else (opened.shape[1], opened.shape[0]) if isinstance(opened, np.ndarray) else opened

    def pixels(self, file: PurePosixPath | str) -> NDArray[np.uint8] | None:
        """An image in grey; None, and a problem noted, where it cannot be used."""
        opened = self._opened(file, whole=True)
        return opened if isinstance(opened, np.ndarray) else None

    def text(self, file: PurePosixPath | str) -> str | None:
        """A text file; None, and a problem noted, where it cannot be used."""
        path = self.folder / file
        try:
            if path.stat().st_size > MOST_TEXT:
                self.bad(file, f"is bigger than {MOST_TEXT // 1_000_000} MB, which no label file is")
                return None
            return path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            self.bad(file, "is not text in UTF-8")
        except OSError as error:
            self.bad(file, f"cannot be read ({error.strerror})")
        return None

    def _opened(self, file: PurePosixPath | str, *, whole: bool = False) -> NDArray[np.uint8] | tuple[int, int] | None:
        try:
            with warnings.catch_warnings():
                # Odd metadata of a camera are no reason to refuse its pictures.
                warnings.simplefilter("ignore")
                with Image.open(self.folder / file, formats=FORMATS) as image:
                    width, height = image.size
                    if width * height > MOST_PIXELS:
                        self.bad(file, f"has {width} × {height} pixels; at most {MOST_PIXELS // 1_000_000} million are read")
                    elif image.mode.startswith(("I", "F")):
                        self.bad(file, f"has more than 8 bits per channel (mode {image.mode}): save it with 8")
                    elif whole or self.decode:
                        return np.asarray(image.convert("L"))
                    else:
                        return width, height
        except Exception as error:
            # Pillow's readers raise whatever the broken bytes lead them to.
            self.bad(file, f"cannot be read as an image ({_short(error)})")
        return None

    def _unlistable(self, error: OSError) -> None:
        name = Path(error.filename).relative_to(self.folder).as_posix() if error.filename else "."
        if name == ".":
            raise DataError(f"{self.folder} cannot be read ({error.strerror}).")
        self.bad(name, f"cannot be listed ({error.strerror})")


def is_image(file: PurePosixPath) -> bool:
    """Whether a file's name is that of an image."""
    return file.suffix.lower() in IMAGES


def _short(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # Pillow puts the whole path into some of its sentences.
    return "not an image, or a damaged one" if "cannot identify" in str(error) else (str(error) or type(error).__name__)[:120]
