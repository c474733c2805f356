"""The tokens of a recording shaded by their spans, layer by layer (paper, figures of what is kept of a text).

Shades are logarithmic, from nearly white for the shortest span of the recording to the darkest for the longest; the
memories that a later step needs are red, the others blue.  A newline is shown as an arrow, and begins a line.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from ..record import EpisodeTrace

RAMPS = {
    False: ((247, 250, 253), (195, 211, 230), (76, 120, 168), (18, 41, 74)),
    True: ((255, 245, 238), (244, 195, 168), (228, 87, 50), (143, 29, 6)),
}
"""Colours from the shortest to the longest span, by whether the step is relevant."""
SIGNS = str.maketrans({"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"})
COLUMNS, MOST_LINES = 100, 60
"""Characters of a line, and lines of a layer, at most."""
CELL, LINE, MARGIN, FONT = 9, 20, 20, 15
"""Pixels: of a character, of a line, around all, and the font's size."""


@dataclass(frozen=True)
class Scale:
    """Spans as shades from 0 to 1, logarithmic between the shortest and the longest span of a recording."""

    shortest: float
    longest: float

    @classmethod
    def of(cls, trace: EpisodeTrace) -> "Scale":
        """The scale of a recording, one for all its layers."""
        spans = np.concatenate([layer.span[np.isfinite(layer.span)] for layer in trace.layers] or [np.zeros(1)])
        return cls(max(float(spans.min()), 0.0), max(float(spans.max()), 0.0)) if len(spans) else cls(0.0, 0.0)

    def shade(self, span: float) -> float:
        """Of a span; 0 where all are the same, or this one is no number."""
        low, high, here = (math.log1p(max(value, 0.0)) for value in (self.shortest, self.longest, span))
        return min(max((here - low) / (high - low), 0.0), 1.0) if high > low and math.isfinite(span) else 0.0

    @property
    def ticks(self) -> list[float]:
        """Spans to name in a legend: the shortest, powers of ten, and the longest."""
        powers = [10.0**power for power in range(10)]
        return [self.shortest, *(p for p in powers if 1.5 * self.shortest < p < self.longest / 1.5), self.longest]


def color(share: float, relevant: bool) -> tuple[int, int, int]:
    """The colour of a shade from 0 to 1."""
    stops = RAMPS[relevant]
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    first, second = (np.array(stop) for stop in stops[low : low + 2])
    red, green, blue = np.rint(first + (place - low) * (second - first)).astype(int).tolist()
    return red, green, blue


def ink(share: float) -> str:
    """What is legible on a shade."""
    return "white" if share > 0.6 else "black"


def characters(trace: EpisodeTrace) -> list[tuple[int, int]]:
    """The steps (first, last) that each label is made of: a character of several bytes is shown once, as one.

    Raises ValueError where the recording is none of tokens.
    """
    if trace.labels is None:
        raise ValueError("Expect `trace` to be recorded from tokens, with labels, actual: without")
    ends = np.flatnonzero(trace.labels != "").tolist()
    return list(zip([0, *(end + 1 for end in ends)], ends, strict=False))


def lay_out(labels: list[str]) -> Iterator[tuple[int, int, str]]:
    """Line, column and what is shown of each label; labels that don't fit into a line begin the next one."""
    line = column = 0
    for label in labels:
        shown = label.translate(SIGNS)
        if column and column + max(len(shown.rstrip()), 1) > COLUMNS:
            line, column = line + 1, 0
        yield line, column, shown
        column += len(shown)
        if "\n" in label:
            line, column = line + 1, 0


def draw_shaded(trace: EpisodeTrace, title: str = "") -> Image.Image:
    """The picture: a legend, then the text once for each layer, each at most `MOST_LINES` long."""
    groups = characters(trace)
    assert trace.labels is not None
    labels = trace.labels.tolist()
    placed = [place for place in lay_out([labels[last] for _, last in groups]) if place[0] < MOST_LINES]
    lines = placed[-1][0] + 1 if placed else 0
    font: ImageFont.FreeTypeFont = ImageFont.truetype(findfont("DejaVu Sans Mono"), FONT)
    height = 2 * MARGIN + 3 * LINE + len(trace.layers) * (lines + 2) * LINE
    picture = Image.new("RGB", (2 * MARGIN + COLUMNS * CELL, height), "white")
    draw, scale = ImageDraw.Draw(picture), Scale.of(trace)
    left_out = f", the first {groups[len(placed) - 1][1] + 1:,} steps" if 0 < len(placed) < len(groups) else ""
    draw.text((MARGIN, MARGIN), f"{title}{left_out}", fill="black", font=font)
    _draw_legend(draw, scale, bool(trace.relevant.any()), font)
    top = MARGIN + 3 * LINE
    for number, layer in enumerate(trace.layers, 1):
        said = f"layer {number}: {layer.live.mean():.1f} live memories on average"
        draw.text((MARGIN, top + LINE // 2), said, fill="black", font=font)
        top += 2 * LINE
        for (first, last), (line, column, shown) in zip(groups, placed, strict=False):
            steps = slice(first, last + 1)
            share = scale.shade(float(layer.span[steps].max()))
            fill = color(share, bool(trace.relevant[steps].any()))
            _draw_token(draw, column, top + line * LINE, shown, fill, ink(share), font)
        top += lines * LINE
    return picture


def _draw_token(
    draw: ImageDraw.ImageDraw,
    column: int,
    y: int,
    shown: str,
    fill: tuple[int, int, int],
    pen: str,
    font: ImageFont.FreeTypeFont,
) -> None:
    """A token on its shade; a space that ends it may reach beyond the line, and is cut."""
    x = MARGIN + column * CELL
    wide = min(len(shown), COLUMNS - column) * CELL
    draw.rectangle((x, y, x + wide - 1, y + LINE - 2), fill=fill)
    for place, character in enumerate(shown):
        draw.text((x + place * CELL, y + 1), character, fill=pen, font=font)


def _draw_legend(draw: ImageDraw.ImageDraw, scale: Scale, relevant: bool, font: ImageFont.FreeTypeFont) -> None:
    """Shades with the spans that they stand for."""
    said, x, y = "span in steps", MARGIN, MARGIN + 3 * LINE // 2
    draw.text((x, y), said, fill="black", font=font)
    x += (len(said) + 2) * CELL
    for kind in (False, True) if relevant else (False,):
        for span in scale.ticks:
            share, words = scale.shade(span), f"{span:,.0f}"
            wide = (len(words) + 2) * CELL
            draw.rectangle((x, y - 1, x + wide - 1, y + LINE - 3), fill=color(share, kind), outline="#999999")
            draw.text((x + CELL, y), words, fill=ink(share), font=font)
            x += wide
        x += CELL
        if kind:
            draw.text((x, y), "needed by a later step", fill="black", font=font)


def save_shaded(trace: EpisodeTrace, path: Path, title: str = "") -> None:
    """Write the picture as a PNG file."""
    draw_shaded(trace, title).save(path, format="PNG")
