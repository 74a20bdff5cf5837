import os
import subprocess
from pathlib import Path

import pytest

from spawner import probe, vault
from spawner.errors import MountError, VaultError


def test_secret_is_made_once_and_private(tmp_path: Path):
    folder = tmp_path / "secrets"
    first = vault.secret(folder, "token")
    assert first == vault.secret(folder, "token")
    assert first != vault.secret(folder, "other")
    assert len(first) == 64
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["other", "token"]


@pytest.mark.parametrize("text", ["", "short", "x" * 64, "0" * 63, "ü" * 64])
def test_half_a_secret_is_refused_and_not_used(tmp_path: Path, text: str):
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    (folder / "token").write_text(text)
    with pytest.raises(VaultError):
        vault.secret(folder, "token")


def test_open_folder_is_refused_with_the_command_that_mends_it(tmp_path: Path):
    tmp_path.chmod(0o755)
    with pytest.raises(VaultError, match="chmod 700"):
        vault.secret(tmp_path, "token")


def test_folder_that_answers_passes(tmp_path: Path):
    probe.require_folders([tmp_path], 5)


def test_missing_folder_and_file_are_named(tmp_path: Path):
    with pytest.raises(MountError, match=r"none is missing"):
        probe.require_folders([tmp_path, tmp_path / "none"], 5)
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="not a folder"):
        probe.require_folders([tmp_path / "file"], 5)


def test_folder_that_hangs_costs_no_more_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A child that never answers stands for `test -d` inside a dead NFS mount.
    hanging: list[subprocess.Popen[bytes]] = []

    def look(folder: Path) -> subprocess.Popen[bytes]:
        read, _write = os.pipe()
        hanging.append(subprocess.Popen(["cat"], stdin=read))
        return hanging[-1]

    monkeypatch.setattr(probe, "_look", look)
    with pytest.raises(MountError, match=r"did not answer within 0.2 s"):
        probe.require_folders([tmp_path], 0.2)
    hanging[0].wait(10)


def test_space_is_asked_of_the_real_file_system(tmp_path: Path):
    probe.require_space(tmp_path, 1)
    with pytest.raises(MountError, match="disk is full"):
        probe.require_space(tmp_path, 1 << 60)
    with pytest.raises(MountError, match="cannot be looked at"):
        probe.require_space(tmp_path / "none", 1)
