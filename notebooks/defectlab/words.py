"""The words of a command line.

Owns numbers that are checked when they are read, and who complains about the others. Never knows what a word is for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from defectlab import launch


class Parser(argparse.ArgumentParser):
    """A parser for a script that runs on several ranks: one of them complains, not all."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2; the first rank says why."""
        if not launch.is_first():
            sys.exit(2)
        super().error(message)


def whole(least: int = 0) -> Callable[[str], int]:
    """Reads a whole number from `least` on."""

    def read(text: str) -> int:
        # Unlike int(), isdecimal() takes neither signs, blanks nor underscores; and only then are there digits of one script.
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return read


def share(text: str) -> float:
    """Reads a number between 0 and 1, neither of them included."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return found
