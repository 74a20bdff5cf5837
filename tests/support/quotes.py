"""Figures in prose, and where they come from.

Owns what counts as a figure, and when a recorded number is the one that is quoted. Never reads a file.

A figure is a number with a decimal point or with a unit, or two numbers as in "7 of 9". Bare whole numbers count things that
anybody can see, such as ranks and images. What stands in double quotes or backticks is said by somebody else, or is code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SECONDS = {"ms": 1e-3, "s": 1.0, "second": 1.0, "minute": 60.0, "hour": 3600.0}
BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "MiB": 2.0**20, "GiB": 2.0**30}
SHARES = {"%": 0.01}
PLAIN = {"times": 1.0, "images per second": 1.0, "images/s": 1.0, "": 1.0}
UNITS = "|".join(sorted((re.escape(unit) for unit in {**SECONDS, **BYTES, **SHARES, **PLAIN} if unit), key=len, reverse=True))
NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
# 4.0 of a licence and 2.9 of PyTorch measure nothing.
NAMES = r"(?<!BY )(?<!SA )(?<!NC )(?<!PyTorch )(?<!Python )(?<!CUDA )(?<!version )(?<!opset )"
FIGURE = re.compile(rf"{NAMES}(?<![\w.,/-])(?P<number>{NUMBER})(?:[  ]?(?P<unit>{UNITS})s?(?![\w/]))?(?![\w]|[.,]\d)")
OF = re.compile(rf"(?<![\w.,])(?P<part>{NUMBER}) of (?:the |its |all |all the )?(?P<whole>{NUMBER})(?![\w%]|[.,]\d| %)")
SAID_BY_OTHERS = re.compile(r"```.*?```|`[^`]*`|\"[^\"]*\"|“[^”]*”|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.DOTALL)
WORDS = {"half a": 0.5, "half an": 0.5, "a": 1.0, "an": 1.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0}
SPAN = re.compile(
    rf"(?P<number>\d+(?:\.\d+)?|\b(?:{'|'.join(WORDS)})) (?P<unit>second|minute)s?(?P<half> and a half)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Quote:
    """A figure as it stands in a text.

    Attributes:
        text: as it is written.
        value: in its base unit: seconds, bytes, a share of one.
        half: half a unit of its last digit, which is how far rounding may have moved it.
        kind: seconds, bytes, share or plain.
    """

    text: str
    value: float
    half: float
    kind: str


def quotes(text: str) -> Iterator[Quote]:
    """Every figure in a piece of prose."""
    prose = " ".join(re.sub(r"^(?: {4}|\t).*$", "", SAID_BY_OTHERS.sub(" … ", text), flags=re.MULTILINE).split())
    for found in OF.finditer(prose):
        for part in ("part", "whole"):
            yield Quote(found[0], float(found[part].replace(",", "")), 0.0, "plain")
    for found in FIGURE.finditer(prose):
        number, unit = found["number"], found["unit"] or ""
        if "." in number or unit:
            scale, kind = _unit(unit)
            # 1,300 is said for 1,284, too; so is "about 30" for 28.
            rough = len(number) > 2 or (len(number) > 1 and prose[: found.start()].endswith("about "))
            yield Quote(found[0], float(number.replace(",", "")) * scale, _half(number, rough) * scale, kind)


def _unit(unit: str) -> tuple[float, str]:
    for kind, units in (("seconds", SECONDS), ("bytes", BYTES), ("share", SHARES), ("plain", PLAIN)):
        if unit in units:
            return units[unit], kind
    raise AssertionError(unit)


def _half(number: str, rough: bool) -> float:
    if "." in number:
        return 0.5 * 10.0 ** -len(number.partition(".")[2])
    return 0.5 * 10.0 ** (len(number) - len(number.rstrip("0")) if rough else 0)


def recorded(quote: Quote, figures: Mapping[str, float]) -> bool:
    """Whether a figure is one of those that a run recorded, rounded as it is quoted; units are in the recorded names."""
    for name, value in figures.items():
        scale, kind = _named_unit(name)
        fits = kind == quote.kind or (kind == "plain" and quote.kind == "share")
        if fits and abs(value * scale - quote.value) <= quote.half * (1 + 1e-6) + 1e-12:
            return True
    return False


def _named_unit(name: str) -> tuple[float, str]:
    words = re.split(r"[_. ]", name)
    for word, scale, kind in (
        ("ms", 1e-3, "seconds"), ("seconds", 1.0, "seconds"), ("minutes", 60.0, "seconds"),
        ("bytes", 1.0, "bytes"), ("mb", 1e6, "bytes"), ("gb", 1e9, "bytes"),
    ):  # fmt: skip
        # "images per second" and the like are no times: there the word is in the singular.
        if word in words:
            return scale, kind
    return 1.0, "plain"


def constant(quote: Quote, own: set[float], library: set[float]) -> bool:
    """Whether a figure is a constant of the code, such as a target or somebody's published result.

    Args:
        quote: the figure.
        own: the constants of the notebook; 200 may be milliseconds there.
        library: the settings of the library, of which shares may be spoken of, such as the level of an interval.
    """
    wanted = {quote.value}
    if quote.kind in ("seconds", "bytes"):
        wanted.add(float(re.match(NUMBER, quote.text)[0].replace(",", "")))  # type: ignore[index]
    known = own | library if quote.kind == "share" else own
    return any(abs(value - found) < 1e-9 * max(1.0, abs(value)) for value in wanted for found in known)


def constants(code: str, top: bool = False) -> set[float]:
    """The numbers that stand in code; with `top`, only those of modules and classes, not of functions."""
    found: set[float] = set()
    nodes: list[ast.AST] = [ast.parse(code)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            found.add(float(node.value))
        nodes += [
            child for child in ast.iter_child_nodes(node)
            if not (top and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))
        ]  # fmt: skip
    return found


def span(text: str) -> float | None:
    """The first time in a text, in seconds; None where there is none."""
    found = SPAN.search(text)
    if found is None:
        return None
    number = found["number"].lower()
    value = WORDS[number] if number in WORDS else float(number)
    return (value + (0.5 if found["half"] else 0.0)) * SECONDS[found["unit"].lower()]
