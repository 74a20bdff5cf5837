"""A training that goes on beside the notebook.

Owns the thread that trains, how far it is, and the file that says so. Never draws (`widgets` does), and never loses a training
because a browser went away: the thread is the kernel's, and a checkpoint outlives even that.

    training = monitor.start(train.fit, network, …, progress=False, log="run.jsonl")
    widgets.TrainingMonitor(training)   # shows it; may be run again after a reload of the browser, as often as you like
    history = await training.finished() # waits for the end, and lets the widget answer meanwhile
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from defectlab.train import History, Progress, Stopped, Watch

# Often enough for an eye, seldom enough for a NAS.
_SECONDS_BETWEEN_LINES = 1.0
_SECONDS_BETWEEN_LOOKS = 0.1
# Weak, so that a training that is over holds no network: its own thread keeps it as long as it goes on.
_under_way: weakref.WeakValueDictionary[Path, Training] = weakref.WeakValueDictionary()
_beginning = threading.Lock()


@dataclass(frozen=True, slots=True)
class State:
    """A training at one moment.

    Attributes:
        word: `starting`, `running`, `stopping`, `stopped`, `done` or `failed`.
        progress: how far it is; None before the first step.
        losses: per whole epoch, the loss on validation images.
        error: one sentence, where it failed.
    """

    word: str
    progress: Progress | None
    losses: tuple[float, ...]
    error: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.word in ("stopped", "done", "failed")


class Training:
    """A training in a thread of this kernel; see `start`."""

    def __init__(self, work: Callable[[Watch], History], log: Path | None = None) -> None:
        self._work, self._log = work, log
        self._lock = threading.Lock()
        self._word, self._error = "starting", ""
        self._last: Progress | None = None
        self._losses: list[float] = []
        self._stop, self._over = threading.Event(), threading.Event()
        self._history: History | None = None
        self._failure: BaseException | None = None
        self._written = float("-inf")
        # A daemon: a kernel that is shut down must not wait for the last epoch.
        self._thread = threading.Thread(target=self._run, name="training", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """How it is now."""
        with self._lock:
            return State(self._word, self._last, tuple(self._losses), self._error)

    def stop(self) -> None:
        """Ask it to stop after the step it is in; its checkpoint stays, so that it can go on later."""
        self._stop.set()
        with self._lock:
            if self._word in ("starting", "running"):
                self._word = "stopping"

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most so long; whether it has come."""
        return self._over.wait(seconds)

    def result(self) -> History:
        """Wait for the end and give what came of it.

        Raises:
            Stopped: it was stopped.
            Exception: what it failed with.
        """
        self._over.wait()
        if self._failure is not None:
            raise self._failure
        assert self._history is not None
        return self._history

    async def finished(self) -> History:
        """Wait as `result` does, and let the kernel answer meanwhile: `history = await training.finished()` in a notebook.

        A cell that waits by `result` keeps the kernel busy: until the end no button answers, and after a reload of the browser
        no widget comes back. Cells below wait either way.

        Raises:
            Stopped: it was stopped.
            Exception: what it failed with.
        """
        while not self._over.is_set():
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        return self.result()

    def _run(self) -> None:
        try:
            history = self._work(self._watch)
            self._end("done", history=history)
        except Stopped as stopped:
            self._end("stopped", failure=stopped)
        except BaseException as error:
            self._end("failed", failure=error)

    def _end(self, word: str, history: History | None = None, failure: BaseException | None = None) -> None:
        with self._lock:
            self._word, self._history, self._failure = word, history, failure
            if history is not None:
                self._losses = list(history.validation_loss)
            if word == "failed":
                self._error = f"{type(failure).__name__}: {failure}"
            last = self._last
        if last is not None:
            self._note(last, word)
        self._over.set()

    def _watch(self, progress: Progress) -> None:
        if self._stop.is_set():
            raise Stopped("The training was stopped.")
        with self._lock:
            self._word = "running"
            new_epoch = self._last is not None and progress.epoch != self._last.epoch
            if new_epoch and progress.validation_loss is not None:
                self._losses.append(progress.validation_loss)
            self._last = progress
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_LINES:
            self._note(progress, "running")

    def _note(self, progress: Progress, word: str) -> None:
        self._written = time.monotonic()
        if self._log is None:
            return
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"word": word, **asdict(progress)}) + "\n")
        except OSError:
            # A full disk must not end a training that needs no disk.
            self._log = None


def start(work: Callable[..., History], *words: Any, log: Path | str | None = None, **named: Any) -> Training:
    """Begin a training beside the notebook, or give the one that is under way.

    A cell that is run again, such as after a reload of the browser, must not begin a second training that writes to the files of
    the first: where one with this log or this checkpoint is under way in this kernel, that one is given.

    Args:
        work: trains, such as `train.fit`. Beside what is given here it gets `watch`, which it has to tell of every step.
        words, named: what else it gets.
        log: a file to which a line is added every second.
    """

    def watched(watch: Watch) -> History:
        return work(*words, **named, watch=watch)

    places = {Path(place).absolute() for place in (log, named.get("checkpoint")) if place is not None}
    with _beginning:
        for place in places:
            training = _under_way.get(place)
            if training is not None and not training.state.over:
                return training
        begun = Training(watched, None if log is None else Path(log))
        _under_way.update(dict.fromkeys(places, begun))
    return begun


def read(log: Path | str) -> list[tuple[str, Progress]]:
    """What a log says, line by line: the word of the state, and how far it was. A line that was cut off is left out."""
    found: list[tuple[str, Progress]] = []
    try:
        lines = Path(log).read_text("utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            told = json.loads(line)
            found.append((told.pop("word"), Progress(**told)))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def remaining(progress: Progress, begun_at_step: int = 0) -> float | None:
    """Seconds to the last epoch, if there is no earlier end; None before the first step.

    Args:
        progress: how far it is.
        begun_at_step: steps that an earlier run had done.
    """
    done = progress.step - begun_at_step
    return None if done <= 0 else progress.seconds / done * (progress.steps - progress.step)


def spoken(seconds: float | None) -> str:
    """A span of time for a person."""
    if seconds is None:
        return "not known yet"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def best(losses: Sequence[float]) -> int | None:
    """Number of the epoch with the lowest loss, from 1; None before the first."""
    return None if not losses else min(range(len(losses)), key=lambda epoch: losses[epoch]) + 1
