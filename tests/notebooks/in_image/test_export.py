from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from defectlab import export
from defectlab.export import ExportError
from defectlab.model import DefectNet, FourSides, LiteDefectNet, Network

SIZE = (64, 96)
WAYS: dict[str, tuple[str, Callable[..., Path], Callable[[Path], export.Run]]] = {
    "onnx": ("model.onnx", export.to_onnx, export.open_onnx),
    "onnx of old": ("model.onnx", lambda *words: export.to_onnx(*words, dynamo=False), export.open_onnx),
    "torch.export": ("model.pt2", export.to_exported, export.open_torch),
    "torchscript": ("model.ts", export.to_torchscript, export.open_torch),
}


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *SIZE), dtype=np.uint8)


@pytest.fixture(scope="module", params=["small", "lite"])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    made: Network = DefectNet(width=8) if request.param == "small" else LiteDefectNet()
    # Statistics as after training, so that a norm left in training mode would show.
    made.train()
    with torch.no_grad():
        for _ in range(3):
            made(torch.rand(4, 1, *SIZE))
    return made


@pytest.mark.parametrize("way", list(WAYS))
def test_a_file_says_what_the_network_says(network: Network, way: str, tmp_path: Path) -> None:
    name, write, read = WAYS[way]
    path = write(network, tmp_path / name, SIZE)
    assert [found.name for found in tmp_path.iterdir()] == [name], "one file, nothing beside it"
    run, reference = read(path), export.of_network(network)
    found = export.compare(run, reference, pictures(7), most=1e-4)
    assert (found.images, found.flips) == (7, 0)
    scores, maps = run(pictures(1))
    assert scores.shape == (1,)
    assert maps.shape == (1, SIZE[0] // 8, SIZE[1] // 8)
    assert ((maps >= 0) & (maps <= 1)).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_compiled_file_says_what_the_network_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DefectNet(width=8)
    run = export.open_compiled(export.to_compiled(network, tmp_path / "model.pt2", SIZE))
    found = export.compare(run, export.of_network(network), pictures(7), most=1e-4)
    assert (found.images, found.flips) == (7, 0)


def test_exporting_leaves_the_network_as_it_was(network: Network, tmp_path: Path) -> None:
    assert network.training
    before = {key: value.clone() for key, value in network.state_dict().items()}
    export.to_onnx(network, tmp_path / "a.onnx", SIZE)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_file_that_says_something_else_is_refused(network: Network) -> None:
    reference = export.of_network(network)

    def wrong(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, maps = reference(images)
        return scores + 0.01, maps

    with pytest.raises(ExportError, match=r"differs from the network by up to 0\.01, more than 0\.001: do not use it"):
        export.compare(wrong, reference, pictures(3))
    assert export.compare(wrong, reference, pictures(3), most=0.02).scores == pytest.approx(0.01, abs=1e-5)


def test_a_file_that_gives_nonsense_is_refused(network: Network) -> None:
    reference = export.of_network(network)
    with pytest.raises(ExportError, match="do not use it"):
        export.compare(lambda images: tuple(np.nan * part for part in reference(images)), reference, pictures(2))


def test_what_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="no model that onnxruntime can run: export it again"):
        export.open_onnx(tmp_path / "a.onnx")


def test_four_sides_go_out_as_one_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, square = FourSides(DefectNet(width=8)), np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)
    path = export.to_onnx(network, tmp_path / "a.onnx", (64, 64))
    assert export.compare(export.open_onnx(path), export.of_network(network), square, most=1e-4).flips == 0


def test_exporting_says_nothing_and_leaves_the_log_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    export.to_onnx(DefectNet(width=8), tmp_path / "a.onnx", (64, 64))
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    assert capfd.readouterr() == ("", "")
    logging.getLogger("somebody").warning("still heard")
    assert "still heard" in caplog.text


def test_a_picture_that_cannot_be_written_to_is_no_matter() -> None:
    frozen = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    frozen.setflags(write=False)
    assert export.of_network(DefectNet(width=8))(frozen)[0].shape == (2,)
