from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from defectlab import manifest
from defectlab.manifest import About, InputContract, ManifestError
from hypothesis import given
from hypothesis import strategies as st

KEY = bytes(range(32))
ABOUT = About(
    name="ana-line",
    data={"name": "textures", "digest": "abc", "licence": "CC0-1.0"},
    contract=InputContract(height=96, width=96),
    threshold=0.25,
    metrics={"auroc": 0.995, "test_images": 720},
    revision="defectlab-123",
    more={"kind": "onnx"},
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "line.onnx"
    path.write_bytes(b"a model")
    (tmp_path / "labels.txt").write_text("good\ndefective\n")
    return path


def sealed(model: Path) -> Path:
    return manifest.write(model, ABOUT, KEY, beside=[model.with_name("labels.txt")])


def test_a_manifest_says_everything_and_holds(model: Path) -> None:
    assert sealed(model).name == "line.onnx.manifest.json"
    found = manifest.verify(model, KEY)
    assert found["data"]["digest"] == "abc"
    assert found["contract"] == {
        "height": 96, "width": 96, "channels": 1, "dtype": "uint8", "low": 0, "high": 255, "resize": "box",
    }  # fmt: skip
    assert (found["threshold"], found["revision"], found["metrics"]["auroc"]) == (0.25, "defectlab-123", 0.995)
    assert [entry["file"] for entry in found["files"]] == ["line.onnx", "labels.txt"]
    assert found["made_with"]["torch"]


LEAVES = [
    ("threshold",),
    ("data", "digest"),
    ("metrics", "auroc"),
    ("contract", "height"),
    ("files", 0, "sha256"),
    ("seal",),
    ("made",),
]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: ".".join(map(str, leaf)))
def test_a_changed_fact_breaks_the_seal(model: Path, leaf: tuple[Any, ...]) -> None:
    path = sealed(model)
    content = json.loads(path.read_text())
    at = content
    for key in leaf[:-1]:
        at = at[key]
    at[leaf[-1]] = 0.3 if isinstance(at[leaf[-1]], float) else "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="not sealed with this key, or was changed since: do not use"):
        manifest.verify(model, KEY)


@pytest.mark.parametrize("name", ["line.onnx", "labels.txt"])
@pytest.mark.parametrize("harm", ["change", "remove"])
def test_a_changed_file_is_told(model: Path, name: str, harm: str) -> None:
    sealed(model)
    victim = model.with_name(name)
    victim.unlink() if harm == "remove" else victim.write_bytes(b"another")
    with pytest.raises(ManifestError, match=f"{name} is missing, or is not the file that was sealed"):
        manifest.verify(model, KEY)


def test_another_key_is_no_key(model: Path) -> None:
    sealed(model)
    with pytest.raises(ManifestError, match="not sealed with this key"):
        manifest.verify(model, bytes(32))


def test_a_manifest_does_not_vouch_for_another_model(model: Path) -> None:
    path = sealed(model)
    other = model.with_name("other.onnx")
    other.write_bytes(b"a model")
    path.rename(other.with_name("other.onnx.manifest.json"))
    with pytest.raises(ManifestError, match=r"of another model than other\.onnx"):
        manifest.verify(other, KEY)
    with pytest.raises(ManifestError, match="There is no manifest"):
        manifest.verify(model, KEY)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', "\x00"])
def test_what_is_no_manifest_is_refused(model: Path, content: str) -> None:
    sealed(model).write_text(content)
    with pytest.raises(ManifestError, match="do not use the model"):
        manifest.verify(model, KEY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(content=st.dictionaries(st.text(), JSON, max_size=4), key=st.binary(min_size=32, max_size=32))
def test_a_seal_survives_being_written_and_read(content: dict[str, Any], key: bytes) -> None:
    again = json.loads(json.dumps(content, indent=3, ensure_ascii=False))
    assert manifest._seal(again, key) == manifest._seal(content, key)
    assert manifest._seal({**content, "threshold!": 1}, key) != manifest._seal(content, key)


def test_what_is_no_number_is_never_sealed(model: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest.write(model, dataclasses.replace(ABOUT, threshold=float("nan")), KEY)


def test_files_elsewhere_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    stray = tmp_path / "sub" / "labels.txt"
    stray.write_text("good")
    with pytest.raises(ManifestError, match="put it beside the model"):
        manifest.write(model, ABOUT, KEY, beside=[stray])
    with pytest.raises(ManifestError, match="export the model first"):
        manifest.write(model.with_name("none.onnx"), ABOUT, KEY)


def test_a_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "line.key"
    key = manifest.key_from(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert manifest.key_from(path) == key
    assert manifest.key_from(tmp_path / "other.key") != key
    path.chmod(0o644)
    with pytest.raises(ManifestError, match="chmod 600"):
        manifest.key_from(path)


@pytest.mark.parametrize("content", ["", "abcd", "no hex digits", "\u00e9"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "line.key"
    path.write_text(content, "utf-8")
    path.chmod(0o600)
    with pytest.raises(ManifestError, match="is no key of 32 bytes"):
        manifest.key_from(path)


def test_the_revision_changes_with_the_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    one = manifest.revision(tmp_path)
    assert one.startswith("defectlab-")
    assert manifest.revision(tmp_path) == one
    os.replace(tmp_path / "a.py", tmp_path / "b.py")
    assert manifest.revision(tmp_path) != one
