"""A live view of your lab, in a notebook.

Owns what the view shows. Never measures (`usage` does) and never decides what you were given (`lab` does).
"""

from __future__ import annotations

import html
import threading

import ipywidgets as ip

from defectlab import lab, usage

GIB = 1024**3
_SECONDS = 1.0


class LabPanel(ip.VBox):  # type: ignore[misc]
    """CPU, memory, shared memory and GPUs, renewed every second until `stop` or the end of the kernel.

    Args:
        seconds: time between two looks.
        live: False looks once and again only when `refresh` is called.
    """

    def __init__(self, seconds: float = _SECONDS, *, live: bool = True) -> None:
        self._given, self._before = lab.look(), usage.now()
        self._bars = {name: self._bar(name) for name in ("CPUs", "memory", "shared memory")}
        for number in range(len(self._before.gpus)):
            self._bars |= {f"GPU {number}": self._bar(f"GPU {number}"), f"GPU {number} memory": self._bar(f"GPU {number} memory")}
        self._words = {name: ip.HTML() for name in self._bars}
        self._note = ip.HTML(f"<p>{html.escape(note(self._given, self._before))}</p>")
        super().__init__([ip.HBox([bar, self._words[name]]) for name, bar in self._bars.items()] + [self._note])
        self._stopped = threading.Event()
        self.refresh()
        if live:
            threading.Thread(target=self._follow, args=(seconds,), name="panel", daemon=True).start()

    def refresh(self) -> None:
        """Look now."""
        after = usage.now()
        for name, (share, words) in shown(self._given, self._before, after).items():
            if name in self._bars:
                self._bars[name].value = share
                self._bars[name].bar_style = "danger" if share > 0.95 else "warning" if share > 0.8 else "info"
                self._words[name].value = html.escape(words)
        self._before = after

    def stop(self) -> None:
        """Renew no more."""
        self._stopped.set()

    def _follow(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            self.refresh()

    @staticmethod
    def _bar(name: str) -> ip.FloatProgress:
        return ip.FloatProgress(
            value=0.0, min=0.0, max=1.0, description=name, style={"description_width": "9rem"}, layout={"width": "26rem"}
        )


def shown(given: lab.Lab, before: usage.Use, after: usage.Use) -> dict[str, tuple[float, str]]:
    """Per line of the panel, a share between 0 and 1 and its words."""
    busy = usage.cpus_busy(before, after)
    found = {
        "CPUs": _part(busy, given.cpus, "{:.1f} of {:g}"),
        "memory": _part(_gib(after.memory), given.memory / GIB, "{:.2f} of {:.1f} GiB"),
        "shared memory": _part(_gib(after.shm), given.shm / GIB, "{:.2f} of {:.1f} GiB"),
    }
    for number, gpu in enumerate(after.gpus):
        found[f"GPU {number}"] = _part(gpu.busy, 1.0, "busy {:.0%} of the time")
        found[f"GPU {number} memory"] = _part(_gib(gpu.used), gpu.total / GIB, "{:.1f} of {:.1f} GiB")
    return found


def note(given: lab.Lab, use: usage.Use) -> str:
    """What to say about GPUs that no bar shows."""
    simulated = sum(gpu.simulated for gpu in given.gpus)
    if simulated:
        return (
            f"{simulated} simulated GPU{'s' if simulated > 1 else ''}: there is no device behind it, so there is nothing to see."
        )
    if given.gpus and not use.gpus:
        return "The driver does not answer, so the GPUs cannot be watched: tell your admin."
    return "" if given.gpus else "This lab has no GPU."


def _gib(size: int | None) -> float | None:
    return None if size is None else size / GIB


def _part(value: float | None, most: float, words: str) -> tuple[float, str]:
    if value is None:
        return 0.0, "not known here"
    if most <= 0:
        return 0.0, f"{value:.2f}, no limit known"
    return min(value / most, 1.0), words.format(value, most)
