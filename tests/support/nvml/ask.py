"""The asked process: answers what `spawner.inventory` says as a line of JSON, for each line of JSON that it reads.

The first question says which inventory: `{"node": …}` for NVML's, with `{"lab": path of lab.yaml, "pci": folder}` for the one
that is detected. Each asks for the GPUs, and with `"at": moment` (and `"known": [UUID, …]`) for samples, with `"links": true` for
their closeness, with `"wait": seconds` for what the driver reports, and with `"close": true` for the watcher's end.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pynvml

from spawner import labfile
from spawner.errors import LabError
from spawner.inventory import Inventory, NvmlInventory, Watcher, detect


def choose(question: dict[str, Any]) -> Inventory:
    if "lab" not in question:
        return NvmlInventory(question["node"])
    return detect(labfile.load(question["lab"]), node=question["node"], pci=Path(question["pci"]))


def answer(question: dict[str, Any], inventory: Inventory, watcher: Watcher) -> dict[str, Any]:
    said: dict[str, Any] = {"gpus": [], "samples": [], "links": [], "reports": [], "error": None}
    try:
        if "at" in question:
            found = inventory.samples(datetime.fromisoformat(question["at"]), question.get("known", ()))
            said["samples"] = [dataclasses.asdict(sample) for sample in found]
        if "links" in question:
            said["links"] = [(sorted(pair), close) for pair, close in inventory.links().items()]
        if "wait" in question:
            said["reports"] = [(uuid, dataclasses.asdict(fault)) for uuid, fault in watcher.wait(question["wait"])]
        if "close" in question:
            watcher.close()
        said["gpus"] = [dataclasses.asdict(gpu) for gpu in inventory.gpus()]
    except LabError as error:
        said["error"] = error.message
    sessions = pynvml.nvmlLib.standin_sessions() if pynvml.nvmlLib else 0
    return {**said, "kind": type(inventory).__name__, "sessions": sessions}


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    inventory: Inventory | None = None
    for line in sys.stdin:
        question = json.loads(line)
        if inventory is None:
            inventory = choose(question)
            watcher = inventory.watch()
        print(json.dumps(answer(question, inventory, watcher), default=str), flush=True)


main()
