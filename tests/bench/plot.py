"""Curves as SVG, without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1b6ca8", "#c0392b", "#e08e0b", "#4a8c3f", "#7d4fa8")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 420, 60, 50, 30
RIGHT = 120  # room for names at the ends of the curves


def curves(lines: Mapping[str, Sequence[Sequence[float]]], across: str, up: str) -> str:
    """A chart of ``lines``: name -> (x, y) points. Both axes begin at 0."""
    points = [point for line in lines.values() for point in line]
    most_x = max((x for x, _ in points), default=1.0) or 1.0
    most_y = _round(max((y for _, y in points), default=1.0) or 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + wide * x / most_x, HEIGHT - BOTTOM - high * y / most_y

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for n in range(6):
        x, y = at(most_x * n / 5, 0)
        out.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">'
                   f"{most_x * n / 5:g}</text>")  # fmt: skip
        x, y = at(0, most_y * n / 5)
        out.append(f'<line x1="{x:.0f}" y1="{y:.0f}" x2="{WIDTH - RIGHT}" y2="{y:.0f}"'
                   ' stroke="#ddd"/>')  # fmt: skip
        out.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">'
                   f"{most_y * n / 5:.2g}</text>")  # fmt: skip
    out.append(f'<text x="{(WIDTH - RIGHT + LEFT) / 2:.0f}" y="{HEIGHT - 10}"'
               f' text-anchor="middle">{escape(across)}</text>')  # fmt: skip
    out.append(f'<text x="{LEFT}" y="18">{escape(up)}</text>')
    for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if line:
            x, y = at(*line[-1])
            out.append(f'<text x="{x + 6:.0f}" y="{y + 4:.0f}" fill="{colour}">'
                       f"{escape(name)}</text>")  # fmt: skip
    return "\n".join([*out, "</svg>"]) + "\n"


def _round(most: float) -> float:
    """A little more than ``most``, so that a fifth of it is a number that people like."""
    power = 10 ** math.floor(math.log10(most / 5))
    return next(5 * n * power for n in (1, 2, 2.5, 3, 4, 5, 6, 8, 10) if 5 * n * power >= most)
