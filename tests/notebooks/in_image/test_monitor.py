from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from defectlab import monitor
from defectlab.train import History, Progress, Stopped, Watch


def at(step: int, epoch: int = 1, validation: float | None = None, steps: int = 10) -> Progress:
    return Progress(epoch, 5, step, steps, 0.5, validation, float(step), 100.0)


def test_a_training_runs_beside_and_gives_its_history(tmp_path: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def work(watch: Watch) -> History:
        watch(at(1))
        watch(at(3, epoch=2, validation=0.9))
        arrived.set()
        go_on.wait(30)
        return History([1.0, 0.8], [0.9, 0.7], best=1, seconds=2.0)

    training = monitor.start(work, log=tmp_path / "runs" / "log.jsonl")
    assert arrived.wait(30)
    state = training.state
    assert (state.word, state.losses, state.over) == ("running", (0.9,), False)
    assert state.progress == at(3, epoch=2, validation=0.9)
    assert not training.wait(0)
    go_on.set()
    assert training.result().best == 1
    assert (training.state.word, training.state.losses, training.state.over) == ("done", (0.9, 0.7), True)
    lines = monitor.read(tmp_path / "runs" / "log.jsonl")
    assert [word for word, _ in lines] == ["running", "done"]
    assert lines[-1][1] == at(3, epoch=2, validation=0.9)


def test_a_stop_ends_it_at_the_next_step() -> None:
    began, stopped = threading.Event(), threading.Event()

    def work(watch: Watch) -> History:
        watch(at(1))
        began.set()
        stopped.wait(30)
        watch(at(2))
        raise AssertionError("it went on")

    training = monitor.start(work)
    assert began.wait(30)
    training.stop()
    assert training.state.word == "stopping"
    stopped.set()
    with pytest.raises(Stopped):
        training.result()
    assert training.state.word == "stopped"
    training.stop()
    assert training.state.word == "stopped"


def test_a_failure_is_told_and_not_lost() -> None:
    def work(watch: Watch) -> History:
        raise ValueError("the images are gone")

    training = monitor.start(work)
    with pytest.raises(ValueError, match="the images are gone"):
        training.result()
    assert (training.state.word, training.state.error) == ("failed", "ValueError: the images are gone")


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def work(watch: Watch) -> History:
        watch(at(1))
        return History([1.0], [1.0])

    assert monitor.start(work, log=tmp_path / "file" / "log").result().train_loss == [1.0]


def test_a_log_with_a_torn_line_is_read_without_it(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def work(watch: Watch) -> History:
        watch(at(1))
        return History([1.0], [1.0])

    monitor.start(work, log=log).result()
    whole = monitor.read(log)
    log.write_text(log.read_text() + '{"word": "running", "epo\n[]\n')
    assert monitor.read(log) == whole
    assert monitor.read(tmp_path / "none") == []


@pytest.mark.parametrize("named", [{"log": "run.jsonl"}, {"checkpoint": Path("run.checkpoint")}], ids=["log", "checkpoint"])
def test_a_cell_that_is_run_again_gets_the_training_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    arrived, go_on = threading.Event(), threading.Event()

    def work(watch: Watch, checkpoint: Path | None = None) -> History:
        watch(at(1))
        arrived.set()
        go_on.wait(30)
        return History([1.0])

    first = monitor.start(work, **named)
    assert arrived.wait(30)
    assert monitor.start(work, **named) is first
    assert monitor.start(work, log="other") is not first
    go_on.set()
    first.result()
    assert monitor.start(work, **named) is not first


def test_whoever_waits_by_await_leaves_the_kernel_free() -> None:
    go_on = threading.Event()

    def work(watch: Watch) -> History:
        watch(at(1))
        go_on.wait(30)
        return History([1.0])

    async def cell_and_messages() -> tuple[History, int]:
        answered = 0
        waiting = asyncio.create_task(monitor.start(work).finished())
        while not waiting.done():
            answered += 1
            if answered == 3:
                go_on.set()
            await asyncio.sleep(0)
        return await waiting, answered

    history, answered = asyncio.run(cell_and_messages())
    assert history.train_loss == [1.0]
    assert answered >= 3


def test_waiting_by_await_raises_what_the_training_failed_with() -> None:
    def work(watch: Watch) -> History:
        raise ValueError("the images are gone")

    with pytest.raises(ValueError, match="the images are gone"):
        asyncio.run(monitor.start(work).finished())


def test_what_else_is_given_reaches_the_work() -> None:
    def work(epochs: int, *, rate: float, watch: Watch) -> History:
        watch(at(1))
        return History([rate] * epochs)

    assert monitor.start(work, 3, rate=0.5).result().train_loss == [0.5, 0.5, 0.5]


def test_the_time_that_remains() -> None:
    assert monitor.remaining(at(0)) is None
    assert monitor.remaining(at(4)) == pytest.approx(6.0)
    told = [monitor.spoken(seconds) for seconds in (None, 0.2, 59.6, 61, 3700)]
    assert told == ["not known yet", "0 s", "1 min 00 s", "1 min 01 s", "1 h 01 min"]
    assert (monitor.best([]), monitor.best([3.0, 1.0, 2.0])) == (None, 2)
