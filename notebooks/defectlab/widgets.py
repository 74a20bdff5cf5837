"""Parts of a notebook that answer: move a threshold, look through masks, watch a training.

Owns what is shown and what a movement of the hand changes. Never trains and never computes a figure of merit (`metrics` does).
Everything works by keyboard: Tab goes from part to part, the arrow keys move a slider, Space presses a button.

What a widget shows is kept by the kernel, so it is there again after the browser was reloaded, if the notebook had been saved
(Ctrl+S) since the cell ran. If not, run the cell again: the training goes on meanwhile, and is not begun twice. A cell that keeps
the kernel busy keeps widgets from answering; one that waits for a training by `await training.finished()` does not.
"""

from __future__ import annotations

import html
import io
import threading
from collections.abc import Sequence

import ipywidgets as ip
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from defectlab import metrics, monitor, pictures
from defectlab.data import DataSet
from defectlab.pictures import Grey
from defectlab.pixels import resized

_DEFECT = (213, 94, 0)
_MOST_SHOWN = 8
_SECONDS_BETWEEN_LOOKS = 0.5
_WIDE = {"description_width": "initial"}


# --- the threshold


class ThresholdSlider(ip.VBox):  # type: ignore[misc]
    """Precision, recall and false alarms at a threshold, and the images that are on the other side than where one began.

    An arrow key moves it to the next score, so that mostly one image changes sides; Page Up and Page Down go five scores, Home
    and End to the ends.

    Args:
        data: the images; take validation images, as whoever chooses by test images has none left to be judged by.
        scores: one per image.
        threshold: where to begin; None is where at most 1 % of the good parts raise an alarm.
    """

    def __init__(self, data: DataSet, scores: ArrayLike, threshold: float | None = None) -> None:
        self._data, self._scores = data, np.asarray(scores, dtype=np.float64)
        if threshold is None:
            threshold = metrics.threshold_for(data.labels, self._scores, 0.01)
        # Every position makes a difference: the slider goes from score to score and not along a ruler.
        self._steps = np.append(np.unique(self._scores), np.nextafter(self._scores.max(), np.inf))
        start = int(np.clip(np.searchsorted(self._steps, threshold), 0, len(self._steps) - 1))
        # The number of a step says nothing to anybody; the threshold itself stands in the table below.
        self._slider = ip.IntSlider(
            value=start, min=0, max=len(self._steps) - 1, description="Threshold", readout=False, style=_WIDE,
            layout={"width": "32rem"},
        )  # fmt: skip
        self._here = ip.Button(
            description="Compare from here", tooltip="Show from now on who changes sides against this threshold"
        )
        self._told, self._changed = ip.HTML(), ip.HTML()
        self._slider.observe(self._moved, names="value")
        self._here.on_click(self._anchored)
        self._from = self.threshold
        super().__init__([ip.HBox([self._slider, self._here]), self._told, self._changed])
        self._show()

    @property
    def threshold(self) -> float:
        """Where it stands."""
        return float(self._steps[self._slider.value])

    def _moved(self, _: object) -> None:
        self._show()

    def _anchored(self, _: object) -> None:
        self._from = self.threshold
        self._show()

    def _show(self) -> None:
        now = self.threshold
        self._told.value = told(metrics.confusion(self._data.labels, self._scores, now), now)
        changed = sides_changed(self._scores, self._from, now)
        shown = [
            (self._data.images[i], f"{self._data.records[i].kind}, {self._scores[i]:.3f}, {_verdict(self._scores[i] >= now)}")
            for i in changed[:_MOST_SHOWN]
        ]
        self._changed.value = pictures.row(shown, moved(self._data.labels, changed, self._from, now))


def moved(labels: NDArray[np.bool_], changed: NDArray[np.intp], before: float, after: float) -> str:
    """Which images changed sides between two thresholds, in words."""
    if not len(changed):
        return f"0 images changed sides against a threshold of {before:.4g}."
    gained = "raise an alarm only now" if after < before else "raise no alarm any more"
    defects = int(labels[changed].sum())
    most = f" The {_MOST_SHOWN} nearest to the threshold:" if len(changed) > _MOST_SHOWN else ""
    return (
        f"{len(changed)} image{'s' if len(changed) > 1 else ''} changed sides against a threshold of {before:.4g}: "
        f"{defects} defective and {len(changed) - defects} good ones {gained}.{most}"
    )


def told(counts: metrics.Confusion, threshold: float) -> str:
    """The figures at a threshold, as HTML."""
    alarms = counts.caught + counts.false_alarms
    precision = f"{counts.caught / alarms:.1%}" if alarms else "none, as there is no alarm"
    rows = [
        ("alarm from", f"{threshold:.4g}"),
        ("recall", f"{counts.recall:.1%} ({counts.caught} of {counts.defects} defects caught)"),
        ("precision", f"{precision} ({counts.caught} of {alarms} alarms are defects)"),
        ("false alarms", f"{counts.false_alarm_rate:.1%} ({counts.false_alarms} of {counts.good} good parts)"),
    ]
    body = "".join(f"<tr><th scope='row' style='text-align:left;padding-right:1em'>{a}</th><td>{b}</td></tr>" for a, b in rows)
    return f"<table role='status' aria-live='polite'>{body}</table>"


def sides_changed(scores: NDArray[np.float64], before: float, after: float) -> NDArray[np.intp]:
    """Images that have an alarm at one threshold and none at the other; the nearest to the new threshold first."""
    changed = np.flatnonzero((scores >= before) != (scores >= after))
    return changed[np.argsort(np.abs(scores[changed] - after), kind="stable")]


# --- the masks


class MaskViewer(ip.VBox):  # type: ignore[misc]
    """One image at a time: as it is, with its mask, and with the map of scores laid over it.

    Args:
        data: the images.
        scores: one per image; images are shown in this order, the highest first.
        maps: one per image, `(n, h, w)`; None where a model gives none.
        choices: indices by name, such as `{"missed": …, "false alarms": …}`; beside them there is "all".
    """

    def __init__(
        self,
        data: DataSet,
        scores: ArrayLike,
        maps: NDArray[np.float32] | None = None,
        choices: dict[str, Sequence[int]] | None = None,
    ) -> None:
        self._data, self._scores, self._maps = data, np.asarray(scores, dtype=np.float64), maps
        order = [int(i) for i in np.argsort(-self._scores, kind="stable")]
        self._choices = {"all": order, **{name: list(found) for name, found in (choices or {}).items()}}
        self._low, self._high = (0.0, 1.0) if maps is None else (float(maps.min()), float(maps.max()))
        names = [(f"{name} ({len(found)})", name) for name, found in self._choices.items()]
        self._which = ip.Dropdown(options=names, description="Show", style=_WIDE)
        # Counted from 1, as the choices say how many there are.
        self._number = ip.IntSlider(
            value=1, min=1, max=max(len(order), 1), description="Image", style=_WIDE, layout={"width": "32rem"}
        )
        self._opacity = ip.FloatSlider(value=0.5, min=0.0, max=1.0, step=0.05, description="Map's opacity", style=_WIDE)
        self._outline = ip.Checkbox(value=True, description="Outline of the mask", indent=False)
        self._picture = ip.HTML()
        self._which.observe(self._chosen, names="value")
        self._opacity.layout.display = "none" if maps is None else None
        self._outline.layout.display = "none" if data.masks is None else None
        for part in (self._number, self._opacity, self._outline):
            part.observe(self._moved, names="value")
        # What is moved most comes first by Tab.
        super().__init__([self._number, ip.HBox([self._which, self._opacity, self._outline]), self._picture])
        self._show()

    def _chosen(self, _: object) -> None:
        self._number.value = 1
        self._number.max = max(len(self._choices[self._which.value]), 1)
        self._show()

    def _moved(self, _: object) -> None:
        self._show()

    def _show(self) -> None:
        found = self._choices[self._which.value]
        if not found:
            self._picture.value = "<p role='status'>There is none.</p>"
            return
        i = found[min(self._number.value, len(found)) - 1]
        record, image = self._data.records[i], self._data.images[i]
        mask = self._data.masks[i] if self._outline.value and self._data.masks is not None else None
        share, over = np.zeros(image.shape, np.float32), "with mask"
        if self._maps is not None:
            share = resized(self._maps[i : i + 1], image.shape)[0]
            share, over = (share - self._low) / max(self._high - self._low, 1e-9), "with map and mask"
        what = f"{record.file}: {record.kind}, score {self._scores[i]:.3f}"
        both = [(image, "as it is"), (overlay(image, share, mask, self._opacity.value), over)]
        self._picture.value = pictures.row(both, what, side=288)


def overlay(image: Grey, share: NDArray[np.float32], mask: NDArray[np.bool_] | None, opacity: float) -> Grey:
    """A colour image: the map in warm colours over the image, and the outline of the mask.

    Args:
        image: grey, `(h, w)`.
        share: the map at the image's size, 0 to 1.
        mask: pixels of the defect; None draws no outline.
        opacity: of the map where it is highest.
    """
    warm = np.asarray(matplotlib.colormaps["inferno"](share))[..., :3] * 255.0
    weight = (opacity * np.clip(share, 0.0, 1.0))[..., None]
    mixed = image[..., None].astype(float) * (1.0 - weight) + warm * weight
    if mask is not None and mask.any():
        # Around the defect and not upon it: a scratch is thinner than the line.
        rim = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask, iterations=2)
        mixed[rim] = _DEFECT
    drawn: Grey = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return drawn


# --- the training


class TrainingMonitor(ip.VBox):  # type: ignore[misc]
    """How far a training is, when it will be done, and a button that stops it.

    Args:
        training: from `monitor.start`. There may be many monitors of one training.
    """

    def __init__(self, training: monitor.Training) -> None:
        self._training = training
        self._bar = ip.FloatProgress(value=0.0, min=0.0, max=1.0, description="Training", layout={"width": "32rem"})
        self._told, self._curve = ip.HTML(), ip.HTML()
        self._button = ip.Button(description="Stop", tooltip="Stop after this step; the checkpoint stays")
        self._button.on_click(self._pressed)
        self._drawn: tuple[float, ...] = ()
        super().__init__([ip.HBox([self._bar, self._button]), self._told, self._curve])
        self.refresh()
        threading.Thread(target=self._follow, name="monitor", daemon=True).start()

    def refresh(self) -> None:
        """Show how it is now."""
        state = self._training.state
        self._bar.value = state.progress.step / state.progress.steps if state.progress else 0.0
        self._bar.bar_style = {"done": "success", "failed": "danger", "stopped": "warning"}.get(state.word, "")
        if state.word == "done":
            self._bar.value = 1.0
        self._button.disabled = state.over or state.word == "stopping"
        self._told.value = f"<p role='status' aria-live='polite'>{html.escape(said(state))}</p>"
        if state.losses and state.losses != self._drawn:
            self._drawn = state.losses
            self._curve.value = _curve(state.losses)

    def _pressed(self, _: object) -> None:
        self._training.stop()
        self.refresh()

    def _follow(self) -> None:
        while not self._training.wait(_SECONDS_BETWEEN_LOOKS):
            self.refresh()
        self.refresh()


def said(state: monitor.State) -> str:
    """A training's state for a person."""
    if state.word == "failed":
        return f"Failed: {state.error}"
    if state.progress is None:
        return f"{state.word.capitalize()} …"
    at = state.progress
    text = f"{state.word.capitalize()}: epoch {at.epoch} of {at.epochs}, loss {at.train_loss:.3f}"
    if (number := monitor.best(state.losses)) is not None:
        text += f", best validation loss {state.losses[number - 1]:.3f} in epoch {number}"
    text += f", {at.images_per_second:.0f} images per second, {monitor.spoken(at.seconds)} so far"
    return text if state.over else f"{text}, at most {monitor.spoken(monitor.remaining(at))} to go"


def _verdict(alarm: bool) -> str:
    return "alarm now" if alarm else "no alarm now"


def _curve(losses: Sequence[float]) -> str:
    figure = Figure(figsize=(4.6, 1.9), layout="constrained")
    axis = figure.subplots()
    axis.plot(range(1, len(losses) + 1), losses, marker="o", markersize=3, color="#0072b2")
    axis.set(xlabel="epoch", ylabel="validation loss")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    words = f"Validation loss by epoch, now {losses[-1]:.3f}"
    return pictures.img(content.getvalue(), words, width=460)
