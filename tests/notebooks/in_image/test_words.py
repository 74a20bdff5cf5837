from __future__ import annotations

import argparse

import pytest
from defectlab import words
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 10**9), st.integers(0, 100))
def test_a_whole_number_is_read_from_the_least_on(number: int, least: int) -> None:
    read = words.whole(least)
    if number >= least:
        assert read(str(number)) == number
    else:
        with pytest.raises(argparse.ArgumentTypeError, match=f"is not a whole number from {least} on"):
            read(str(number))


@given(st.text(max_size=6).filter(lambda text: not (text.isascii() and text.isdecimal())))
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        words.whole()(text)


@pytest.mark.parametrize("text", ["0", "1", "-0.1", "nan", "inf", "much", ""])
def test_a_share_lies_between_0_and_1(text: str) -> None:
    assert words.share("3e-3") == 0.003
    with pytest.raises(argparse.ArgumentTypeError, match="between 0 and 1"):
        words.share(text)


def test_one_rank_complains(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for rank, said in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            words.Parser(prog="ddp.py").parse_args(["--unknown"])
        assert ended.value.code == 2
        assert ("--unknown" in capsys.readouterr().err) is said
