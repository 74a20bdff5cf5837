"""Execute a starter notebook as it lies in the image, and print the result as one line of JSON.

Its metadata get the error if there was one, the seconds, the most memory in use, and the figures that the notebook recorded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
from defectlab import usage
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

LOOK_SECONDS = 0.1


def watch(most: list[int], over: threading.Event) -> None:
    """Keep the most memory in use. The kernel's own maximum would count every file that was ever read, too."""
    while not over.wait(LOOK_SECONDS):
        most[0] = max(most[0], usage.memory() or 0)


source, changes = Path(sys.argv[1]), sys.argv[2:]
notebook = nbformat.read(source, as_version=4)
for old, new in zip(changes[::2], changes[1::2], strict=True):
    cells = [cell for cell in notebook.cells if old in cell.source]
    assert len(cells) == 1, f"{old!r} is in {len(cells)} cells"
    cells[0].source = cells[0].source.replace(old, new)
figures = Path(os.environ.setdefault("GPULAB_FIGURES", str(Path(tempfile.mkdtemp()) / "figures.json")))
most, over = [0], threading.Event()
watcher = threading.Thread(target=watch, args=(most, over), daemon=True)
watcher.start()
began = time.monotonic()
try:
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": "/tmp"}}).execute()
except CellExecutionError as error:
    notebook.metadata["error"] = str(error)
notebook.metadata["seconds"] = round(time.monotonic() - began, 1)
over.set()
watcher.join()
notebook.metadata["peak_bytes"] = most[0]
notebook.metadata["figures"] = json.loads(figures.read_text()) if figures.exists() else {}
print("\n" + nbformat.writes(notebook, indent=None).replace("\n", " "))
