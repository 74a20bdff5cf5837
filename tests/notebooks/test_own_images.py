"""`gpulab data verify FOLDER`, from the command line on the host to the lab image and back."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from spawner.cli import main
from tests.support.hub import make_lab_files


def png(path: Path, side: int = 8) -> None:
    """A grey image, by hand: the host has no imaging library."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + b"\xc8" * side for _ in range(side))
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def parts(folder: Path) -> Path:
    for name in ("train/good/0", "train/good/1", "test/good/0", "test/scratch/0"):
        png(folder / f"{name}.png")
    png(folder / "ground_truth" / "scratch" / "0_mask.png")
    return folder


def test_a_folder_in_order_and_one_with_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = str(make_lab_files(tmp_path).yaml)
    # Under pytest's own folder, which only its owner may enter, the labs' user would be shut out by no fault of the folder.
    folder = parts(tmp_path / "my-parts")
    folder.chmod(0o755)
    assert main(["--config", lab, "data", "verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder} (layout mvtec) is in order: 4 images, 3 good, 1 defective (scratch 1).\n"
    png(folder / "ground_truth" / "scratch" / "0_mask.png", side=9)
    (folder / "train" / "good" / "1.png").write_text("no image")
    assert main(["--config", lab, "data", "verify", str(folder), "--layout", "mvtec"]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "ground_truth/scratch/0_mask.png: is 9 × 9, and its image 8 × 8",
        "train/good/1.png: cannot be read as an image (not an image, or a damaged one)",
    ]
    assert told.err == f"gpulab: {folder} (layout mvtec) has 2 problems in 4 images.\n"


def test_a_folder_that_the_labs_user_cannot_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = str(make_lab_files(tmp_path).yaml)
    folder = parts(tmp_path / "my-parts")
    folder.chmod(0o700)
    assert main(["--config", lab, "data", "verify", str(folder)]) == 1
    assert capsys.readouterr().err == f"gpulab: {folder} cannot be read (Permission denied).\n"
