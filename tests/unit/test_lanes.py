import threading

import pytest

from spawner.lanes import Lane, Lanes


def test_calls_of_one_name_keep_their_order():
    lanes, seen = Lanes(4), []
    futures = [lanes.submit("a", seen.append, number) for number in range(200)]
    for future in futures:
        future.result(10)
    assert seen == list(range(200))


def test_names_do_not_wait_for_each_other():
    lanes, gate = Lanes(4), threading.Event()
    stuck = lanes.submit("a", gate.wait, 30)
    assert lanes.submit("b", lambda: 7).result(10) == 7
    assert not stuck.done()
    gate.set()
    assert stuck.result(10)


def test_a_call_waits_for_one_whose_caller_gave_up():
    lanes, gate, seen = Lanes(4), threading.Event(), []

    def slow() -> None:
        gate.wait(30)
        seen.append("slow")

    first = lanes.submit("a", slow)
    second = lanes.submit("a", seen.append, "second")
    third = lanes.submit("a", seen.append, "third")
    assert second.cancel()
    gate.set()
    third.result(10)
    assert first.result(10) is None
    assert seen == ["slow", "third"]


def test_an_error_reaches_its_caller_and_not_the_next_call():
    lane = Lane(Lanes(1), "a")
    with pytest.raises(ZeroDivisionError):
        lane.submit(lambda: 1 / 0).result(10)
    assert lane.submit(lambda: "fine").result(10) == "fine"


def test_a_thousand_names_leave_no_lane_and_few_threads():
    lanes = Lanes(3)
    before = threading.active_count()
    for future in [lanes.submit(f"name{number}", int) for number in range(1000)]:
        future.result(10)
    assert threading.active_count() - before <= 3
    probe = lanes.submit("last", int)
    probe.result(10)
    # The lane is dropped right after its call ended; a second call through it proves that it was, by starting anew.
    assert lanes.submit("last", lambda: lanes.busy()).result(10) >= 1
