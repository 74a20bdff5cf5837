"""A trained network as a file that runs without this library.

Owns three ways out and the check that each gives the same numbers. Never trains, and never calls a file good that it has not
compared with the network it came from.

    onnx          first choice: the line needs onnxruntime, numpy and pillow, and no PyTorch
    exported      `torch.export`: a graph for PyTorch's own runtimes; AOTInductor compiles it for one machine
    torchscript   legacy: works, but PyTorch has deprecated it since 2.11; for lines that already run libtorch

What goes out has one input, `images`, grey images of 0 to 255 in uint8 as a camera gives them, `(n, 1, height, width)`; and two
outputs, `scores` `(n,)` and `maps` `(n, h, w)`, both 0 to 1. Scaling is part of the file, so the line cannot get it wrong.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

INPUT, OUTPUTS = "images", ("scores", "maps")
OPSET = 18
Run = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]


class ExportError(Exception):
    """A network cannot be exported, or its file says something else; one sentence for a person, with what to do."""


class Line(nn.Module):
    """A network as the line sees it: grey levels in, probabilities out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images of 0 to 255, `(n, 1, height, width)`."""
        scores, maps = self.network(images.float() / 255.0)
        return scores.sigmoid(), maps.sigmoid()


@dataclass(frozen=True, slots=True)
class Equality:
    """How far a file's numbers are from the network's.

    Attributes:
        images: how many were compared.
        scores, maps: greatest difference of a probability.
        flips: images on different sides of the threshold, where one was given.
    """

    images: int
    scores: float
    maps: float
    flips: int


def to_onnx(network: nn.Module, path: Path, size: tuple[int, int], *, dynamo: bool = True) -> Path:
    """Write ONNX with a free number of images per call.

    Args:
        network: the trained network.
        path: the file, ending in `.onnx`.
        size: height and width of an image.
        dynamo: the exporter; always said, because its default changed in PyTorch 2.9.
    """
    line, example = _ready(network), _example(size)
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": list(OUTPUTS), "opset_version": OPSET}
    if dynamo:
        shapes = {INPUT: {0: torch.export.Dim("batch", min=1, max=1024)}}
        names |= {"dynamo": True, "dynamic_shapes": shapes, "external_data": False, "verbose": False, "optimize": True}
    else:
        names |= {"dynamo": False, "dynamic_axes": {name: {0: "batch"} for name in (INPUT, *OUTPUTS)}}
    with _quiet():
        torch.onnx.export(line, (example,), str(path), **names)
    return path


def to_exported(network: nn.Module, path: Path, size: tuple[int, int]) -> Path:
    """Write what `torch.export` made, ending in `.pt2`."""
    torch.export.save(_program(network, size), path)
    return path


def to_compiled(network: nn.Module, path: Path, size: tuple[int, int]) -> Path:
    """Compile with AOTInductor for this very kind of machine, ending in `.pt2`; needs a C++ compiler and some minutes."""
    with _quiet():
        return Path(str(torch._inductor.aoti_compile_and_package(_program(network, size), package_path=str(path))))


def to_torchscript(network: nn.Module, path: Path, size: tuple[int, int]) -> Path:
    """Write TorchScript, ending in `.ts`. Legacy: take ONNX unless the line runs libtorch already."""
    with _quiet():
        traced = torch.jit.trace(_ready(network), _example(size))
        torch.jit.freeze(traced).save(str(path))
    return path


def open_onnx(path: Path, threads: int = 1) -> Run:
    """A file as a function of grey images `(n, height, width)`, on a number of CPU threads.

    Raises:
        ExportError: it is no ONNX file that onnxruntime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that wait by spinning take the CPU from the others on the host.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"{path} is no model that onnxruntime can run: export it again ({type(error).__name__}).") from error

    def run(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scores, maps = session.run(list(OUTPUTS), {INPUT: images[:, None]})
        return np.asarray(scores, np.float32), np.asarray(maps, np.float32)

    return run


def open_torch(path: Path) -> Run:
    """A `.pt2` or `.ts` file as such a function."""
    if path.suffix == ".ts":
        with _quiet():
            return _as_run(torch.jit.load(str(path)))
    return _as_run(torch.export.load(path).module())


def open_compiled(path: Path) -> Run:
    """What `to_compiled` wrote, as such a function."""
    with _quiet():
        return _as_run(torch._inductor.aoti_load_package(str(path)))


def of_network(network: nn.Module) -> Run:
    """The network itself as such a function: what every file is compared with."""
    return _as_run(_ready(network))


def compare(run: Run, reference: Run, images: NDArray[np.uint8], *, threshold: float = 0.5, most: float = 1e-3) -> Equality:
    """Whether two ways say the same about images; one by one and in batches, as a line may ask either way.

    Raises:
        ExportError: a probability differs by more than `most`.
    """
    expected = reference(images)
    got = run(images)
    single = run(images[:1])
    found = Equality(
        images=len(images),
        scores=float(max(np.abs(got[0] - expected[0]).max(), np.abs(single[0] - expected[0][:1]).max())),
        maps=float(max(np.abs(got[1] - expected[1]).max(), np.abs(single[1] - expected[1][:1]).max())),
        flips=int(((got[0] >= threshold) != (expected[0] >= threshold)).sum()),
    )
    if not max(found.scores, found.maps) <= most:
        raise ExportError(
            f"The file differs from the network by up to {max(found.scores, found.maps):.2g}, more than {most:g}: do not use it."
        )
    return found


def _ready(network: nn.Module) -> nn.Module:
    # A copy: an export must leave the network where it was, as it was.
    return Line(copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)).eval()  # type: ignore[call-overload]


def _example(size: tuple[int, int]) -> Tensor:
    # Two images: a batch of one would be taken for a constant.
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 1, *size), dtype=torch.uint8, generator=generator)


def _program(network: nn.Module, size: tuple[int, int]) -> torch.export.ExportedProgram:
    shapes = {INPUT: {0: torch.export.Dim("batch", min=1, max=1024)}}
    with torch.no_grad(), _quiet():
        return torch.export.export(_ready(network), (_example(size),), dynamic_shapes=shapes)


def _as_run(module: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Run:
    def run(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.no_grad():
            scores, maps = module(torch.from_numpy(np.array(images)).unsqueeze(1))
        return scores.numpy(), maps.numpy()

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own insides and, since 2.11, about TorchScript; the module's first words say so already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
