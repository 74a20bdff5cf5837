"""The board: what each viewer sees of the lab, what changes are told, and that nobody learns another one's name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spawner import placement, policy, present
from spawner.errors import LabError, LedgerError, NoGpuFree
from spawner.grants import SharingRule
from spawner.ledger import Ledger
from spawner.model import Gpu, GpuRequest, Holder, LabConfig, Lease, LeaseState
from spawner.pages import board, board_history
from spawner.pages.board import Looker, gpu_rows, labels
from spawner.pages.board_shown import LINE_SHOWN, Shown
from spawner.pages.board_views import Load
from spawner.pages.viewer import Viewer
from spawner.records import Fault, GpuMark, GpuSample, Maintenance, MarkKind, Tally, Ticket, Watch
from spawner.runtime import Lab
from tests.unit.pages_html import NASTY, Page, render
from tests.unit.values import T0, after, make_facts, make_gpu, make_lease, shipped_config

ADMIN = Viewer("root", names=True, acts=True)
ANA, BO, NOBODY = Viewer("ana"), Viewer("bo"), Viewer()


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime:
        return self.now


class World:
    """A lab with two GPUs on a real ledger."""

    def __init__(self, folder: Path) -> None:
        self.gpus: tuple[Gpu, ...] = (make_gpu(0), make_gpu(1))
        self.trouble: LabError | None = None
        self.clock = Clock()
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}")
        ids = iter(f"{number:032x}" for number in range(0xABC000, 0xABD000))
        config = replace(shipped_config(), state=folder)
        inventory: Any = SimpleNamespace(gpus=self._gpus, links=dict)
        engine: Any = None
        self.lab = Lab(config, self.ledger, engine, inventory, self.clock, lambda: next(ids))
        self.looker = Looker(self.lab)

    def _gpus(self) -> tuple[Gpu, ...]:
        if self.trouble:
            raise self.trouble
        return self.gpus

    def ask(self, user: str, profile: str, server: str = "") -> Lease | Ticket:
        lab = self.lab
        return self.ledger.acquire(
            lab.config.profiles[profile].request(), Holder(user, server), lab.units(), lease_id=lab.new_id(),
            now=self.clock(), admit=policy.admit(lab.config, frozenset({"secret-group"})), choose=placement.packed,
        )  # fmt: skip

    def run(self, user: str, profile: str, server: str = "") -> Lease:
        lease = self.ask(user, profile, server)
        assert isinstance(lease, Lease)
        self.ledger.bind(lease.id, self.clock())
        return lease

    def shown(self, before: Shown | None = None) -> Shown:
        return Shown(self.looker.look(), before)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.ledger.close()


def by_label(seen: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {gpu["label"]: gpu for gpu in seen["gpus"]}


# --- what is seen


def test_free_and_held_gpus_with_times_and_load(world: World):
    lease = world.run("ana", "gpu-1", "train")
    held = lease.gpus[0]
    world.ledger.note_samples([GpuSample(held, T0, 35, 2048, 61)])
    world.ledger.set_end(lease.id, after(3600), "lab", T0)
    world.ledger.watch(Watch(lease.id, idle_since=after(-60), stop_at=after(600)))
    seen = {gpu["id"]: gpu for gpu in world.shown().board(ANA)["gpus"]}
    mine, free = seen.pop(held), next(iter(seen.values()))
    assert (mine["state"], mine["words"], mine["mine"]) == ("held", "held by you (lab “train”)", True)
    assert (mine["load"], mine["used"], mine["heat"]) == ("35 %", "2 of 23.4 GB", "61 °C")
    assert datetime.fromisoformat(mine["ends"]) == after(3600)
    assert datetime.fromisoformat(mine["idle_since"]) == after(-60)
    assert datetime.fromisoformat(mine["stop_at"]) == after(600)
    assert (free["state"], free["words"], free["holder"], free["load"]) == ("free", "free", None, "")


def test_an_old_sample_says_nothing_about_now(world: World):
    world.ledger.note_samples([GpuSample(world.gpus[0].uuid, after(-61), 35, 2048, 61)])
    assert {gpu["utilisation"] for gpu in world.shown().board(ADMIN)["gpus"]} == {None}


def test_every_state_of_a_lease_has_a_word_of_its_own():
    gpu = make_gpu(0)
    words = set()
    for state in LeaseState:
        if state is not LeaseState.RELEASED:
            (row,) = gpu_rows([gpu], [make_lease("ana", (gpu.uuid,), state=state)], [], {})
            words |= {row.seen(ADMIN)["words"], row.seen(NOBODY)["words"]}
            assert "ana" not in row.seen(NOBODY)["words"]
    assert len(words) == 8


@pytest.mark.parametrize("subject", ["GPU-00000000-0000-4000-8000-000000000000", "n1"])
def test_a_drained_gpu_or_node_is_out_with_the_reason(subject: str):
    mark = GpuMark(subject, MarkKind.DRAINED, "new fan", "root", T0)
    (row,) = gpu_rows([make_gpu(0)], [], [mark], {})
    assert (row.state, row.seen(ADMIN)["words"]) == ("drained", "drained by an admin: new fan")
    assert row.seen(ADMIN)["out"]["by"] == "root"
    assert row.seen(NOBODY)["out"]["by"] == "", "an admin is a person too"


def test_who_holds_a_drained_gpu_keeps_it_on_the_board():
    gpu = make_gpu(0)
    marks = [GpuMark(gpu.uuid, MarkKind.DRAINED, "new fan", "root", T0), GpuMark("n1", MarkKind.SICK, "Xid 79", "lab", T0)]
    (row,) = gpu_rows([gpu], [make_lease("ana", (gpu.uuid,))], marks, {})
    assert row.state == "held"
    assert row.seen(ADMIN)["words"] == "held by ana (default lab); sick: Xid 79"


def test_a_leased_gpu_that_the_driver_does_not_show_is_missing():
    rows = gpu_rows([make_gpu(0)], [make_lease("ana", (make_gpu(7).uuid,))], [], {})
    assert [row.state for row in rows] == ["free", "missing"]
    rows = gpu_rows([], [make_lease("ana", (make_gpu(7).uuid,))], [], {}, unknown=True)
    assert [row.state for row in rows] == ["unknown"], "a driver that does not answer has not lost a GPU"


def test_seats_and_parts_have_names_of_their_own_and_seats_say_that_memory_is_not_isolated(world: World):
    rule = SharingRule(frozenset({make_gpu(0).uuid}), frozenset(), 2)
    config = replace(world.lab.config, gpus=replace(world.lab.config.gpus, sharing=(rule,)))
    units = replace(world.lab, config=config).units()
    part = replace(make_gpu(1), uuid="MIG-1", parent=make_gpu(1).uuid)
    assert sorted(labels([*units[:2], part]).values()) == ["GPU 0, seat 1", "GPU 0, seat 2", "GPU 1, part 1"]
    rows = gpu_rows(units, [], [], {})
    assert [row.seen(NOBODY)["note"] for row in rows] == ["memory is not isolated"] * 2 + [""]


def test_a_seat_is_not_free_while_its_gpu_is_leased_whole():
    gpu = make_gpu(0)
    seats = [replace(gpu, uuid=f"{gpu.uuid}#{number}", seats=2) for number in range(2)]
    rows = gpu_rows(seats, [make_lease("ana", (gpu.uuid,))], [], {})
    assert [row.state for row in rows if row.shared] == ["held", "held"]


def test_counts_and_line(world: World):
    lease = world.run("ana", "gpu-2")
    world.ledger.set_end(lease.id, None, "lab", T0)
    world.ask("bo", "gpu-1", "night")
    world.ask("cem", "gpu-2")
    seen = world.shown().board(ADMIN)
    assert seen["summary"]["headline"] == "0 of 2 GPUs free, 2 requests in line."
    assert [(t["number"], t["who"], t["what"]) for t in seen["line"]] == [
        (1, "bo (lab “night”)", "1 GPU"),
        (2, "cem (default lab)", "2 GPUs"),
    ]
    assert seen["line"][0]["expected"] is None, "nobody knows when ana stops"
    waits = {profile["key"]: profile["wait"] for profile in seen["profiles"]}
    assert waits["gpu-1"] == "Waiting time unknown, behind 2 requests in line."
    assert waits["cpu"] == ""


def test_wait_is_foretold_from_the_ends_of_leases(world: World):
    lease = world.run("ana", "gpu-2")
    world.ledger.set_end(lease.id, after(40 * 60), "lab", T0)
    waits = {profile["key"]: profile for profile in world.shown().board(BO)["profiles"]}
    assert waits["gpu-1"] == {"key": "gpu-1", "free": 0, "wait": "Expected in about 40 minutes."}


def test_a_drained_gpu_is_free_for_nobody(world: World):
    world.ledger.mark(GpuMark(world.gpus[0].uuid, MarkKind.DRAINED, "new fan", "root", T0))
    profiles = {profile["key"]: profile for profile in world.shown().board(BO)["profiles"]}
    assert (profiles["gpu-1"]["free"], profiles["gpu-1"]["wait"]) == (1, "Starts at once.")
    assert profiles["gpu-2"] == {"key": "gpu-2", "free": 1, "wait": ""}, "waiting would not help"


def test_the_form_says_what_is_out_of_use_and_does_not_count_it(world: World):
    world.ledger.mark(GpuMark(world.gpus[0].uuid, MarkKind.DRAINED, "new fan", "root", T0))
    data = present.gather(replace(world.lab, engine=SimpleNamespace(facts=make_facts)))
    drawn = Page(present.form(data, Holder("bo"), world.lab.config))
    assert "1 of 2 GPUs free" in drawn.text
    assert "drained by an admin: new fan" in drawn.text


def test_the_form_names_others_only_where_lab_yaml_says_so(world: World):
    world.run("ana", "gpu-1", "anas-lab")
    data = present.gather(replace(world.lab, engine=SimpleNamespace(facts=make_facts)))
    config = world.lab.config
    assert "anas-lab" not in present.form(data, Holder("bo"), config)
    assert "held by another person since" in Page(present.form(data, Holder("bo"), config)).text
    assert "held by you (lab “anas-lab”)" in Page(present.form(data, Holder("ana"), config)).text
    shown = replace(config, board=replace(config.board, names_for_everyone=True))
    assert "held by ana (lab “anas-lab”)" in Page(present.form(data, Holder("bo"), shown)).text


def test_a_refusal_names_the_holders_unless_lab_yaml_keeps_them(world: World):
    world.run("ana", "gpu-2", "anas-lab")
    lab = replace(world.lab, engine=SimpleNamespace(facts=make_facts))
    data, refused = present.gather(lab), NoGpuFree("", "", wanted=1, free=0, total=2)

    def told(config: LabConfig) -> str:
        return "".join(present.no_gpu_free(refused, GpuRequest("gpu-1", 1), data, Holder("bo"), config))

    assert "held by ana (lab “anas-lab”)" in told(lab.config)
    kept = told(replace(lab.config, line=replace(lab.config.line, show_holders=False)))
    assert "held by another person" in kept
    assert "ana" not in kept


# --- nobody learns what is not theirs to know


def test_an_engineer_reads_no_name_and_no_id_of_others(world: World):
    lease = world.run("ana", "gpu-2", "anas-lab")
    ticket = world.ask("cem", "gpu-1", "cems-lab")
    mine = world.ask("bo", "gpu-1", "bos-lab")
    world.ledger.mark(GpuMark(world.gpus[0].uuid, MarkKind.DRAINED, "new fan", "root", T0))
    world.ledger.set_maintenance(Maintenance(T0, "new disks", "root"), "root", T0)
    world.ledger.note_samples([GpuSample(world.gpus[0].uuid, T0, 3, faults=(Fault("xid", "pid 4711 of ana", 79),))])
    shown = world.shown()
    secrets = ["ana", "cem", "root", "anas-lab", "cems-lab", "secret-group", lease.id, ticket.id, "4711"]
    for viewer in (BO, NOBODY):
        text = json.dumps([shown.board(viewer), shown.line(viewer, 1000), shown.change(viewer, Shown(board.BoardView(T0)))])
        assert [secret for secret in secrets if secret in text] == []
        assert (mine.id in text) == (viewer is BO)
    assert all(secret in json.dumps(shown.board(ADMIN)) for secret in secrets[:5])


def test_a_change_never_tells_more_than_the_board(world: World):
    before = world.shown()
    world.run("ana", "gpu-1", "anas-lab")
    world.run("bo", "gpu-1", "bos-lab")
    after_ = world.shown(before)
    told = after_.change(BO, before)
    assert told is not None
    assert "ana" not in json.dumps(told)
    whole = {gpu["id"]: gpu for gpu in after_.board(BO)["gpus"]}
    assert [whole[gpu["id"]] | gpu for gpu in told["gpus"]] == list(whole.values())


def test_a_change_is_made_once_for_all_whom_it_concerns_alike(world: World):
    first = world.shown()
    world.run("ana", "gpu-1", "anas-lab")
    second = world.shown(first)
    assert second.change_text(BO, first) is second.change_text(Viewer("cem"), first)
    assert "ana" not in second.change_text(BO, first)
    assert "held by you" in second.change_text(ANA, first)
    assert "held by ana" in second.change_text(ADMIN, first)
    for viewer in (ANA, BO, ADMIN, NOBODY):
        assert json.loads(second.change_text(viewer, first)) == second.change(viewer, first)
        assert second.change_text(viewer, second) == ""


def test_lab_yaml_may_show_the_names_to_everyone(world: World):
    world.run("ana", "gpu-1")
    assert world.shown().board(replace(BO, names=True))["gpus"][0]["words"] == "held by ana (default lab)"


def test_hidden_profiles_are_not_foretold(world: World):
    keys = {profile["key"] for profile in world.shown().board(replace(BO, hidden=frozenset({"gpu-2"})))["profiles"]}
    assert "gpu-1" in keys
    assert "gpu-2" not in keys


# --- news


def test_only_what_changed_is_told(world: World):
    first = world.shown()
    assert world.looker.look() is first.view, "an unchanged ledger is not read again"
    lease = world.run("ana", "gpu-1")
    second = world.shown(first)
    change = second.change(ADMIN, first)
    assert change is not None
    assert [gpu["id"] for gpu in change["gpus"]] == list(lease.gpus)
    assert change["summary"]["free"] == 1
    assert not {"line", "nodes", "maintenance"} & set(change)


def test_a_gpu_that_goes_away_is_told(world: World):
    first = world.shown()
    gone, world.gpus = world.gpus[1], world.gpus[:1]
    second = Shown(world.looker.look(slow=0), first)
    change = second.change(BO, first)
    assert change is not None
    assert change["gone"] == [gone.uuid]


def test_loads_are_told_apart_and_only_when_they_change(world: World):
    uuid = world.gpus[0].uuid
    world.ledger.note_samples([GpuSample(uuid, T0, 10, 100, 50)])
    first = world.shown()
    world.ledger.note_samples([GpuSample(uuid, after(1), 10, 100, 50)])
    second = Shown(world.looker.look(slow=0), first)
    assert second.load_text(first) == ""
    world.ledger.note_samples([GpuSample(uuid, after(2), 90, 100, 50)])
    third = Shown(world.looker.look(slow=0), second)
    assert third.change(ADMIN, second) is None
    assert json.loads(third.load_text(second))["gpus"][uuid]["load"] == "90 %"


def test_a_driver_in_trouble_is_a_sentence_and_the_rest_stays(world: World):
    world.run("ana", "gpu-1")
    first = world.shown()
    world.trouble = LabError("The driver does not answer.")
    world.clock.now = after(1)
    second = Shown(world.looker.look(slow=0), first)
    assert second.view.problem == "The driver does not answer."
    assert [row.state for row in second.view.rows] == [row.state for row in first.view.rows]
    world.trouble = None
    assert world.looker.look().problem == "", "asked again at once, not when the journal tells something"


def test_a_ledger_in_trouble_keeps_the_last_board(world: World, monkeypatch: pytest.MonkeyPatch):
    first = world.looker.look()

    def fail() -> int:
        raise LedgerError("The ledger is away.")

    monkeypatch.setattr(world.lab.ledger, "version", fail)
    second = world.looker.look()
    assert (second.problem, second.rows) == ("The ledger is away.", first.rows)
    assert world.looker.look() is second


def test_a_long_line_is_told_in_part_but_always_ones_own(world: World):
    first = world.shown().view
    row = board.TicketRow("0" * 32, Holder("x"), 1, 1, "gpu-1", 1, T0, None, "")
    many = tuple(replace(row, number=n, holder=Holder("bo" if n == 150 else "x")) for n in range(1, 201))
    shown = Shown(replace(first, line=replace(first.line, tickets=many, waiting=200)))
    assert [t["number"] for t in shown.line(BO)] == [*range(1, LINE_SHOWN + 1), 150]


# --- the picture of the day


def tally(minutes: float, **changes: Any) -> Tally:
    values = {"total": 4, "held": 2, "idle": 1, "out": 0, "waiting": 3, "busy": 50.0} | changes
    return Tally(T0 - timedelta(minutes=minutes), **values)


def test_a_request_for_seats_says_that_their_memory_is_not_isolated():
    row = board.TicketRow("0" * 32, Holder("x"), 1, 1, "seat", 1, T0, None, "", shared=True)
    assert row.seen(NOBODY)["what"] == "1 GPU (memory is not isolated)"


def test_picture_breaks_where_nobody_counted_and_has_a_table():
    picture = board_history.picture([tally(180), tally(175), tally(60), tally(55, busy=None)], T0)
    held = next(line for line in picture.lines if line.name == "held")
    assert held.path.count("M") == 2
    assert picture.top == 4
    assert [(row.since.hour, row.held, row.busy) for row in picture.hours] == [(5, 2, 50), (7, 2, 50)]
    assert picture.summary == "In the last 24 hours 50 % of all GPU time was held; at most 3 requests were in line."
    assert len({line.dashes for line in picture.lines}) == len(picture.lines), "told apart without colour"


def test_picture_of_nothing_says_so():
    picture = board_history.picture([tally(25 * 60)], T0)
    assert picture.summary == "Nothing was counted in the last 24 hours."
    assert picture.hours == ()


# --- the page


def page(shown: Shown, viewer: Viewer, **more: Any) -> Page:
    picture = board_history.picture([tally(60), tally(55)], T0)
    return Page(render("gpus.html", board=shown.board(viewer), viewer=viewer, history=picture, **more))


def test_page_is_whole_without_its_script_and_labelled(world: World):
    world.run("ana", "gpu-2")
    world.ask("bo", "gpu-1")
    shown = world.shown()
    for viewer in (ADMIN, BO, NOBODY):
        drawn = page(shown, viewer)
        drawn.assert_labelled()
        assert "0 of 2 GPUs free, 1 request in line." in drawn.text
        assert "memory" in drawn.text.lower()
        assert ("held by ana" in drawn.text) == viewer.names
        acts = [a for a in drawn.all("button") if a.get("data-act") in ("drain", "end", "front", "maintenance")]
        assert bool(acts) == viewer.acts
        assert not [a for a in drawn.all("script") if not (a.get("src") or "").startswith("/hub/static/")]


def test_names_and_reasons_stay_text_on_the_page(world: World):
    world.run(NASTY, "gpu-1", NASTY)
    world.ledger.mark(GpuMark(world.gpus[1].uuid, MarkKind.DRAINED, NASTY, NASTY, T0))
    world.ledger.set_maintenance(Maintenance(T0, NASTY, NASTY), NASTY, T0)
    drawn = page(world.shown(), ADMIN)
    assert 'alert("x")' in drawn.text
    assert not [a for a in drawn.all("script") if "src" not in a]


def test_a_mig_instance_has_no_utilisation_and_says_so():
    told = Load(None, 2048, 50, T0, mig=True).json(4096)
    assert (told["utilisation"], told["load"]) == (None, "not measured for MIG")
    assert Load(None, 2048, 50, T0).json(4096)["load"] == ""
    assert Load(0, 2048, 50, T0).json(4096)["load"] == "0 %"
