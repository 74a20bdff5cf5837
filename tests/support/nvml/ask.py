"""The asked process: prints what `spawner.inventory` says as JSON, with the stand-in as its NVML.

Argument: `{"node": …}` for the NVML inventory, with `{"lab": path of lab.yaml, "pci": folder}` for the one that is detected.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path

import pynvml

from spawner import labfile
from spawner.errors import LabError
from spawner.inventory import Inventory, NvmlInventory, detect


def choose(question: dict[str, str]) -> Inventory:
    if "lab" not in question:
        return NvmlInventory(question["node"])
    return detect(labfile.load(question["lab"]), node=question["node"], pci=Path(question["pci"]))


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    inventory = choose(json.loads(sys.argv[1]))
    gpus, error = [], None
    try:
        gpus = [dataclasses.asdict(gpu) for gpu in inventory.gpus()]
    except LabError as found:
        error = found.message
    sessions = pynvml.nvmlLib.standin_sessions() if pynvml.nvmlLib else 0
    print(json.dumps({"gpus": gpus, "error": error, "kind": type(inventory).__name__, "sessions": sessions}))


main()
