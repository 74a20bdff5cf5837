import errno
import hashlib
import json
import os
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from spawner import datasets
from spawner.errors import DatasetError
from spawner.model import LabConfig, Mount
from tests.unit.values import shipped_config


@pytest.fixture
def config(tmp_path: Path) -> LabConfig:
    shipped = shipped_config()
    folder = tmp_path / "datasets"
    folder.mkdir()
    return replace(shipped, mounts=replace(shipped.mounts, datasets=folder))


class Runner:
    """Stands for `Engine.run_once`; remembers what was asked."""

    def __init__(self, code: int = 0, output: str = "") -> None:
        self.answer = (code, output)
        self.asked: list[dict] = []

    def __call__(self, image, command, *, mounts, user):
        self.asked.append({"image": image, "command": list(command), "mounts": mounts, "user": user})
        return self.answer


def package(folder: Path, *extra: tuple[str, str], labels: int = datasets.ELPV_IMAGES) -> Path:
    """A package of the real shape, with images of a few bytes."""
    path = folder / "elpv_dataset-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        names = [f"images/cell{number:04d}.png" for number in range(labels)]
        archive.writestr("elpv_dataset/data/labels.csv", "".join(f"{name}  1.0   mono\n" for name in names))
        for name in names[:3]:
            archive.writestr(f"elpv_dataset/data/{name}", "pixels")
        archive.writestr("elpv_dataset/utils.py", "raise SystemExit('code must not be installed')")
        for name, text in extra:
            archive.writestr(name, text)
    return path


def test_textures_are_drawn_in_the_lab_image_as_the_folders_owner(config: LabConfig):
    runner = Runner()
    assert "CC0" in datasets.get("textures", config, runner)
    (asked,) = runner.asked
    owner = config.mounts.datasets.stat()
    assert asked["command"] == ["python", "-m", "defectlab", "data", "textures", "--out", "/workspace/data"]
    assert asked["mounts"] == (Mount(str(config.mounts.datasets), "/workspace/data", read_only=False),)
    assert (asked["image"], asked["user"]) == (config.image, f"{owner.st_uid}:{owner.st_gid}")


def test_a_failure_in_the_image_is_told_with_its_last_words(config: LabConfig):
    with pytest.raises(DatasetError, match=f"The disk of {config.mounts.datasets} is full"):
        datasets.get("textures", config, Runner(1, "working\ndefectlab: The disk of /workspace/data is full."))


def test_unknown_names_and_missing_folders_are_refused(config: LabConfig):
    with pytest.raises(DatasetError, match="Choose one of: textures, elpv"):
        datasets.get("imagenet", config, Runner())
    config.mounts.datasets.rmdir()
    with pytest.raises(DatasetError, match=r"mounts\.datasets\.path"):
        datasets.get("textures", config, Runner())


@pytest.mark.parametrize("said", ["", "yes", "cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0 "])
def test_elpv_needs_its_licence_word_for_word(config: LabConfig, said: str):
    with pytest.raises(DatasetError) as caught:
        datasets.get("elpv", config, Runner(), accept_licence=said)
    assert "not for commercial use" in caught.value.sentence
    assert "--accept-licence CC-BY-NC-SA-4.0" in caught.value.what_to_do
    assert list(config.mounts.datasets.iterdir()) == []


def install(target: Path, package_of) -> str:
    return datasets._get_elpv(target, datasets.ELPV_LICENCE, package_of)


def test_elpv_is_installed_whole_and_checkable(tmp_path: Path):
    target = tmp_path / "elpv"
    install(target, package)
    described = json.loads((target / "dataset.json").read_text())
    assert (described["format"], described["images"]) == (1, datasets.ELPV_IMAGES)
    assert described["licence"] == "CC-BY-NC-SA-4.0"
    sums = dict(reversed(line.split("  ")) for line in (target / "SHA256SUMS").read_text().splitlines())
    files = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    assert set(sums) == files
    assert all(hashlib.sha256((target / name).read_bytes()).hexdigest() == total for name, total in sums.items())
    assert not list(target.rglob("*.py"))
    assert [p.name for p in tmp_path.iterdir()] == ["elpv"]


def test_a_second_time_is_a_noop_and_needs_no_licence(tmp_path: Path):
    target = tmp_path / "elpv"
    install(target, package)
    before = (target / "SHA256SUMS").stat().st_mtime_ns
    assert "there already" in datasets._get_elpv(target, "", lambda _: pytest.fail("fetched again"))
    assert (target / "SHA256SUMS").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "name", ["elpv_dataset/data/images/../../../escaped", "elpv_dataset/data/../../escaped", "/tmp/escaped", "../escaped"]
)
def test_a_name_that_climbs_out_writes_nothing_outside(tmp_path: Path, name: str):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    install(inner / "elpv", lambda folder: package(folder, (name, "evil")))
    assert not [p for p in tmp_path.rglob("escaped")]


def test_a_package_with_missing_labels_leaves_nothing(tmp_path: Path):
    with pytest.raises(DatasetError, match="nothing was installed"):
        install(tmp_path / "elpv", lambda folder: package(folder, labels=7))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_with_too_little_room_is_told_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    with pytest.raises(DatasetError, match="has 5 MB free; elpv needs 200 MB"):
        install(tmp_path / "elpv", lambda _: pytest.fail("fetched"))


def test_labs_can_read_it_whatever_the_umask(tmp_path: Path):
    before = os.umask(0o077)
    try:
        install(tmp_path / "elpv", package)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "elpv").rglob("*")} == {"0o755", "0o644"}


def test_what_a_killed_command_left_behind_is_cleared_a_day_later(tmp_path: Path):
    old, young = tmp_path / ".elpv-old", tmp_path / ".elpv-young"
    for folder, age in ((old, 2 * 86400), (young, 60)):
        folder.mkdir()
        os.utime(folder, times=(time.time() - age,) * 2)
    install(tmp_path / "elpv", package)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".elpv-young", "elpv"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path):
    def full(folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DatasetError, match="The disk is full"):
        install(tmp_path / "elpv", full)
    assert list(tmp_path.iterdir()) == []
