import threading

from spawner.errors import EngineUnknown
from spawner.glance import GOOD_SECONDS, Glance
from spawner.model import Presence


class Engine:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.containers = {"a": Presence.RUNNING, "b": Presence.STOPPED}
        self.surveys = 0
        self.asked: list[str] = []
        self.broken = False

    def survey(self, lab: str) -> dict[str, Presence]:
        assert lab == "lab"
        self.surveys += 1
        if self.broken:
            raise EngineUnknown("The Docker engine does not answer.", "Try again.")
        return dict(self.containers)

    def presence(self, lease_id: str) -> Presence:
        self.asked.append(lease_id)
        return self.containers.get(lease_id, Presence.ABSENT)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_many_that_ask_at_once_cost_the_engine_one_question():
    engine = Engine()
    engine.containers = {str(number): Presence.RUNNING for number in range(50)}
    glance = Glance(engine, "lab", Clock())
    threads = [threading.Thread(target=glance.presence, args=(lease,)) for lease in engine.containers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (engine.surveys, engine.asked) == (1, [])


def test_what_does_not_run_is_asked_afresh():
    engine = Engine()
    glance = Glance(engine, "lab", Clock())
    assert glance.presence("a") is Presence.RUNNING
    # Started since the look: never absent because of the old look.
    engine.containers["c"] = Presence.RUNNING
    assert glance.presence("c") is Presence.RUNNING
    assert glance.presence("b") is Presence.STOPPED
    assert glance.presence("d") is Presence.ABSENT
    assert (engine.surveys, engine.asked) == (1, ["c", "b", "d"])


def test_a_look_is_good_for_a_moment_only():
    engine, clock = Engine(), Clock()
    glance = Glance(engine, "lab", clock)
    assert glance.presence("a") is Presence.RUNNING
    engine.containers["a"] = Presence.STOPPED
    clock.now += GOOD_SECONDS
    assert glance.presence("a") is Presence.STOPPED
    assert engine.surveys == 2


def test_an_engine_that_does_not_answer_is_asked_once_and_every_lab_is_unknown():
    engine, clock = Engine(), Clock()
    engine.broken = True
    glance = Glance(engine, "lab", clock)
    assert {glance.presence(lease) for lease in ("a", "b", "z")} == {Presence.UNKNOWN}
    assert (engine.surveys, engine.asked) == (1, [])
    engine.broken = False
    clock.now += GOOD_SECONDS
    assert glance.presence("a") is Presence.RUNNING
