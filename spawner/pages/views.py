"""What the pages show, as frozen plain values.

Owns the shape of the spawn form, of the "no GPU is free" answer and of a lab on the home page, and how a count, a size, a
name and a time read, so that HTML and plain text cannot disagree. Never asks the ledger, the engine or the inventory: the
spawner fills these in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from spawner.profiles import gib


@dataclass(frozen=True, slots=True)
class HolderView:
    """Who holds a GPU.

    Attributes:
        user: name of the person; '' where the reader may not know it.
        server: name of the lab; '' is the default one.
        since: aware moment when the lease was made; None when it is not known.
        ending: the lab is stopping, so the GPU is about to become free.
    """

    user: str
    server: str = ""
    since: datetime | None = None
    ending: bool = False

    def who(self, viewer: str = "") -> str:
        """The holder as a person says it, for a reader named `viewer`."""
        if not self.user:
            return "another person"
        name = "you" if self.user == viewer else self.user
        return f"{name} (lab “{self.server}”)" if self.server else f"{name} (default lab)"

    def since_text(self, now: datetime) -> str:
        """The time of day, with the date where it was not today; in the host's time zone. '' when not known."""
        if self.since is None:
            return ""
        local, today = self.since.astimezone(), now.astimezone()
        clock = f"{local:%H:%M}"
        return clock if local.date() == today.date() else f"{local.day} {local:%b}, {clock}"

    @property
    def since_iso(self) -> str:
        """The moment in ISO 8601 with zone; '' when not known."""
        return self.since.isoformat(timespec="seconds") if self.since else ""


@dataclass(frozen=True, slots=True)
class GpuView:
    """One GPU on a screen.

    Attributes:
        label: short name that is unique in the lab, such as `GPU 0`.
        model: the vendor's name.
        memory_mib: memory in MiB.
        simulated: declared in lab.yaml, no device behind it.
        holder: who holds it; None when it is free.
        unit: its name in leases, for the script that keeps the numbers fresh.
        note: what a person must know before they use it; may be empty.
        out: why it is given to nobody new; '' where it is in use.
    """

    label: str
    model: str
    memory_mib: int
    simulated: bool = False
    holder: HolderView | None = None
    unit: str = ""
    note: str = ""
    out: str = ""

    @property
    def free(self) -> bool:
        """Nobody holds it, and somebody may."""
        return self.holder is None and not self.out

    @property
    def memory(self) -> str:
        """Memory for a person."""
        return f"{gib(self.memory_mib << 20)} GB"


@dataclass(frozen=True, slots=True)
class GpuSummary:
    """All GPUs of the lab at one moment.

    Attributes:
        gpus: every GPU, in the order of the screens.
        problem: one sentence when the GPUs cannot be read right now; the list is then not to be trusted.
    """

    gpus: tuple[GpuView, ...] = ()
    problem: str = ""

    @property
    def total(self) -> int:
        """Number of GPUs."""
        return len(self.gpus)

    @property
    def free(self) -> int:
        """Number of GPUs that nobody holds and somebody may."""
        return sum(gpu.free for gpu in self.gpus)

    @property
    def simulated(self) -> bool:
        """At least one GPU is simulated."""
        return any(gpu.simulated for gpu in self.gpus)

    @property
    def headline(self) -> str:
        """How many are free, of how many."""
        return f"{self.free} of {count(self.total, 'GPU')} free" if self.gpus else "This lab has no GPU"


@dataclass(frozen=True, slots=True)
class ProfileCard:
    """One profile of the menu.

    Attributes:
        key: value that the form sends.
        gpus: number of GPUs.
        cpus: CPU limit, in CPUs.
        memory, shm: bytes.
        free: GPUs that would do and are free right now.
        gpu_models: models that will do; empty means any.
        unavailable: why this host cannot give the profile, whoever asks; '' when it can.
        wait: when its turn would come, in a sentence; '' where it needs no GPU or nothing is known of the line.
        note: what a person must know before they choose it; may be empty.
    """

    key: str
    title: str
    description: str
    gpus: int
    cpus: float
    memory: int
    shm: int
    free: int = 0
    gpu_models: tuple[str, ...] = ()
    unavailable: str = ""
    wait: str = ""
    note: str = ""

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What the profile gives, as pairs of name and value."""
        gpus = "none" if not self.gpus else str(self.gpus)
        if self.gpus and self.gpu_models:
            gpus = f"{gpus} ({' or '.join(self.gpu_models)})"
        return (
            ("GPUs", gpus),
            ("CPUs", f"{self.cpus:g}"),
            ("Memory", f"{gib(self.memory)} GB"),
            ("Shared memory", f"{gib(self.shm)} GB"),
        )

    @property
    def shortage(self) -> str:
        """One sentence when the profile exists but too few GPUs are free for it right now; else ''."""
        if self.unavailable or self.free >= self.gpus:
            return ""
        return f"Needs {count(self.gpus, 'GPU')}; {self.free or 'none'} free right now."


@dataclass(frozen=True, slots=True)
class SpawnFormView:
    """The spawn form.

    Attributes:
        cards: the menu, in the order of lab.yaml.
        gpus: what is free and who holds the rest.
        now: aware moment at which the numbers were taken.
        viewer: name of the person whose form this is.
        selected: key of the profile to preselect, such as the last one used; it is ignored where it cannot be started.
    """

    cards: tuple[ProfileCard, ...]
    gpus: GpuSummary
    now: datetime
    viewer: str = ""
    selected: str = ""

    @property
    def chosen(self) -> str:
        """Key of the card that is checked at first: the selected one, else the first that could start now."""
        able = [card for card in self.cards if not card.unavailable]
        for card in able:
            if card.key == self.selected:
                return card.key
        ready = [card for card in able if not card.shortage]
        return (ready or able)[0].key if able else ""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A profile that could start right now instead."""

    key: str
    title: str
    gpus: int

    @property
    def offer(self) -> str:
        """Words of its button."""
        return f"Start with {count(self.gpus, 'GPU')} instead" if self.gpus else "Start without a GPU"


@dataclass(frozen=True, slots=True)
class HeldRow:
    """The GPUs of one holder, in one line."""

    labels: tuple[str, ...]
    holder: HolderView
    simulated: bool

    @property
    def names(self) -> str:
        """`GPU 0 and GPU 1 are`, ready for "held by"."""
        return f"{listed(self.labels)} {'is' if len(self.labels) == 1 else 'are'}"


@dataclass(frozen=True, slots=True)
class NoGpuFreeView:
    """The answer when too few GPUs are free.

    Attributes:
        wanted: number of GPUs asked for.
        gpus: every GPU that would do for the profile, held or free.
        now: aware moment at which the numbers were taken.
        viewer: name of the person who asked.
        alternatives: profiles that could start right now, the most GPUs first.
    """

    wanted: int
    gpus: tuple[GpuView, ...]
    now: datetime
    viewer: str = ""
    alternatives: tuple[Alternative, ...] = ()

    @property
    def sentence(self) -> str:
        """What was asked, and what is free."""
        free = sum(gpu.free for gpu in self.gpus)
        verb = "is" if free == 1 else "are"
        note = next((f" They are seats of shared GPUs: {gpu.note}." for gpu in self.gpus if gpu.note), "")
        return f"You asked for {count(self.wanted, 'GPU')}; {free} of {len(self.gpus)} {verb} free.{note}"

    @property
    def simulated(self) -> bool:
        """At least one of the GPUs is simulated."""
        return any(gpu.simulated for gpu in self.gpus)

    @property
    def rows(self) -> tuple[HeldRow, ...]:
        """Who holds the others: one row per holder, in the order of the GPUs."""
        held: dict[HolderView, list[GpuView]] = {}
        for gpu in self.gpus:
            if gpu.holder:
                held.setdefault(gpu.holder, []).append(gpu)
        return tuple(
            HeldRow(tuple(gpu.label for gpu in gpus), holder, any(gpu.simulated for gpu in gpus)) for holder, gpus in held.items()
        )

    @property
    def advice(self) -> str:
        """What to do, in one sentence."""
        now = f"start {' or '.join(_titled(a) for a in self.alternatives)} now, or " if self.alternatives else ""
        text = f"{now}try again when one of these labs has stopped."
        return text[0].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class LabView:
    """A running lab on its owner's home page: the profile's title, and its GPUs (`holder` is not looked at)."""

    profile: str
    gpus: tuple[GpuView, ...] = ()


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 GPU`, `2 GPUs`, `0 GPUs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_about(moment: datetime, now: datetime) -> str:
    """A moment in the future as a person says it; no more exact than it is known."""
    minutes = (moment - now).total_seconds() / 60
    if minutes < 2:
        return "in a moment"
    if minutes < 90:
        return f"in about {count(round(minutes), 'minute')}"
    if minutes < 36 * 60:
        return f"in about {count(round(minutes / 60), 'hour')}"
    return f"in about {count(round(minutes / 1440), 'day')}"


def listed(words: Iterable[str]) -> str:
    """Words as a list in a sentence: `a`, `a and b`, `a, b and c`."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last


def _titled(alternative: Alternative) -> str:
    return f"the profile “{alternative.title}”"
