"""What counts as a figure in prose, and when a recorded number is the one that is quoted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import quotes


def told(text: str) -> list[str]:
    return [quote.text for quote in quotes.quotes(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("an AUROC of 0.993, and 93 % recall", ["0.993", "93 %"]),
        ("12.1 ms for one, 1,300 images per second in all", ["12.1 ms", "1,300 images per second"]),
        ("caught 351 of 360 defects", ["351 of 360", "351 of 360"]),
        ("ends after 3 seconds.", ["3 seconds"]),
        ("1.4 times as fast", ["1.4 times"]),
        ("two ranks, 360 defects, notebook 01, 3 × 3", []),
        ("CC BY-SA 4.0, Apache-2.0, since PyTorch 2.9, `0.5` and ```\n0.7\n```", []),
        ('the claim is "40 % faster, 3.6 times on 4" and\n    x = 0.5\nthe rest', []),
    ],
)
def test_figures_are_numbers_with_a_point_or_a_unit(text: str, found: list[str]) -> None:
    assert told(text) == found


@pytest.mark.parametrize(
    ("text", "name", "value", "right"),
    [
        ("0.993", "auroc.value", 0.99271, True),
        ("0.993", "auroc.value", 0.9924, False),
        ("93 %", "recall", 0.9312, True),
        ("93.2 %", "recall", 0.9312, False),
        ("12.1 ms", "p99_ms.ONNX", 12.07, True),
        ("12.1 ms", "p99_seconds.ONNX", 0.01207, True),
        ("12.1 ms", "p99", 12.07, False),
        ("2 minutes", "run_seconds", 118.0, True),
        ("1,300 images per second", "images_per_second.fp32", 1284.0, True),
        ("1,284 images per second", "images_per_second.fp32", 1299.0, False),
        ("2.1 GB", "run_peak_bytes", 2_098_000_000, True),
        ("1.4 times", "speedup", 1.437, True),
        ("about 30 ms", "step_ms", 28.0, True),
        ("30 ms", "step_ms", 28.0, False),
    ],
)
def test_a_quote_is_a_recorded_number_rounded_as_it_is_quoted(text: str, name: str, value: float, right: bool) -> None:
    (quote,) = quotes.quotes(text)
    assert quotes.recorded(quote, {"other": -1.0, name: value}) is right


@given(st.floats(0.001, 0.999), st.integers(1, 5))
def test_every_rounding_of_a_number_is_that_number(value: float, digits: int) -> None:
    (quote,) = quotes.quotes(f"it was {value:.{digits}f} here")
    assert quotes.recorded(quote, {"auroc": value})
    assert not quotes.recorded(quote, {"auroc": value + 1.01 * 10.0**-digits})


def test_constants_of_the_code_may_be_spoken_of() -> None:
    own = quotes.constants("assert recall_at(scores, 0.01) > PUBLISHED['SVM'] and p99 < 200")
    for text, right in (("1 %", True), ("200 ms", True), ("2 %", False), ("0.3", False)):
        (quote,) = quotes.quotes(text)
        assert quotes.constant(quote, own, set()) is right
    (level,) = quotes.quotes("95 %")
    assert quotes.constant(level, own, quotes.constants("LEVEL = 0.95", top=True))
    assert quotes.constants("def f():\n    return 0.95", top=True) == set()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("about 6 minutes (10 on one)", 360),
        ("half a minute", 30),
        ("about 1 minute and a half", 90),
        ("a minute", 60),
        ("40 seconds", 40),
        ("not measured yet", None),
    ],
)
def test_the_times_of_headers_are_understood(text: str, seconds: float | None) -> None:
    found = quotes.span(text)
    assert found == seconds or math.isclose(found or 0, seconds or 1)
