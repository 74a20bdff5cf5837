"""The arithmetic and the pictures of the measurements of scale; what they measure is not measured here."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import ledger, load, plot, restart, scene
from bench.load import Reading
from spawner.model import LeaseState


def test_the_target_is_held_against_the_same_percentile_of_the_bare_commit():
    taken = {ledger.BARE: [0.001] * 99 + [0.002], "acquire: free GPU": [0.004] * 100, "bind": [0.1] * 100}
    text = ledger.table(taken)
    (row,) = [line for line in text.splitlines() if "free GPU" in line]
    assert "4.000 | 4.000 | 4.00 | 3.96 | met" in row
    (other,) = [line for line in text.splitlines() if "bind" in line]
    assert other.endswith("|  |")
    assert text.splitlines()[2].startswith(f"| {ledger.BARE} |")


def test_a_p99_above_five_bare_commits_is_missed():
    taken = {ledger.BARE: [0.001] * 100, "acquire: free GPU": [0.001] * 90 + [0.006] * 10}
    assert "6.00 | missed" in ledger.table(taken)


def test_growth_is_held_against_the_logarithm_of_the_past():
    def taken(seconds: float) -> dict[str, list[float]]:
        return {ledger.BARE: [0.001]} | {what: [seconds] for what in ledger.HELD_TO_TARGET}

    found = {1_000: taken(0.001), 1_000_000: taken(0.0019)}
    assert "| 1.000 | 1.900 | 1.90 | no worse than logarithmic |" in ledger.growth_table(found)
    found[1_000_000] = taken(0.0021)
    assert "| 2.10 | worse than logarithmic |" in ledger.growth_table(found)


def test_the_scene_is_what_the_ledger_itself_would_read(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    scene.made(path).close()
    labs = scene.fill_present(path, 50)
    scene.fill_past(path, 0, 100)
    scene.fill_past(path, 100, 250)
    opened = scene.made(path)
    try:
        active = opened.active()
        assert len(active) == labs
        assert {lease.state for lease in active} == {LeaseState.BOUND}
        held = [uuid for lease in active for uuid in lease.gpus]
        assert len(held) == len(set(held)) == (scene.NODES - scene.FREE_NODES) * scene.PER_NODE
        assert len(opened.tickets()) == 50
        assert {ticket.request.gpu_models for ticket in opened.tickets()} == {(scene.WAITED_FOR,)}
        assert len(opened.events(limit=2000)) == 4 * 250
    finally:
        opened.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM leases WHERE state = 'released'").fetchone() == (250,)
    connection.close()


def test_one_round_on_a_small_scene_runs_every_operation(tmp_path: Path):
    found = ledger.measure(tmp_path, [20], 2, 60)[20]
    assert set(ledger.HELD_TO_TARGET) <= set(found)
    assert all(len(found[what]) >= 2 for what in ledger.HELD_TO_TARGET)
    assert len(found[ledger.BARE]) == 2 * 9


def test_axes_hold_all_values_in_whole_decades():
    assert list(plot.decades([0.2, 30.0])) == [-1, 0, 1, 2]
    assert list(plot.decades([10.0])) == [1, 2]
    with pytest.raises(ValueError, match="above zero"):
        plot.decades([0.0, 1.0])


def test_a_plot_is_svg_with_a_line_and_a_name_for_each():
    lines = {"a & b p50": [(1e3, 1.0), (1e6, 2.0)], "a & b p99": [(1e3, 3.0), (1e6, 4.0)]}
    root = ElementTree.fromstring(plot.svg("title", "x", "y", lines))
    drawn = root.findall("{*}polyline")
    assert [line.get("stroke-dasharray") for line in drawn] == [None, "6 4"]
    assert drawn[0].get("stroke") == drawn[1].get("stroke")
    assert {"a & b p50", "a & b p99"} <= {text.text for text in root.findall("{*}text")}


def test_cost_counts_all_of_the_services_and_what_the_hub_takes_beyond_idle():
    before = Reading(10.0, {"hub": 1.0, "settler": 2.0})
    after = Reading(20.0, {"hub": 1.5, "settler": 2.2, "line": 0.1})
    loaded = load.percent(before, after)
    assert loaded == pytest.approx({"hub": 5.0, "settler": 2.0, "line": 1.0})
    assert load.cost({"hub": 4.0, "settler": 1.0}, loaded) == pytest.approx(4.0)


def test_a_restart_is_judged_by_when_all_labs_are_ready():
    empty = [{"answers": 1.0, "all ready": 2.0}] * 3
    assert "| all ready | 2.00 | 2.80 | 1.40 | met |" in restart.table(50, empty, [{"answers": 1.0, "all ready": 2.8}] * 3)
    assert "| all ready | 2.00 | 3.20 | 1.60 | missed |" in restart.table(50, empty, [{"answers": 1.0, "all ready": 3.2}] * 3)
