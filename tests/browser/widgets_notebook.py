"""The notebook that the browser tests of the widgets open: one part per cell, on a few drawn images and made-up scores."""

from __future__ import annotations

from typing import Any

PREPARE = """
from pathlib import Path
import time
import numpy as np
from scipy import ndimage
from defectlab import data, labeller, labels, monitor, panel, textures, widgets
from defectlab.train import History, Progress

folder, _ = textures.write(Path.home() / "data", textures.Recipe(per_tile=4), name="few", progress=False)
few = data.load(folder, progress=False)
rng = np.random.default_rng(0)
scores = 0.45 * few.labels + 0.55 * rng.random(len(few))
maps = np.stack([ndimage.gaussian_filter(mask.astype(np.float32), 6)[::8, ::8] for mask in few.masks])
print(len(few))
"""
PANEL = "panel.LabPanel()"
THRESHOLD = "widgets.ThresholdSlider(few, scores)"
MASKS = """
widgets.MaskViewer(few, scores, maps, {"defects": [int(i) for i in np.argsort(-scores) if few.labels[i]]})
"""
LABELS = """
kept = labels.LabelFile(Path.home() / "labels.jsonl", few)
labeller.Labeller(few, range(5), kept, by="ana")
"""
# Steps of a twentieth of a second, an hour in all: it ends when somebody stops it.
MONITOR = """
def work(watch):
    history, steps, began = History(), 72_000, time.perf_counter()
    for step in range(1, steps + 1):
        epoch = 1 + step // 40
        loss = 1.0 / (1 + step / 100)
        seconds = time.perf_counter() - began
        watch(Progress(epoch, steps // 40, step, steps, loss, loss if epoch > 1 else None, seconds, step / seconds))
        time.sleep(0.05)
    return history

training = monitor.start(work, log="run.jsonl")
widgets.TrainingMonitor(training)
"""
WAIT = """
history = await training.finished()
"""
CELLS = (PREPARE, PANEL, THRESHOLD, MASKS, LABELS, MONITOR, WAIT)


def notebook() -> dict[str, Any]:
    """The notebook as Jupyter's file format has it."""
    cells = [
        {"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": code.strip()}
        for i, code in enumerate(CELLS)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}
