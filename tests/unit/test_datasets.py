import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from spawner import datasets
from spawner.datasets import catalogue, packages, state, unpack
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

    def __call__(self, image, command, *, mounts, user, seconds=600):
        self.asked.append({"image": image, "command": list(command), "mounts": mounts, "user": user})
        return self.answer


def package(folder: Path, *extra: tuple[str, str], labels: int = datasets.ELPV_IMAGES) -> Path:
    """A package of the real shape, with images of a few bytes."""
    folder.mkdir(exist_ok=True)
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
    with pytest.raises(DatasetError, match="Choose one of: textures, elpv, bearings, solar-thermal"):
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


def install(folder: Path, package_of, name: str = "elpv") -> str:
    wanted = catalogue.entry(name)
    return datasets.install(wanted, wanted.package, folder, wanted.licence, fetch=lambda _, keep: package_of(keep))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_elpv_is_installed_whole_and_checkable(tmp_path: Path):
    target = tmp_path / "elpv"
    install(tmp_path, package)
    described = json.loads((target / "dataset.json").read_text())
    assert (described["format"], described["images"]) == (1, datasets.ELPV_IMAGES)
    assert described["licence"] == "CC-BY-NC-SA-4.0"
    sums = dict(reversed(line.split("  ")) for line in (target / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == files(target) - {"SHA256SUMS"}
    assert all(hashlib.sha256((target / name).read_bytes()).hexdigest() == total for name, total in sums.items())
    assert not list(target.rglob("*.py"))
    assert {p.name for p in tmp_path.iterdir()} == {"elpv", "licences-accepted.jsonl"}


def test_a_second_time_is_a_noop_and_needs_no_licence(tmp_path: Path):
    install(tmp_path, package)
    sums = tmp_path / "elpv" / "SHA256SUMS"
    before = sums.stat().st_mtime_ns
    wanted = catalogue.entry("elpv")
    said = datasets.install(wanted, wanted.package, tmp_path, "", fetch=lambda *_: pytest.fail("fetched again"))
    assert "there already" in said
    assert sums.stat().st_mtime_ns == before


def test_who_accepted_a_licence_is_recorded_and_shown(config: LabConfig, monkeypatch: pytest.MonkeyPatch):
    folder = config.mounts.datasets
    monkeypatch.setenv("SUDO_USER", "ana")
    before = os.umask(0o077)
    try:
        install(folder, package)
    finally:
        os.umask(before)
    (line,) = (folder / state.ACCEPTED).read_text().splitlines()
    told = json.loads(line)
    assert (told["data_set"], told["licence"], told["by"].split("@")[0]) == ("elpv", "CC-BY-NC-SA-4.0", "ana")
    assert (folder / state.ACCEPTED).stat().st_mode & 0o777 == 0o644
    (shown,) = [one for one in datasets.listed(folder) if one.accepted]
    assert shown.entry.name == "elpv"
    assert shown.installed
    assert shown.accepted == f"{told['by']}, {told['at']}"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_the_list_of_licences_is_a_plain_file_or_nothing(tmp_path: Path, kind: str):
    other, place = tmp_path / "other", tmp_path / "data" / state.ACCEPTED
    other.write_text("mine")
    other.chmod(0o600)
    place.parent.mkdir()
    if kind == "link":
        place.symlink_to(other)
    else:
        os.mkfifo(place)
    with pytest.raises(DatasetError, match="cannot be recorded"):
        state.record_acceptance(place.parent, datasets.entry("elpv"))
    assert [one.accepted for one in datasets.listed(place.parent)] == ["", "", "", ""]
    assert (other.read_text(), other.stat().st_mode & 0o777) == ("mine", 0o600)


def test_an_acceptance_that_cannot_be_recorded_installs_nothing(tmp_path: Path):
    (tmp_path / state.ACCEPTED).mkdir()
    with pytest.raises(DatasetError, match="cannot be recorded"):
        install(tmp_path, lambda _: pytest.fail("fetched"))
    assert [one.accepted for one in datasets.listed(tmp_path)] == ["", "", "", ""]


@pytest.mark.parametrize(
    "name", ["elpv_dataset/data/images/../../../escaped", "elpv_dataset/data/../../escaped", "/tmp/escaped", "../escaped"]
)
def test_a_name_that_climbs_out_writes_nothing_outside(tmp_path: Path, name: str):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    install(inner, lambda folder: package(folder, (name, "evil")))
    assert not [p for p in tmp_path.rglob("escaped")]


def test_a_package_with_missing_labels_leaves_nothing(tmp_path: Path):
    with pytest.raises(DatasetError, match="nothing was installed"):
        install(tmp_path, lambda folder: package(folder, labels=7))
    assert not (tmp_path / "elpv").exists()


def test_a_disk_with_too_little_room_is_told_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    with pytest.raises(DatasetError, match=r"has 5 MB free; elpv needs \d+ MB"):
        install(tmp_path, lambda _: pytest.fail("fetched"))


def test_labs_can_read_it_whatever_the_umask(tmp_path: Path):
    before = os.umask(0o077)
    try:
        install(tmp_path, package)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "elpv").rglob("*")} == {"0o755", "0o644"}


def test_what_a_killed_command_left_behind_is_cleared_a_day_later(tmp_path: Path):
    old, young = tmp_path / ".elpv-old", tmp_path / ".elpv-young"
    for folder, age in ((old, 2 * 86400), (young, 60)):
        folder.mkdir()
        os.utime(folder, times=(time.time() - age,) * 2)
    install(tmp_path, package)
    assert {path.name for path in tmp_path.iterdir()} == {".elpv-young", "elpv", "licences-accepted.jsonl"}


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path):
    def full(folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DatasetError, match="The disk is full"):
        install(tmp_path, full)
    assert [path.name for path in tmp_path.iterdir()] == ["licences-accepted.jsonl"]


def test_whoever_installs_at_the_same_time_does_not_fail(tmp_path: Path):
    def slower(folder: Path) -> Path:
        install(tmp_path, package)
        return package(folder)

    assert "elpv" in install(tmp_path, slower)
    assert datasets.problems(tmp_path / "elpv") == []


# --- bearings and solar-thermal


def sdist(path: Path, contents: dict[str, str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def bearings(folder: Path, *, healthy: int = 3) -> Path:
    names = [f"baseline_{n}" for n in range(healthy)] + [f"OuterRaceFault_vload_{n}" for n in range(10)]
    names += [f"InnerRaceFault_vload_{n}" for n in range(7)]
    known = dict.fromkeys(unpack._BEARING_KEYS.values(), 25.0)
    contents = {"p-1/data/real_bearings/train/../../../../escaped.mat/..": "evil", "p-1/setup.py": "raise SystemExit"}
    for number, name in enumerate(names):
        part = "train" if number % 2 else "test"
        contents[f"p-1/data/real_bearings/{part}/{name}.mat"] = f"record {name}"
        contents[f"p-1/data/signals/real_{part}/{name}_metadata.json"] = json.dumps(known)
    return sdist(folder / "p-1.tar.gz", contents)


def test_bearings_are_unpacked_with_what_is_known_about_each(tmp_path: Path):
    install(tmp_path, bearings, "bearings")
    folder = tmp_path / "bearings"
    index = json.loads((folder / "index.json").read_text())
    assert len(index["records"]) == 20
    first = index["records"][0]
    assert (first["name"], first["condition"]) == ("InnerRaceFault_vload_0", "inner race")
    assert (folder / first["file"]).read_text() == "record InnerRaceFault_vload_0"
    assert {"sampling_rate_hz", "shaft_hz", "bpfo_hz", "unit"} < set(first)
    assert "NonCommercial" in (folder / "LICENCE.md").read_text()
    assert datasets.problems(folder) == []
    assert not list(tmp_path.rglob("escaped*"))
    assert not list(folder.rglob("*.py"))


def test_bearings_of_another_number_are_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="not the 20 records"):
        install(tmp_path, lambda folder: bearings(folder, healthy=4), "bearings")
    assert not (tmp_path / "bearings").exists()


def solar(folder: Path, leave_out: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "s-1-py3-none-any.whl", "w") as archive:
        for theirs in unpack._SOLAR_FILES:
            if theirs != leave_out:
                archive.writestr(f"sunpeek_exampledata/{theirs}", theirs)
        archive.writestr("s-1.dist-info/licenses/LICENSE", "CC-BY-SA 4.0")
        archive.writestr("s-1.dist-info/licenses/AUTHORS.md", "authors")
    return folder / "s-1-py3-none-any.whl"


def test_solar_thermal_needs_no_acceptance_and_names_its_authors(tmp_path: Path):
    wanted = catalogue.entry("solar-thermal")
    said = datasets.install(wanted, wanted.package, tmp_path, "", fetch=lambda _, keep: solar(keep))
    assert said == f"solar-thermal: {tmp_path / 'solar-thermal'} (CC-BY-SA-4.0)"
    folder = tmp_path / "solar-thermal"
    plants = json.loads((folder / "index.json").read_text())["plants"]
    assert all((folder / plant["file"]).is_file() and (folder / plant["config"]).is_file() for plant in plants)
    assert (folder / "AUTHORS.md").is_file()
    assert datasets.problems(folder) == []
    assert not (tmp_path / state.ACCEPTED).exists()


def test_solar_thermal_without_a_file_is_refused(tmp_path: Path):
    gone = next(iter(unpack._SOLAR_FILES))
    with pytest.raises(DatasetError, match=r"lacks what becomes plants/fhw\.csv"):
        install(tmp_path, lambda folder: solar(folder, gone), "solar-thermal")


# --- fetching, by pip from a folder that stands for the index


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def hostile(index: Path) -> catalogue.Package:
    """A source distribution that leaves a trace if any of its code runs."""
    trace = f"open({str(index.parent / 'ran')!r}, 'w').close()"
    path = sdist(
        index / "some_data-1.0.tar.gz",
        {
            "some_data-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\n",
            "some_data-1.0/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "setuptools.build_meta"\n',
            "some_data-1.0/setup.py": trace,
            "some_data-1.0/data/a.mat": "numbers",
        },
    )
    return catalogue.Package("some-data", "1.0", path.name, packages.sha256(path), path.stat().st_size)


def test_a_source_distribution_is_fetched_without_running_it(index: Path, tmp_path: Path):
    wanted = hostile(index)
    found = packages.fetched(wanted, tmp_path / "keep")
    assert packages.sha256(found) == wanted.sha256
    assert not (tmp_path / "ran").exists()
    assert [str(path) for path, _ in packages.members(found)][-1] == "some_data-1.0/data/a.mat"


def test_another_file_of_that_name_is_refused_and_not_kept(index: Path, tmp_path: Path):
    wanted = replace(hostile(index), sha256="0" * 64)
    with pytest.raises(DatasetError, match="could not be fetched"):
        packages.fetched(wanted, tmp_path / "keep")
    assert files(tmp_path / "keep") == set()


def test_an_index_that_is_away_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    wanted = catalogue.entry("elpv").package
    with pytest.raises(DatasetError) as caught:
        packages.fetched(wanted, tmp_path / "keep")
    assert "The package elpv-dataset could not be fetched" in caught.value.sentence
    assert "reaches a Python package index" in caught.value.what_to_do


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x1f\x8b no archive"])
@pytest.mark.parametrize("name", ["a.whl", "a.tar.gz"])
def test_what_is_no_archive_is_a_sentence(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        list(packages.members(tmp_path / name))


def test_a_get_that_was_killed_goes_on_and_fetches_nothing_twice(index: Path, tmp_path: Path):
    folder = tmp_path / "datasets"
    folder.mkdir()
    solar(index)
    wheel = index / "sunpeek_exampledata-0.2.1-py3-none-any.whl"
    with zipfile.ZipFile(index / "s-1-py3-none-any.whl") as old, zipfile.ZipFile(wheel, "w") as new:
        for name in old.namelist():
            new.writestr(name.replace("s-1.dist-info", "sunpeek_exampledata-0.2.1.dist-info"), old.read(name))
        new.writestr(
            "sunpeek_exampledata-0.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: sunpeek-exampledata\nVersion: 0.2.1\n"
        )
        new.writestr("sunpeek_exampledata-0.2.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    wanted = catalogue.entry("solar-thermal")
    package = replace(wanted.package, sha256=packages.sha256(wheel))
    script = f"""
        import os, signal
        from dataclasses import replace
        from pathlib import Path
        from spawner import datasets
        from spawner.datasets import unpack
        unpack._write = lambda content, path: os.kill(os.getpid(), signal.SIGKILL)
        wanted = datasets.entry("solar-thermal")
        package = replace(wanted.package, sha256={package.sha256!r})
        datasets.install(wanted, package, Path({str(folder)!r}), "")
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -9
    assert not (folder / "solar-thermal").exists()
    wheel.unlink()
    assert "was there" not in datasets.install(wanted, package, folder, "")
    assert datasets.problems(folder / "solar-thermal") == []
    assert not (folder / ".solar-thermal-download").exists()


# --- list and verify


def test_the_list_says_what_is_installed(config: LabConfig):
    install(config.mounts.datasets, package)
    told = {one.entry.name: one.as_json() for one in datasets.listed(config.mounts.datasets)}
    assert list(told) == list(datasets.NAMES)
    assert {name for name, one in told.items() if one["installed"]} == {"elpv"}
    assert {name for name, one in told.items() if one["asks_for_acceptance"]} == {"elpv", "bearings"}
    assert all(one["purpose"] and one["licence"] and one["source"] and one["size_bytes"] for one in told.values())
    assert told["elpv"]["sha256"] == packages.sha256(config.mounts.datasets / "elpv" / "SHA256SUMS")


def test_damage_is_named_file_by_file(tmp_path: Path):
    install(tmp_path, package)
    folder = tmp_path / "elpv"
    (folder / "images" / "cell0000.png").write_text("other")
    (folder / "images" / "cell0001.png").unlink()
    (folder / "images" / "more.png").write_text("more")
    assert datasets.problems(folder) == [
        "images/more.png is not part of the data set",
        "images/cell0000.png was changed",
        "images/cell0001.png is missing",
    ]
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe")
    assert "SHA256SUMS cannot be read" in datasets.problems(folder)[0]
    (folder / "SHA256SUMS").write_text("nonsense\n")
    assert "not a list of checksums" in datasets.problems(folder)[0]


def test_a_folder_is_looked_through_in_the_image_as_the_labs_user(config: LabConfig, tmp_path: Path):
    runner = Runner(1, "a.png: is bad\n/x has 1 problem in 2 images.\n")
    assert datasets.check_layout(tmp_path, "yolo", config, runner) == (False, ["a.png: is bad", "/x has 1 problem in 2 images."])
    (asked,) = runner.asked
    assert asked["mounts"] == (Mount(str(tmp_path), "/workspace/data", read_only=True),)
    assert asked["user"] == f"{config.limits.uid}:{config.limits.gid}"
    assert asked["command"][-4:] == ["--called", str(tmp_path), "--layout", "yolo"]
