from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from defectlab import store
from defectlab.model import DefectNet, LiteDefectNet, Network
from defectlab.store import StoreError

CARD = {"threshold": 0.5, "data": {"name": "textures", "digest": "abc"}}


@pytest.mark.parametrize("kind", [lambda: DefectNet(width=8), LiteDefectNet], ids=["small", "lite"])
def test_a_model_comes_back_as_it_was(tmp_path: Path, kind: Callable[[], Network]) -> None:
    torch.manual_seed(0)
    model, images = kind().eval(), torch.rand(3, 1, 48, 48)
    path = store.save(model, tmp_path / "models", "ana-first", CARD)
    again, card = store.load(path)
    assert torch.equal(model(images)[0], again(images)[0])
    assert card["threshold"] == 0.5
    assert card["data"] == CARD["data"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["ana-first.json", "ana-first.pt"]


def test_the_card_names_its_weights_by_their_checksum(tmp_path: Path) -> None:
    path = store.save(DefectNet(width=8), tmp_path, "ana-first", CARD)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["file"] == "ana-first.pt"
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["made_with"]["torch"] == torch.__version__


def test_a_failure_leaves_the_former_model_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.save(DefectNet(width=8), tmp_path, "ana-first", CARD)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="is full, so the model was not written"):
        store.save(DefectNet(width=8), tmp_path, "ana-first", CARD)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    store.load(path)


def test_a_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="set GPULAB_MODELS to another folder"):
            store.save(DefectNet(width=8), tmp_path, "ana-first", CARD)
    finally:
        tmp_path.chmod(0o700)


def test_different_people_have_different_files_whatever_they_are_called() -> None:
    names = {store.file_name(user, "first") for user in ("ana", "Ana", "a/na", "a%2Fna", "../ana", "ana@line-3", "ána")}
    assert len(names) == 7
    assert all("/" not in name for name in names)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/evil",)


def test_a_file_that_is_no_model_is_refused_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(b"\x80noise")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"weights": {}}, tmp_path / "other.pt")
    for name in ("noise", "evil", "other"):
        with pytest.raises(StoreError, match="cannot be read as a model of this library"):
            store.load(tmp_path / f"{name}.pt")
    with pytest.raises(StoreError, match="There is no model"):
        store.load(tmp_path / "none.pt")
    assert not Path("/tmp/evil").exists()
