"""Which faults take a GPU out of circulation, with which words, and whether a passed check may bring it back.

Owns the rule and the table of Xid errors. Never asks a driver and writes nothing.

Xid errors are what the driver reports about a GPU. Their numbers, meanings and remedies follow NVIDIA's document "XID Errors"
(its catalog for Ampere and newer): where it says *restart the application* or *ignore*, the GPU stays; where it says *reset
the GPU*, *restart the machine* or *contact support*, the GPU goes, and so it does where an error without a remedy is one of
the hardware. Two are treated more carefully than there: after 63 and 94 a row of the memory waits to be replaced, so the GPU
rests until it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from spawner.records import Fault, GpuMark, GpuSample, MarkKind

BY_THE_LAB = "lab"
# No mark goes before this time: what follows an error, such as a row that waits to be replaced, may show a little later.
REST = timedelta(minutes=1)
_ROWS_FAILED = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """That a GPU must go out of circulation.

    Attributes:
        reason: one sentence for the board.
        comes_back: a passed check may bring it back; otherwise only an admin may.
    """

    reason: str
    comes_back: bool


# Xid → what it means, and whether a passed check may bring the GPU back.
XIDS: Mapping[int, tuple[str, bool]] = {
    46: ("the GPU stopped processing", True),
    48: ("an uncorrectable memory error", False),
    54: ("its auxiliary power is not connected", False),
    61: ("the GPU's own controller stopped at a fault", False),
    62: ("the GPU's own controller halted", False),
    63: ("a row or page of its memory waits for a reset to be replaced", True),
    64: ("a defective row or page of its memory could not be replaced", False),
    74: ("an error of its NVLink", False),
    79: ("it has fallen off the bus", False),
    94: ("a memory error that was contained to one program", True),
    95: ("a memory error that was not contained", False),
    109: ("a switch between programs did not end", False),
    110: ("a fault of its security processor", False),
    119: ("its system processor did not answer", False),
    120: ("an error of its system processor", False),
    136: ("its NVLink could not be trained", False),
    140: ("an uncorrectable memory error that escaped its containment", False),
    142: ("an error of its video encoder", True),
    143: ("it could not be initialised", False),
    144: ("an error of its NVLink", False),
    145: ("an error of its NVLink", False),
    146: ("an error of its NVLink", False),
    149: ("an error of its NVLink", False),
    150: ("an error of its NVLink", False),
    151: ("its keys could not be renewed", False),
    155: ("an error of its NVLink", False),
    156: ("a part of it was retired and waits for a reset", True),
    158: ("a fatal timeout", False),
    167: ("a fatal timeout on the bus", False),
    169: ("its security processor halted", True),
    # These two accompany others, such as 48 and 94, which say whether the error was contained.
    171: ("an uncorrectable error of its memory", True),
    172: ("an uncorrectable error of its caches", True),
}
# Caused by a program, contained to it, or for information only: they say nothing against the GPU.
APPLICATION_XIDS = frozenset(
    (
        *(8, 11, 12, 13, 14, 16, 18, 19, 20, 21, 22, 24, 25, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43),
        *(44, 45, 47, 58, 59, 60, 66, 67, 68, 69, 70, 71, 72, 73, 75, 76, 77, 78, 80, 82, 83, 84, 85, 86, 87, 88, 89, 92, 93),
        *range(96, 109),
        *(121, 122, 123, 125, 137, 139, 141, 147, 148, 152, 153, 154, 157, 160, 161),
        *range(126, 136),
        *(162, 163, 164, 165, 166, 168, 170),
    )
)


def judge(fault: Fault) -> Verdict | None:
    """What a fault means for its GPU; None where it may stay in circulation."""
    if fault.kind == "xid":
        if fault.code in APPLICATION_XIDS:
            return None
        # An error that is newer than this table: it rests, and comes back if nothing more is found.
        meaning, comes_back = XIDS.get(fault.code, ("an error that this lab does not know", True))
        return Verdict(f"The driver reported {meaning} (Xid {fault.code}).", comes_back)
    if fault.kind == "remap":
        return Verdict(fault.detail, fault.code != _ROWS_FAILED)
    # Counters fall to zero with a reset, a lost GPU answers again, and a question that failed is asked again: all of these
    # show by themselves when they are over.
    return Verdict(fault.detail, True)


def mark(sample: GpuSample) -> GpuMark | None:
    """The mark that a sample's faults call for; None where the GPU is well as far as is known."""
    verdicts = [verdict for fault in sample.faults if (verdict := judge(fault)) is not None]
    if not verdicts:
        return None
    reason = " ".join(dict.fromkeys(verdict.reason for verdict in verdicts))
    comes_back = all(verdict.comes_back for verdict in verdicts)
    return GpuMark(sample.uuid, MarkKind.SICK, reason, BY_THE_LAB, sample.at, comes_back)


def passed(sample: GpuSample) -> bool:
    """Whether a look at a GPU proves that it works: it answered, and nothing was wrong. Silence proves nothing."""
    return sample.memory_used_mib is not None and mark(sample) is None


def changes(
    samples: Iterable[GpuSample], marks: Iterable[GpuMark], now: datetime, before: Mapping[str, GpuSample] | None = None
) -> tuple[tuple[GpuMark, ...], tuple[str, ...]]:
    """Marks to set, and UUIDs whose mark may go.

    A fault that stood already at the last look was judged then. So a GPU that an admin has put back in spite of it stays back,
    until something new is found.

    Args:
        samples: a look at every GPU, with the Xid errors that were reported since the last one among the faults.
        marks: what is out of circulation.
        now: the present moment.
        before: the last look, by UUID; nothing where there was none.

    Returns:
        New marks of sick GPUs; and the GPUs that the lab itself took out, that passed the check now, and that may come back
        without an admin. A mark that an admin must lift stays, however well the GPU looks.
    """
    sick = {known.subject: known for known in marks if known.kind is MarkKind.SICK}
    last = before or {}
    begin, end = [], []
    for sample in samples:
        wanted, known = mark(sample), sick.get(sample.uuid)
        if wanted is None:
            ours = known is not None and known.by == BY_THE_LAB and known.comes_back
            if known is not None and ours and passed(sample) and now - known.since >= REST:
                end.append(sample.uuid)
        elif known is None:
            if sample.uuid not in last or set(sample.faults) - set(last[sample.uuid].faults):
                begin.append(wanted)
        # What only an admin may lift stays so, also when a lesser fault is seen later.
        elif known.comes_back and known.reason != wanted.reason:
            begin.append(wanted)
    return tuple(begin), tuple(end)


def with_reports(samples: Iterable[GpuSample], reports: Iterable[tuple[str, Fault]], at: datetime) -> tuple[GpuSample, ...]:
    """Samples with what the driver reported by itself among their faults; a GPU that has no sample gets one.

    Args:
        samples: a look at every GPU.
        reports: pairs of UUID and fault, as a watcher told them since the last look.
        at: the present moment, for GPUs without a sample.
    """
    found = {sample.uuid: sample for sample in samples}
    for uuid, fault in reports:
        known = found.get(uuid) or GpuSample(uuid, at)
        if fault not in known.faults:
            found[uuid] = GpuSample(
                known.uuid, known.at, known.utilisation, known.memory_used_mib, known.temperature, known.processes,
                (*known.faults, fault),
            )  # fmt: skip
    return tuple(found.values())
