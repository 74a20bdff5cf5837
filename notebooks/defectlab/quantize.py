"""A model in eight-bit numbers: smaller and quicker on a CPU, and a little less exact.

Owns the way from an ONNX file in fp32 to one in int8, calibrated on images. Never says that the result is good: compare it on
images with `metrics`, as its probabilities are other ones than before.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defectlab.export import INPUT

_BATCH = 8


class _Reader:
    """Gives the calibration its images, a few at a time, as onnxruntime asks for them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter(np.array_split(images[:, None], max(1, len(images) // _BATCH)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def to_int8(source: Path, path: Path, images: NDArray[np.uint8]) -> Path:
    """Write an int8 version of an ONNX file.

    Weights get a scale per channel, activations one that fits the calibration images. Only convolutions become int8: they are
    where the time goes, and the sums and sigmoids at the end are where exactness counts.

    Args:
        source: the file in fp32, from `export.to_onnx`.
        path: the new file.
        images: some hundred training images, good and defective, `(n, height, width)`. Never test images.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _silent():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(path), _reader(images), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=False,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
            calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
    return path


def _reader(images: NDArray[np.uint8]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(_Reader, CalibrationDataReader):  # type: ignore[misc]
        """The same, as one of onnxruntime's own kind."""

    return Reader(images)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the tool's advice to do what was just done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
