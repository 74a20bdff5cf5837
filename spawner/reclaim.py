"""Decides when a lab that holds GPUs is noticed, warned and stopped: for not using them, or at the end of its life.

Owns the rule. A pure function of what was observed, what was said before, and lab.yaml's `reclaim`; never reads a clock, measures
nothing and stops nobody.

Running work is never idle. A lab is idle only while *every* signal says so: its GPUs compute nothing, no kernel is busy, its
processes use next to no CPU and move next to no data, and no kernel or terminal was used lately. Cannot tell is not idle: while a
signal is missing, nobody comes nearer to a stop. Neither do they by time in which nobody looked, nor by a clock that jumps.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spawner.grants import ReclaimRules
from spawner.model import Lease, LeaseState
from spawner.records import Watch

# Data that a lab moves over network and disks, in bytes per second, from which on it counts as copying.
COPYING = 256 << 10
# The longest time between two looks that counts as watched.
LONGEST_GAP = timedelta(minutes=5)
ROUNDING = timedelta(minutes=1)
NOTHING = timedelta()


@dataclass(frozen=True, slots=True)
class Signals:
    """What one look at a lab found. None is "cannot tell".

    Attributes:
        watched: time since the last look at this lab, by a clock that cannot be set.
        gpu_percent: highest utilisation of its GPUs; 0 for simulated ones, which nothing can use. On a seat or MIG instance the
            lab's own processes count.
        gpu_memory_mib: memory in use on its GPUs; told, but no sign of work.
        kernels_busy: kernels that run something.
        cpu_percent: CPU of all its processes since the last look, in percent of one core.
        moved: bytes per second that its processes read and wrote since the last look, over network or disks.
        used: the last moment at which a kernel or terminal was used; None also where it has none.
    """

    at: datetime
    watched: timedelta | None = None
    gpu_percent: float | None = None
    gpu_memory_mib: int | None = None
    kernels_busy: int | None = None
    cpu_percent: float | None = None
    moved: float | None = None
    used: datetime | None = None

    def numbers(self) -> str:
        """The numbers behind a decision, for the log."""
        parts = {
            "gpu": _number(self.gpu_percent, "%"),
            "gpu memory": _number(self.gpu_memory_mib, " MiB"),
            "kernels busy": _number(self.kernels_busy, ""),
            "cpu": _number(self.cpu_percent, "%"),
            "moved": _number(self.moved, " B/s"),
            "used": self.used.isoformat(timespec="seconds") if self.used else "?",
        }
        return ", ".join(f"{name} {value}" for name, value in parts.items())


class Step(enum.Enum):
    """What is done about a lab."""

    KEEP = "keep"
    NOTICE = "notice"
    WARN = "warn"
    STOP = "stop"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Decision:
    """A step, what is to be remembered, and why, in one sentence; `idle` is what this look adds to the lab's idle time."""

    step: Step
    watch: Watch
    why: str
    idle: timedelta = NOTHING


def busy(signals: Signals, rules: ReclaimRules) -> str:
    """Why the lab is at work; '' where it is not, or where that cannot be told."""
    if signals.gpu_percent is not None and signals.gpu_percent > rules.gpu_percent:
        return f"its GPUs are used ({signals.gpu_percent:g} %)"
    if signals.kernels_busy:
        return f"{signals.kernels_busy} of its kernels run something"
    if signals.cpu_percent is not None and signals.cpu_percent > rules.cpu_percent:
        return f"its processes compute ({signals.cpu_percent:.0f} % of a core)"
    if signals.moved is not None and signals.moved > COPYING:
        return f"its processes move data ({signals.moved / 1024:.0f} KiB/s)"
    return ""


def unknown(signals: Signals) -> tuple[str, ...]:
    """The signals that are missing; while any is, the lab does not count as idle."""
    needed = {
        "GPU use": signals.gpu_percent,
        "kernels": signals.kernels_busy,
        "CPU": signals.cpu_percent,
        "data moved": signals.moved,
    }
    return tuple(name for name, value in needed.items() if value is None)


def decide(lease: Lease, signals: Signals, watch: Watch, rules: ReclaimRules, hours_end: datetime | None = None) -> Decision:
    """What is to be done about a lab now.

    Args:
        lease: a lease that is not released.
        signals: what the look found.
        watch: what was remembered of it.
        rules: lab.yaml's `reclaim`.
        hours_end: when its owner will have used up their GPU-hours; None for no limit.
    """
    if lease.state is not LeaseState.BOUND or not lease.gpus or rules.mode == "off":
        return Decision(Step.KEEP, watch, "it is not watched")
    now = signals.at
    working, missing = busy(signals, rules), unknown(signals)
    counted = counted_of(signals.watched, watch.seen, now)
    watch = _moved_on(watch, now, counted, idle=not missing)
    if watch.cause == "stop":
        return Decision(Step.STOP, watch, watch.text)
    idle = NOTHING
    if working:
        watch = replace(watch, idle_since=None)
    elif not missing:
        idle = counted if watch.idle_since is not None else NOTHING
        # Whoever ran a cell a minute ago is thinking, not gone.
        since = max(moment for moment in (watch.idle_since or now, signals.used) if moment is not None)
        watch, before = replace(watch, idle_since=min(since, now)), watch.idle_since
        if before is not None and before < since:
            working = "it was used"
    if watch.cause not in ("", "idle", "life"):
        return Decision(Step.KEEP, watch, "its holder reads something else", idle)
    decided = _life(lease, watch, rules, now, hours_end) or _idle(lease, watch, rules, now, working, missing)
    return replace(decided, idle=idle)


def counted_of(watched: timedelta | None, seen: datetime | None, now: datetime) -> timedelta:
    """The time since the last look in which a lab was watched.

    Args:
        watched: time since the same watcher's last look, by a clock that cannot be set.
        seen: the last look of any watcher.
        now: the present moment.
    """
    if watched is None or not NOTHING <= watched <= LONGEST_GAP:
        return NOTHING
    # Two watchers at once, such as those of a killed hub and of the next one, must not count the same time twice.
    gap = watched if seen is None else now - seen
    return gap if NOTHING <= gap < watched else watched


def _idle(lease: Lease, watch: Watch, rules: ReclaimRules, now: datetime, working: str, missing: tuple[str, ...]) -> Decision:
    said = watch.noticed is not None or watch.warned is not None
    if working:
        return Decision(Step.CLEAR, _wordless(watch), working) if said else Decision(Step.KEEP, watch, working)
    if missing:
        return Decision(Step.KEEP, watch, f"cannot be told: {', '.join(missing)}")
    idle = now - watch.idle_since if watch.idle_since else NOTHING
    gpus, them = ("1 GPU", "it") if len(lease.gpus) == 1 else (f"{len(lease.gpus)} GPUs", "them")
    if watch.warned is not None:
        if watch.stop_at is None or now < watch.stop_at:
            return Decision(Step.KEEP, watch, "it is warned")
        return _stop(watch, f"The lab was stopped because it had not used its {gpus} for {spoken(idle)}.")
    # An extension moves the stop, so the next warning comes its grace before that.
    safe = watch.safe_until if watch.safe_until is not None and now < watch.safe_until else now
    if idle >= rules.warning and now >= safe - rules.grace:
        text = f"Your lab has not used its {gpus} for {spoken(idle)}. It will be stopped unless you use {them} or extend the lab."
        stop = max(safe, now + rules.grace)
        return Decision(Step.WARN, replace(watch, warned=now, stop_at=stop, cause="idle", text=text), text)
    if idle >= rules.notice and watch.noticed is None and safe == now:
        text = f"Your lab has not used its {gpus} for {spoken(idle)}. Please stop the lab if you do not need {them}."
        return Decision(Step.NOTICE, replace(watch, noticed=now, cause="idle", text=text), text)
    return Decision(Step.KEEP, watch, f"idle for {spoken(idle)}")


def _life(lease: Lease, watch: Watch, rules: ReclaimRules, now: datetime, hours_end: datetime | None) -> Decision | None:
    if hours_end is not None and watch.safe_until is not None:
        # Used-up hours stay used up: an extension is all that moves this end, and each of the few only by `reclaim.extend`.
        hours_end = max(hours_end, watch.safe_until)
    ends = min((moment for moment in (lease.ends, hours_end) if moment is not None), default=None)
    due = ends is not None and now >= ends - rules.life_warning
    if watch.cause == "life" and not due:
        return Decision(Step.CLEAR, _wordless(watch), "its end was moved")
    if ends is None or not due:
        return None
    # A lab that was granted what was left of them ends at the same moment, give or take the rounding.
    spent = hours_end is not None and hours_end - ends < ROUNDING
    if watch.cause == "life" and watch.warned is not None:
        if watch.stop_at is None or now < max(watch.stop_at, ends):
            return Decision(Step.KEEP, watch, "it is warned of the end of its life")
        why = "its owner had used up their GPU-hours of the week" if spent else "the life that it was granted had ended"
        return _stop(watch, f"The lab was stopped because {why}.")
    text = "The life that your lab was granted ends soon. It will be stopped then unless you extend it."
    if spent:
        text = "Your GPU-hours of the week are nearly used up. Your lab will be stopped then; extending it gives time to save."
    # Never less time than promised, also where nobody was there to warn in time.
    stop = max(ends, now + min(rules.grace, rules.life_warning))
    return Decision(Step.WARN, replace(watch, warned=now, stop_at=stop, cause="life", text=text), text)


def extended(lease: Lease, watch: Watch, rules: ReclaimRules, now: datetime) -> tuple[Watch, datetime | None] | str:
    """What one press of *Extend* changes: what is remembered, and the new end of its life where that moves.

    A life can be extended past what `policy` grants, but only by `reclaim.extend`, and only as often as
    `reclaim.extensions` says: both together are the bound.

    Returns:
        Or one sentence, where it may not be extended any more.
    """
    if lease.state is not LeaseState.BOUND or watch.cause == "stop":
        return "This lab does not run any more."
    if watch.extensions >= rules.extensions:
        times = f"{rules.extensions} time{'s' if rules.extensions != 1 else ''}"
        return f"A lab may be extended {times} (reclaim.extensions); this one has been."
    ends = None
    if lease.ends is not None and lease.ends < now + rules.extend:
        ends = max(lease.ends, now) + rules.extend
    safe = max(watch.safe_until or now, now) + rules.extend
    return replace(_wordless(watch), safe_until=safe, extensions=watch.extensions + 1), ends


def spoken(length: timedelta) -> str:
    """A length of time as a person says it."""
    minutes = int(length.total_seconds() // 60)
    if minutes < 1:
        return "less than a minute"
    if minutes < 120:
        return f"{minutes} minute{'s' if minutes != 1 else ''}"
    hours = minutes // 60
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


def _stop(watch: Watch, why: str) -> Decision:
    # Remembered, so that the stop is asked for again where the hub did not hear it, and nobody extends what is on its way out.
    return Decision(Step.STOP, replace(watch, cause="stop", text=why), why)


def _wordless(watch: Watch) -> Watch:
    return replace(watch, noticed=None, warned=None, stop_at=None, cause="", text="")


def _moved_on(watch: Watch, now: datetime, counted: timedelta, *, idle: bool) -> Watch:
    """Note this look. What was remembered moves on by the time that does not count, so that it stays as far away as it was.

    Args:
        watch: what was remembered.
        now: the present moment.
        counted: time since the last look in which the lab was watched.
        idle: the signals were all there. An end of life comes nearer without them: a lab that hides them would live for ever.
    """
    if watch.seen is None:
        return replace(watch, seen=now)
    unseen = now - watch.seen - counted
    untold = unseen if idle else unseen + counted
    words = unseen if watch.cause == "life" else untold

    def later(moment: datetime | None, by: timedelta) -> datetime | None:
        return None if moment is None else moment + by

    return replace(
        watch,
        seen=now,
        idle_since=later(watch.idle_since, untold),
        safe_until=later(watch.safe_until, unseen),
        noticed=later(watch.noticed, words),
        warned=later(watch.warned, words),
        stop_at=later(watch.stop_at, words),
    )


def _number(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.4g}{unit}"
