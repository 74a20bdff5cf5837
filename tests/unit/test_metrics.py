"""The lab's metrics: every series from the start, numbers that only grow, and a scrape that nothing holds up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from spawner import metrics, refusals, sharing
from spawner.engine import Engine
from spawner.errors import DeniedError, InventoryError, LabError, LedgerError, Queued
from spawner.grants import SharingRule
from spawner.inventory import StaticInventory
from spawner.ledger import REFUSED, Ledger
from spawner.metering import STATES, Meter, Picture, units
from spawner.model import Gpu, GpuRequest, Holder, LeaseState
from spawner.placement import packed
from spawner.records import Event, GpuMark, Grant, MarkKind
from spawner.runtime import Lab
from tests.unit.values import T0, after, make_gpu, make_lease, shipped_config

GPUS = [make_gpu(n) for n in range(3)]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Scene:
    """A ledger, a clock and the metrics made of them."""

    def __init__(self, folder: Path) -> None:
        self.now = T0
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.lab = Lab(shipped_config(), self.ledger, Engine(), StaticInventory(GPUS), clock=lambda: self.now)
        self.reader = metrics.Reader(self.lab)
        self.ids = iter(f"{n:032x}" for n in range(1, 1000))

    def acquire(self, user: str, *uuids: str, count: int = 1) -> str:
        """Lease these GPUs, or as many as asked for; a ticket where there are not enough."""
        lease_id = next(self.ids)
        request = GpuRequest("gpu-1", len(uuids) or count)
        self.ledger.acquire(
            request, Holder(user), GPUS, lease_id=lease_id, now=self.now, admit=lambda asked, *_: Grant(asked),
            choose=(lambda *_: uuids) if uuids else packed,
        )  # fmt: skip
        return lease_id

    def at(self, seconds: float) -> datetime:
        self.now = after(seconds)
        return self.now

    def shown(self) -> Samples:
        return parsed(metrics.families(self.reader(), {}))


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def parsed(families: Iterable[Metric]) -> Samples:
    registry = CollectorRegistry()
    registry.register(_Fixed(list(families)))
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[(name, tuple(sorted(labels.items())))]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.ledger.close()


def test_every_series_is_there_before_anything_happens(scene: Scene):
    shown = scene.shown()
    for profile in (*scene.lab.config.profiles, "other"):
        for name in ("gpulab_tickets_waiting", "gpulab_lease_seconds_total", "gpulab_gpu_seconds_total"):
            assert value(shown, name, profile=profile) == 0
    for state in ("claimed", "starting", "bound", "draining"):
        assert value(shown, "gpulab_leases", state=state) == 0
    for outcome in ("done", "cancelled", "failed"):
        assert value(shown, "gpulab_tickets_ended_total", outcome=outcome) == 0
    assert value(shown, "gpulab_ticket_wait_seconds_bucket", le="+Inf") == value(shown, "gpulab_ticket_wait_seconds_count") == 0
    assert value(shown, "gpulab_idle_gpu_seconds_total") == 0
    for gpu in GPUS:
        states = {state: value(shown, "gpulab_gpu_state", UUID=gpu.uuid, unit=gpu.uuid, state=state) for state in STATES}
        assert states == {state: float(state == "free") for state in STATES}
    assert not [name for name, _ in shown if name == "gpulab_gpu_holder_info"]
    assert {"denied", "no_gpu_free", "mount", "engine_unknown"} <= set(metrics.reasons())
    assert "queued" not in metrics.reasons()


def test_a_leased_gpu_says_who_holds_it_and_counts(scene: Scene):
    scene.shown()
    lease = scene.acquire("ana", GPUS[0].uuid)
    scene.at(60)
    scene.ledger.bind(lease, scene.now)
    shown = scene.shown()
    uuid = GPUS[0].uuid
    assert value(shown, "gpulab_gpu_holder_info", UUID=uuid, unit=uuid, user="ana", server="", profile="gpu-1") == 1
    assert value(shown, "gpulab_gpu_state", UUID=uuid, unit=uuid, state="bound") == 1
    assert value(shown, "gpulab_lease_seconds_total", profile="gpu-1") == 60
    scene.ledger.add_idle([(lease, 20.0)])
    scene.ledger.release(lease, scene.at(90), "done")
    short = scene.acquire("bo", GPUS[1].uuid, GPUS[2].uuid)
    scene.ledger.release(short, scene.at(100), "it began and ended between two readings")
    shown = scene.shown()
    assert value(shown, "gpulab_lease_seconds_total", profile="gpu-1") == 90 + 10
    assert value(shown, "gpulab_gpu_seconds_total", profile="gpu-1") == 90 + 20
    assert value(shown, "gpulab_idle_gpu_seconds_total") == 20
    assert scene.shown() == shown, "nothing happened"


def test_what_was_before_the_hub_does_not_count(scene: Scene):
    lease = scene.acquire("ana", GPUS[0].uuid)
    scene.ledger.add_idle([(lease, 500.0)])
    scene.at(1000)
    scene.reader = metrics.Reader(scene.lab)
    scene.shown()
    scene.ledger.add_idle([(lease, 3.0)])
    scene.at(1010)
    shown = scene.shown()
    assert value(shown, "gpulab_lease_seconds_total", profile="gpu-1") == 10
    assert value(shown, "gpulab_idle_gpu_seconds_total") == 3


def test_a_ticket_is_seen_from_its_wait_to_its_end(scene: Scene):
    scene.shown()
    held = scene.acquire("cem", *(gpu.uuid for gpu in GPUS))
    ticket, other = scene.acquire("ana"), scene.acquire("bo")
    assert value(scene.shown(), "gpulab_tickets_waiting", profile="gpu-1") == 2
    scene.ledger.cancel_ticket(other, scene.now, "bo")
    scene.ledger.release(held, scene.at(70), "done")
    plan, new_id = (lambda line: scene.lab.plan(line).turns), (lambda: next(scene.ids))
    (claimed,) = scene.ledger.advance(GPUS, scene.now, plan, new_id, scene.lab.config.line.claim)
    assert claimed.id == ticket
    shown = scene.shown()
    assert value(shown, "gpulab_leases", state="claimed") == 1
    assert value(shown, "gpulab_ticket_wait_seconds_bucket", le="60.0") == 0
    assert value(shown, "gpulab_ticket_wait_seconds_bucket", le="300.0") == 1
    scene.at(100)
    before = value(scene.shown(), "gpulab_lease_seconds_total", profile="gpu-1")
    scene.acquire("ana")
    shown = scene.shown()
    assert value(shown, "gpulab_lease_seconds_total", profile="gpu-1") >= before, "a counter never falls"
    assert value(shown, "gpulab_ticket_wait_seconds_sum") == 70, "a claim that becomes a start is one turn"
    scene.ledger.bind(claimed.lease, scene.at(110))
    shown = scene.shown()
    assert [value(shown, "gpulab_tickets_ended_total", outcome=word) for word in ("done", "cancelled", "failed")] == [1, 1, 0]


def test_units_have_one_state_and_the_name_of_their_physical_gpu():
    seats = sharing.units([GPUS[0]], [SharingRule(frozenset({GPUS[0].uuid}), frozenset(), 2)])
    mig = Gpu("MIG-00000000-0000-4000-8000-000000000001", "n1", 1, "A100", 10_000, parent=GPUS[1].uuid)
    gone = make_lease("bo", ("GPU-gone",))
    found = units(
        [*seats, mig, GPUS[2]], [make_lease("ana", (seats[0].uuid,)), gone], [GpuMark("n1", MarkKind.DRAINED, "", "a", T0)]
    )
    assert [(unit.uuid, unit.kind, unit.state) for unit in found] == [
        (GPUS[0].uuid, "shared", "bound"),
        (GPUS[0].uuid, "shared", "out"),
        (GPUS[1].uuid, "mig", "out"),
        (GPUS[2].uuid, "exclusive", "out"),
        ("GPU-gone", "", "missing"),
    ]
    assert len({unit.unit for unit in found}) == 5


def test_a_profile_that_left_lab_yaml_is_counted_as_other(scene: Scene):
    scene.reader.meter = Meter(["cpu"], T0)
    scene.reader.meter.number = 0
    scene.acquire("ana", GPUS[0].uuid)
    scene.at(5)
    assert value(scene.shown(), "gpulab_lease_seconds_total", profile="other") == 5


# --- a scrape is never held up and never fails


def scraped(collector: metrics.LabCollector) -> Samples:
    return parsed(collector.collect())


def test_a_reading_that_hangs_does_not_hold_up_the_scrape():
    go, entered = threading.Event(), threading.Event()

    def read() -> Picture:
        entered.set()
        go.wait(30)
        return Picture(profiles=("cpu",), ok=True)

    collector = metrics.LabCollector(read, ["cpu"])
    began = time.monotonic()
    assert value(scraped(collector), "gpulab_reading_ok") == 0
    assert value(scraped(collector), "gpulab_tickets_waiting", profile="cpu") == 0
    assert time.monotonic() - began < 5
    assert entered.is_set()
    go.set()


@pytest.mark.parametrize("error", [LedgerError("It is away."), RuntimeError("what nobody thought of")])
def test_a_reading_that_fails_is_told_and_fails_nothing(error: Exception, caplog: pytest.LogCaptureFixture):
    def read() -> Picture:
        raise error

    collector = metrics.LabCollector(read, ["cpu"])
    assert value(scraped(collector), "gpulab_reading_ok") == 0
    assert "the numbers of before" in caplog.text


def test_one_reading_serves_many_scrapes():
    made: list[int] = []

    def read() -> Picture:
        made.append(1)
        return Picture(profiles=("cpu",), ok=True)

    collector = metrics.LabCollector(read, ["cpu"])
    assert {value(scraped(collector), "gpulab_reading_ok") for _ in range(50)} == {1}
    assert len(made) == 1


def test_a_driver_that_does_not_answer_keeps_the_gpus_of_before(scene: Scene):
    scene.shown()

    class Broken:
        def gpus(self) -> tuple[Gpu, ...]:
            raise InventoryError("The driver sleeps.")

    object.__setattr__(scene.lab, "inventory", Broken())
    shown = scene.shown()
    assert value(shown, "gpulab_reading_ok") == 0
    assert value(shown, "gpulab_gpu_state", UUID=GPUS[0].uuid, unit=GPUS[0].uuid, state="free") == 1


def test_it_is_registered_once(scene: Scene):
    registry = CollectorRegistry(auto_describe=True)
    metrics.register(scene.lab, registry)
    metrics.register(scene.lab, registry)
    assert b"gpulab_reading_ok 1.0" in generate_latest(registry)


# --- refusals


def refuse(scene: Scene, error: LabError, user: str = "ana", asked: object = None) -> None:
    refusals.refusal(error, asked or GpuRequest("cpu", 0), Holder(user), scene.lab, ("night",))


def counted(reason: str) -> float:
    collector = metrics.LabCollector(lambda: Picture(profiles=()), [])
    return value(scraped(collector), "gpulab_requests_refused_total", reason=reason)


def test_a_refusal_is_counted_and_written_down(scene: Scene):
    before = counted("denied")
    refuse(scene, DeniedError("No."))
    refuse(scene, Queued("You wait.", "", ticket="t"))
    (event,) = scene.ledger.audit()
    assert (event.action, event.user, dict(event.detail)) == (
        REFUSED, "ana", {"reason": "denied", "profile": "cpu", "groups": ["night"]},
    )  # fmt: skip
    assert counted("denied") == before + 1


def test_a_script_that_asks_in_a_loop_does_not_fill_the_journal(scene: Scene):
    before = counted("denied")
    for _ in range(refusals.MOST_IN_JOURNAL + 50):
        refuse(scene, DeniedError("No."), "loop")
    refuse(scene, DeniedError("No."), "other")
    assert len(scene.ledger.audit(limit=1000)) == refusals.MOST_IN_JOURNAL + 1
    assert counted("denied") == before + refusals.MOST_IN_JOURNAL + 51
    scene.at(3700)
    refuse(scene, DeniedError("No."), "loop")
    assert len(scene.ledger.audit(person="loop", limit=1000)) == refusals.MOST_IN_JOURNAL + 1


def test_a_journal_that_cannot_be_written_changes_no_refusal(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    def full(_event: Event) -> None:
        raise LedgerError("The disk is full.")

    monkeypatch.setattr(scene.ledger, "record", full)
    raised = refusals.refusal(DeniedError("No.", "Ask."), GpuRequest("cpu", 0), Holder("ana"), scene.lab)
    assert (raised.status_code, raised.jupyterhub_message) == (403, "No. Ask.")


def test_states_of_the_ledger_are_all_known_to_the_metrics():
    assert {state.value for state in LeaseState if state is not LeaseState.RELEASED} < set(STATES)
