"""A small line plot as SVG, written by hand so that a measurement needs no plotting library.

Owns axes, scales and colours. Both axes are logarithmic. Never computes what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 270, 44, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
Points = Sequence[tuple[float, float]]


def decades(values: Sequence[float]) -> range:
    """The powers of ten that hold all values.

    Raises:
        ValueError: there are none, or one is not above zero.
    """
    if not values or min(values) <= 0:
        raise ValueError("a logarithmic axis needs values above zero")
    first = math.floor(math.log10(min(values)))
    return range(first, max(math.ceil(math.log10(max(values))), first + 1) + 1)


def svg(title: str, x_title: str, y_title: str, lines: Mapping[str, Points]) -> str:
    """The plot: one line for each name; a name that ends in `p99` is dashed in the colour of the same name with `p50`."""
    points = [point for line in lines.values() for point in line]
    xs, ys = decades([x for x, _ in points]), decades([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - xs[0]) / (xs[-1] - xs[0])
        up = (math.log10(y) - ys[0]) / (ys[-1] - ys[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{escape(x_title)}</text>',
        f'<text x="14" y="{TOP - 8}">{escape(y_title)}</text>',
    ]
    for power in xs:
        x, _ = at(10.0**power, 10.0 ** ys[0])
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{10.0**power:,g}</text>')
    for power in ys:
        _, y = at(10.0 ** xs[0], 10.0**power)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>')
    colours: dict[str, str] = {}
    for number, (name, line) in enumerate(lines.items()):
        base = name.rsplit(" ", 1)[0]
        colour = colours.setdefault(base, COLOURS[len(colours) % len(COLOURS)])
        dash = ' stroke-dasharray="6 4"' if name.endswith("p99") else ""
        spots = [at(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        left, y = WIDTH - RIGHT + 14, TOP + 10 + number * 18
        sample = f'<line x1="{left}" y1="{y - 4}" x2="{left + 26}" y2="{y - 4}"'
        parts.append(f'{sample} stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{left + 32}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
