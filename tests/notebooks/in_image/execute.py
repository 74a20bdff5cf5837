"""Execute a starter notebook as it lies in the image, and print the result as one line of JSON."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

source, changes = Path(sys.argv[1]), sys.argv[2:]
notebook = nbformat.read(source, as_version=4)
for old, new in zip(changes[::2], changes[1::2], strict=True):
    cells = [cell for cell in notebook.cells if old in cell.source]
    assert len(cells) == 1, f"{old!r} is in {len(cells)} cells"
    cells[0].source = cells[0].source.replace(old, new)
began = time.monotonic()
try:
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": "/tmp"}}).execute()
except CellExecutionError as error:
    notebook.metadata["error"] = str(error)
notebook.metadata["seconds"] = round(time.monotonic() - began, 1)
peak = Path("/sys/fs/cgroup/memory/memory.max_usage_in_bytes"), Path("/sys/fs/cgroup/memory.peak")
notebook.metadata["peak_bytes"] = next((int(path.read_text()) for path in peak if path.exists()), 0)
print("\n" + nbformat.writes(notebook, indent=None).replace("\n", " "))
