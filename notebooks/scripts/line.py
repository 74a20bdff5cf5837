"""What runs at the line: pictures in, verdicts out. Needs onnxruntime, numpy and pillow, and neither PyTorch nor this lab.

    python line.py MODEL.onnx KEY PICTURE…

Refuses a model whose manifest is not sealed with the key, or that was changed since. Prints one line of JSON per picture, and
ends with 0 if all are good, 1 if there was an alarm, 2 if something could not be done.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image


class Refused(Exception):
    """One sentence for a person."""


def manifest_of(model: Path, key: bytes) -> dict[str, Any]:
    """The manifest, if it is sealed and the model is the one it was made for."""
    try:
        content: dict[str, Any] = json.loads(model.with_name(f"{model.name}.manifest.json").read_text("utf-8"))
        seal = str(content.pop("seal"))
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        sums = {entry["file"]: entry["sha256"] for entry in content["files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"The manifest of {model} cannot be read ({type(error).__name__}).") from error
    if not hmac.compare_digest(hmac.new(key, text.encode(), hashlib.sha256).hexdigest().encode(), seal.encode()):
        raise Refused(f"The manifest of {model} is not sealed with this key, or was changed.")
    if hashlib.sha256(model.read_bytes()).hexdigest() != sums.get(model.name):
        raise Refused(f"{model} is not the file that was sealed.")
    return content


def picture(path: Path, contract: dict[str, Any]) -> np.ndarray:
    """A picture as the model wants it."""
    try:
        with Image.open(path) as file:
            grey = file.convert("L")
    except OSError as error:
        raise Refused(f"{path} is no picture ({error}).") from error
    size = (contract["width"], contract["height"])
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BOX)
    return np.asarray(grey, dtype=contract["dtype"])[None, None]


def main(words: list[str]) -> int:
    """Judge pictures."""
    if len(words) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        model, key = Path(words[0]), bytes.fromhex(Path(words[1]).read_text("ascii"))
        about = manifest_of(model, key)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        alarms = 0
        for name in words[2:]:
            began = time.perf_counter()
            scores, _ = session.run(["scores", "maps"], {"images": picture(Path(name), about["contract"])})
            alarm = bool(scores[0] >= about["threshold"])
            alarms += alarm
            took = 1000 * (time.perf_counter() - began)
            print(json.dumps({"picture": name, "score": float(scores[0]), "alarm": alarm, "ms": round(took, 2)}))
    except (Refused, OSError, ValueError) as error:
        print(f"line: {error}", file=sys.stderr)
        return 2
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
