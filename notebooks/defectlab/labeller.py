"""A part of a notebook in which a person labels images, one after the other.

Owns what is shown and what a key means. Never decides which image comes next (`suspects` does) and never keeps a label itself
(`labels` does). It shows neither the label that there is nor what a model thinks until the person has said something: whoever
is told what to see, sees it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import ipywidgets as ip
import numpy as np
from numpy.typing import ArrayLike

from defectlab import pictures
from defectlab.data import DataSet
from defectlab.labels import LabelError, LabelFile

GOOD, DEFECTIVE, SKIP = "g", "d", "s"
_SAYS = {GOOD: False, DEFECTIVE: True}
_WIDE = {"description_width": "initial"}
_SIDE = 320


class Labeller(ip.VBox):  # type: ignore[misc]
    """Type g for good, d for defective, s to skip, and Backspace to take the last one back; or press the buttons.

    What is typed is all the state there is: letter by letter, what was said about image by image. So nothing is lost or counted
    twice, however fast somebody types. Each decision is in the file before the next image is shown.

    Args:
        data: the images.
        order: which of them to go through, and in which order. Those about which the file knows already are left out.
        kept: where decisions go.
        by: who decides.
    """

    def __init__(self, data: DataSet, order: Sequence[int] | ArrayLike, kept: LabelFile, by: str) -> None:
        known = kept.labels()
        self._data, self._kept, self._by = data, kept, by
        self._order = [int(i) for i in np.asarray(order, dtype=np.intp) if data.records[int(i)].file not in known]
        self._said, self._setting = "", False
        self._picture, self._told = ip.HTML(), ip.HTML()
        self._keys = ip.Text(
            description="Keys",
            placeholder="g good, d defective, s skip, Backspace takes back",
            style=_WIDE,
            layout={"width": "32rem"},
        )
        self._keys.observe(self._typed, names="value")
        self._buttons = [
            self._button("Good (g)", lambda: self._said + GOOD),
            self._button("Defective (d)", lambda: self._said + DEFECTIVE),
            self._button("Skip (s)", lambda: self._said + SKIP),
            self._button("Take back", lambda: self._said[:-1]),
        ]
        super().__init__([self._picture, self._keys, ip.HBox(self._buttons), self._told])
        self._show("")

    @property
    def left(self) -> int:
        """How many images are still to be looked at."""
        return len(self._order) - len(self._said)

    def _button(self, words: str, said: Callable[[], str]) -> ip.Button:
        button = ip.Button(description=words)

        def pressed(_: object) -> None:
            self._keys.value = said()

        button.on_click(pressed)
        return button

    def _typed(self, change: dict[str, str]) -> None:
        if self._setting:
            return
        wanted = "".join(key for key in change["new"].lower() if key in (GOOD, DEFECTIVE, SKIP))[: len(self._order)]
        same = 0
        while wanted[: same + 1] == self._said[: same + 1] and same < len(wanted):
            same += 1
        words = ""
        try:
            for at in reversed(range(same, len(self._said))):
                words = self._take_back(at)
            for at in range(same, len(wanted)):
                words = self._decide(at, wanted[at])
        except LabelError as error:
            words = str(error)
        self._setting = True
        self._keys.value = self._said
        self._setting = False
        self._show(words)

    def _decide(self, at: int, key: str) -> str:
        record = self._data.records[self._order[at]]
        if key != SKIP:
            self._kept.add(record.file, _SAYS[key], self._by)
        self._said = self._said[:at] + key
        if key == SKIP:
            return f"{record.file}: skipped."
        same = "as its label did" if record.defective == _SAYS[key] else f"its label said {_word(record.defective)}"
        return f"{record.file}: you said {_word(_SAYS[key])}, {same}."

    def _take_back(self, at: int) -> str:
        record = self._data.records[self._order[at]]
        if self._said[at] != SKIP:
            self._kept.add(record.file, None, self._by)
        self._said = self._said[:at]
        return f"{record.file}: taken back."

    def _show(self, words: str) -> None:
        at = len(self._said)
        pairs = [(self._data.records[self._order[i]].defective, key) for i, key in enumerate(self._said) if key != SKIP]
        changed = sum(label != _SAYS[key] for label, key in pairs)
        count = f"{at} of {len(self._order)} looked at, {len(pairs)} labelled, {changed} labels changed."
        self._told.value = f"<p role='status' aria-live='polite'>{html.escape(f'{words} {count}'.strip())}</p>"
        for button in self._buttons[:3]:
            button.disabled = self.left == 0
        self._buttons[3].disabled = at == 0
        if self.left == 0:
            self._picture.value = "<p>There is no image left to look at.</p>"
            return
        i = self._order[at]
        title = f"Image {at + 1} of {len(self._order)}: {self._data.records[i].file}"
        self._picture.value = pictures.row([(self._data.images[i], "Good or defective?")], title, side=_SIDE)


def _word(defective: bool) -> str:
    return "defective" if defective else "good"
