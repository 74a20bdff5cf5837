from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import health
from spawner.records import Fault, GpuMark, GpuSample, MarkKind
from tests.unit.values import T0, after

A = "GPU-aaaaaaaa-1111-4222-8333-444444444444"
WELL = GpuSample(A, T0, 10, 100, 50)
LOST = Fault("lost", "The driver does not list it any more.")
ECC = Fault("ecc", "It had an uncorrected memory error since it was last reset.", 1)
WORSE = Fault("ecc", "It had 2 uncorrected memory errors since it was last reset.", 2)
LATER = after(health.REST.total_seconds())


def xid(code: int) -> Fault:
    return Fault("xid", f"The driver reported Xid {code}.", code)


def sick(*faults: Fault) -> GpuSample:
    return replace(WELL, faults=faults)


def marked(*, comes_back: bool = True, by: str = health.BY_THE_LAB, kind: MarkKind = MarkKind.SICK) -> GpuMark:
    return GpuMark(A, kind, "why", by, T0, comes_back)


# --- the table


@pytest.mark.parametrize("code", [13, 31, 32, 43, 45, 68, 69, 92, 137, 154])
def test_an_error_of_a_program_takes_no_gpu_out(code: int):
    assert health.judge(xid(code)) is None


@pytest.mark.parametrize(
    ("code", "comes_back"),
    [
        (48, False),
        (62, False),
        (63, True),
        (64, False),
        (74, False),
        (79, False),
        (94, True),
        (95, False),
        (109, False),
        (119, False),
        (120, False),
        (140, False),
        pytest.param(9999, True, id="newer-than-the-table"),
    ],
)
def test_an_error_of_the_gpu_takes_it_out_with_a_sentence(code: int, comes_back: bool):
    verdict = health.judge(xid(code))
    assert verdict is not None
    assert verdict.comes_back is comes_back
    assert verdict.reason.startswith("The driver reported ")
    assert verdict.reason.endswith(f"(Xid {code}).")


def test_no_xid_stands_in_both_tables():
    assert not health.APPLICATION_XIDS & set(health.XIDS)


@pytest.mark.parametrize(
    ("fault", "comes_back"),
    [
        (LOST, True),
        (ECC, True),
        (Fault("nvml", "The driver failed to tell its memory (Unknown Error).", 999), True),
        (Fault("remap", "A defective row of its memory waits for a reset to be replaced.", 1), True),
        (Fault("remap", "A defective row of its memory could not be replaced.", 2), False),
    ],
)
def test_what_a_look_finds_takes_a_gpu_out_with_its_own_words(fault: Fault, comes_back: bool):
    assert health.judge(fault) == health.Verdict(fault.detail, comes_back)


def test_the_mark_says_all_that_is_wrong_and_the_worst_decides_who_lifts_it():
    mark = health.mark(sick(ECC, xid(31), xid(79), ECC))
    assert mark == GpuMark(
        A, MarkKind.SICK, f"{ECC.detail} The driver reported it has fallen off the bus (Xid 79).", "lab", T0, comes_back=False
    )
    assert health.mark(sick(xid(31))) is None


# --- out, and back


@pytest.mark.parametrize(
    ("sample", "marks", "now", "before", "out", "back"),
    [
        pytest.param(WELL, [], LATER, {}, False, False, id="well"),
        pytest.param(sick(LOST), [], LATER, {}, True, False, id="sick"),
        pytest.param(sick(xid(31)), [], LATER, {}, False, False, id="program"),
        pytest.param(sick(LOST), [marked(kind=MarkKind.DRAINED, by="ana")], LATER, {}, True, False, id="drained-and-sick"),
        pytest.param(WELL, [marked()], LATER, {}, False, True, id="passed"),
        pytest.param(WELL, [marked()], after(1), {}, False, False, id="rests"),
        pytest.param(sick(xid(13)), [marked()], LATER, {}, False, True, id="passed-beside-a-program's-error"),
        pytest.param(GpuSample(A, T0), [marked()], LATER, {}, False, False, id="silence-is-no-proof"),
        pytest.param(sick(LOST), [marked()], LATER, {}, True, False, id="another-reason"),
        pytest.param(WELL, [marked(comes_back=False)], LATER, {}, False, False, id="admin-only"),
        pytest.param(sick(LOST), [marked(comes_back=False)], LATER, {}, False, False, id="lesser-fault-does-not-soften"),
        pytest.param(WELL, [marked(by="ana")], LATER, {}, False, False, id="an-admin-said-so"),
        pytest.param(WELL, [marked(kind=MarkKind.DRAINED)], LATER, {}, False, False, id="drained-is-not-sick"),
        pytest.param(sick(ECC), [], LATER, {A: sick(ECC)}, False, False, id="put-back-by-an-admin"),
        pytest.param(sick(WORSE), [], LATER, {A: sick(ECC)}, True, False, id="put-back-and-worse"),
        pytest.param(sick(ECC), [], LATER, {A: WELL}, True, False, id="new-fault"),
    ],
)
def test_who_goes_out_and_who_comes_back(sample, marks, now, before, out, back):
    begin, end = health.changes([sample], marks, now, before)
    assert bool(begin) is out
    assert end == ((A,) if back else ())


FAULTS = st.sampled_from([LOST, ECC, WORSE, xid(13), xid(63), xid(79), Fault("remap", "No row is left.", 2)])


@given(st.lists(st.frozensets(FAULTS, max_size=2), max_size=12))
def test_what_only_an_admin_may_lift_is_never_lifted_by_the_lab(looks):
    known: GpuMark | None = None
    before: dict[str, GpuSample] = {}
    grave = False
    for number, faults in enumerate(looks):
        now = after(60 * number)
        sample = replace(sick(*sorted(faults, key=str)), at=now)
        begin, end = health.changes([sample], [known] if known else [], now, before)
        assert not (begin and end)
        known = begin[0] if begin else None if end else known
        before = {A: sample}
        grave = grave or any((verdict := health.judge(fault)) is not None and not verdict.comes_back for fault in faults)
        assert not grave or (known is not None and not known.comes_back)
        assert known is not None or health.mark(sample) is None


# --- what the driver reports by itself


def test_reports_are_faults_of_the_look_that_follows():
    other = "GPU-bbbbbbbb-1111-4222-8333-444444444444"
    samples = health.with_reports([sick(ECC)], [(A, xid(79)), (A, xid(79)), (other, xid(48))], after(5))
    assert samples == (sick(ECC, xid(79)), GpuSample(other, after(5), faults=(xid(48),)))
