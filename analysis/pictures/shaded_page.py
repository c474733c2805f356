"""The shaded tokens of a recording (shaded.py) as a web page of one file, without scripts: all of them, with numbers.

What was read may hold anything, markup included, and is only ever text here.
"""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ..record import EpisodeTrace
from .shaded import Scale, characters, color, ink

SHADES = 32
STYLE = """
body { margin: 16px 24px; color: #212121; background: white; font: 14px/1.4 system-ui, sans-serif; }
.text, .legend, pre { font: 14px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.text { max-width: 100ch; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 8; }
.legend span { padding: 1px 8px; border: 1px solid #999999; }
.sign { opacity: 0.5; }
"""


def shaded_page(trace: EpisodeTrace, title: str, facts: Sequence[str] = ()) -> str:
    """The page; `facts` are lines of text above the tokens.  Raises ValueError for a recording without labels."""
    return "\n".join(_parts(trace, title, facts)) + "\n"


def save_shaded_page(trace: EpisodeTrace, path: Path, title: str, facts: Sequence[str] = ()) -> None:
    """Write the page; an encoding is stated in it."""
    path.write_text(shaded_page(trace, title, facts), encoding="utf-8", errors="backslashreplace")


def _parts(trace: EpisodeTrace, title: str, facts: Sequence[str]) -> Iterator[str]:
    scale = Scale.of(trace)
    yield f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>'
    yield f"<style>{STYLE}{_classes()}</style>\n<h1>{escape(title)}</h1>"
    if facts:
        yield "<pre>" + escape("\n".join(facts)) + "</pre>"
    yield '<p class="legend">span in steps, logarithmic: ' + "".join(_legend(scale, False))
    if trace.relevant.any():
        yield "; of what a later step needs: " + "".join(_legend(scale, True))
    yield "</p>"
    for number, layer in enumerate(trace.layers, 1):
        yield f"<h2>layer {number}: {layer.live.mean():.1f} live memories on average</h2>"
        yield '<div class="text">' + "".join(_tokens(trace, number - 1, scale)) + "</div>"


def _classes() -> str:
    """A style for each shade: s for most steps, r for relevant ones."""
    rules = []
    for letter, relevant in (("s", False), ("r", True)):
        for number in range(SHADES):
            share = number / (SHADES - 1)
            red, green, blue = color(share, relevant)
            rules.append(f".{letter}{number} {{ background: rgb({red} {green} {blue}); color: {ink(share)}; }}")
    return "\n".join(rules)


def _class(span: float, scale: Scale, relevant: bool) -> str:
    return f"{'r' if relevant else 's'}{round(scale.shade(span) * (SHADES - 1))}"


def _legend(scale: Scale, relevant: bool) -> Iterator[str]:
    for span in scale.ticks:
        yield f'<span class="{_class(span, scale, relevant)}">{span:,.0f}</span>'


def _tokens(trace: EpisodeTrace, number: int, scale: Scale) -> Iterator[str]:
    """The tokens of a layer, each with what is known of it as a tooltip."""
    assert trace.labels is not None
    layer, labels = trace.layers[number], trace.labels.tolist()
    for first, last in characters(trace):
        steps = slice(first, last + 1)
        span, gone = float(layer.span[steps].max()), int(layer.deleted[steps].max())
        said = f"step {last}, span {span:.1f}, gone at step {gone}"
        if trace.events is not None and trace.events[last]:
            said += f", {trace.events[last]}"
        shown = escape(labels[last]).replace("\n", '<span class="sign">&#8629;</span>\n')
        name = _class(span, scale, bool(trace.relevant[steps].any()))
        yield f'<span class="{name}" title="{escape(said)}">{shown}</span>'
