"""Figures that notebooks and documents quote, held against the committed results they come from.

`python -m bench.notebooks` writes such a result. In the Markdown cells of a notebook every figure (`tests/support/quotes.py` says
what is one) is in the notebook's newest result, rounded as it is quoted, or is a constant of its code. In documents, a block that
names a notebook and has a figure follows a line `<!-- figures: NN_topic -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from bench.notebooks import source_of
from tests.support import quotes

REPO = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (REPO / "notebooks").glob("[0-9]*.py"))
# Not run in full yet since figures are recorded; judged as soon as there is a result.
AWAITED: set[str] = set()
# Their code changed after their newest full run: `await`, plots that were not shown, no compiling in a small lab, a model kept.
# Each is to be run again.
STALE = {"01_first_defect_model", "04_amp", "06_export_and_latency"}
PAGES = sorted(
    path.relative_to(REPO).as_posix()
    for path in (*REPO.glob("*.md"), *REPO.glob("docs/*.md"), *REPO.glob("images/**/*.md"), REPO / "bench" / "README.md")
)
MARK = re.compile(r"^<!-- figures: ([\w ]+) -->$", re.MULTILINE)


def results(name: str) -> list[dict[str, Any]]:
    """What was written of a notebook, the newest last."""
    found = [json.loads(path.read_text()) for path in (REPO / "bench" / "results").glob(f"*-notebook-{name}-*.json")]
    return sorted(found, key=lambda result: str(result["origin"]["when"]))


def newest(name: str, *, gpu: bool) -> dict[str, Any] | None:
    """The newest result on GPUs, or on two CPU cores."""
    found = [result["samples"] for result in results(name)]
    found = [sample for sample in found if (bool(sample["gpus"]) if gpu else not sample["gpus"] and sample["cpus"] == 2)]
    return found[-1] if found else None


@cache
def figures(name: str) -> dict[str, float]:
    """All that the newest results say, under names that differ between CPU and GPU."""
    found: dict[str, float] = {}
    for gpu in (False, True):
        if sample := newest(name, gpu=gpu):
            told = {**sample["figures"], "run_seconds": sample["seconds"], "run_peak_bytes": sample["peak_bytes"]}
            found |= {f"{'gpu' if gpu else 'cpu'}.{key}": value for key, value in told.items()}
    return found


@cache
def cells(name: str) -> tuple[tuple[str, str], ...]:
    notebook = jupytext.read(REPO / "notebooks" / f"{name}.py")
    return tuple((cell.cell_type, cell.source) for cell in notebook.cells)


@cache
def constants(name: str) -> set[float]:
    """Numbers of a notebook's code."""
    code = [source for kind, source in cells(name) if kind == "code"]
    return {value for source in code for value in quotes.constants(re.sub(r"^\s*[!%].*$", "", source, flags=re.MULTILINE))}


@cache
def settings() -> set[float]:
    """Numbers of the library's modules and classes."""
    files = (REPO / "notebooks" / "defectlab").glob("*.py")
    return {value for path in files for value in quotes.constants(path.read_text(), top=True)}


def foreign(text: str, names: list[str]) -> list[str]:
    """The figures of a text that none of these notebooks recorded and none has in its code."""
    known = {f"{name}.{key}": value for name in names for key, value in figures(name).items()}
    own = {value for name in names for value in constants(name)}
    found = quotes.quotes(text)
    return [q.text for q in found if not quotes.recorded(q, known) and not quotes.constant(q, own, settings())]


def header(name: str) -> dict[str, str]:
    """The table at the top of a notebook."""
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", cells(name)[0][1], flags=re.MULTILINE)
    return dict(rows)


def awaited(name: str) -> bool:
    return name in AWAITED and not results(name)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_newest_result_is_of_the_notebook_as_it_stands(name: str) -> None:
    if awaited(name):
        return
    notebook = nbformat.read(REPO / "notebooks" / f"{name}.ipynb", as_version=4)
    fresh = results(name)[-1]["samples"]["code"] == source_of(notebook)
    assert fresh != (name in STALE), f"{name}: {'take it out of STALE' if fresh else 'run it again: make bench OF=notebooks'}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_prose_quotes_what_was_recorded(name: str) -> None:
    for kind, source in cells(name):
        if kind == "markdown" and not awaited(name):
            prose = re.sub(r"^\|.*\|$", "", source, flags=re.MULTILINE) if "to expect |" in source else source
            wrong = foreign(prose, [name])
            assert not wrong, f"{name} quotes {wrong}, which no committed result and no code of it says, in:\n{source}"


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize(("row", "gpu"), [("time on two CPU cores", False), ("time on a GPU", True)])
def test_header_tells_the_time_that_it_took(name: str, row: str, gpu: bool) -> None:
    told, sample = header(name)[row], newest(name, gpu=gpu)
    quoted = quotes.span(told)
    if awaited(name):
        return
    if quoted is None:
        same = gpu and told.startswith("the same")
        assert "not measured" in told or same, f"{row}: {told!r} is neither a time nor 'not measured yet'"
        return
    assert sample is not None, f"{row}: {told!r}, but no result is committed: write 'not measured yet'"
    assert abs(quoted - sample["seconds"]) <= max(15.0, sample["seconds"] / 4), f"{told!r}, but it took {sample['seconds']} s"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_header_tells_the_memory_that_it_took(name: str) -> None:
    told, sample = header(name)["memory"], newest(name, gpu=False)
    quoted = re.search(r"(\d+(?:\.\d+)?) GB", told)
    if awaited(name):
        return
    if quoted is None:
        assert "not measured" in told, f"{told!r} is neither a figure nor 'not measured yet'"
        return
    assert sample is not None, f"{told!r}, but no result is committed: write 'not measured yet'"
    peak = sample["peak_bytes"] / 1e9
    assert abs(float(quoted[1]) - peak) <= max(0.3, peak / 4), f"{told!r}, but it took {peak:.2f} GB"


def blocks(page: str) -> Iterator[tuple[list[str], str]]:
    """Pieces of a page between empty lines (of a table: its rows), each with the notebooks that a mark before it names."""
    for block in re.split(
        r"\n\s*\n", re.sub(r"^```.*?^```$", "", (REPO / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    ):
        mark = MARK.search(block)
        if mark or not block.lstrip().startswith("|"):
            yield (mark[1].split() if mark else []), MARK.sub("", block)
        else:
            yield from (([], row) for row in block.splitlines())


@pytest.mark.parametrize("page", PAGES)
def test_documents_say_which_result_a_figure_is_from(page: str) -> None:
    for names, block in blocks(page):
        assert set(names) <= set(NOTEBOOKS), f"no such notebook among {names}"
        named = [name for name in NOTEBOOKS if re.search(rf"\b{name}\b", block)]
        if named and not names:
            told = [quote.text for quote in quotes.quotes(block)]
            assert not told, f"{page} quotes {told} beside {named} without a line `<!-- figures: … -->` before it"
        if names:
            wrong = foreign(block, names)
            assert not wrong, f"{page} quotes {wrong}, which no committed result of {names} says"


def test_results_are_of_whole_runs_and_say_where_they_come_from() -> None:
    for path in (REPO / "bench" / "results").glob("*-notebook-*.json"):
        found = json.loads(path.read_text())
        origin, sample = found["origin"], found["samples"]
        assert sample["notebook"] in NOTEBOOKS
        assert {"when", "commit", "machine", "versions", "image", "limits", "command", "load before"} <= set(origin)
        assert {"python", "torch", "numpy"} <= set(origin["versions"])
        assert sample["figures"]
        assert sample["seconds"] > 0 < sample["peak_bytes"]
        assert path.with_suffix(".md").is_file()
