"""A word of a text replaced by another: does the memory keep it because of what it is (paper, "Egypt")?

The text is read twice, as it is and with the first occurrence of the word replaced, from an empty memory on.  Compared
are the spans of the word's bytes, the surprise of all that follows, and that of the word where it comes again.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..sequences.episode import TokenEpisode
from ..sequences.model import SequenceModel
from ..sequences.streams import Window
from .numbers import lifetimes
from .record import EpisodeTrace
from .sequence import record_tokens

BEFORE = 4
"""The word stands after this part of the text that is read (1/4), where there is so much before it."""


@dataclass(frozen=True, kw_only=True)
class WordKept:
    """What was kept of a word, and how the text after it was predicted; NaN where nothing is to be predicted."""

    word: str
    span: list[float]
    """Longest predicted span of its bytes in each layer."""
    lifetime: list[int]
    """Steps for which the longest-lived of its bytes was live in each layer."""
    bits_after: float
    """Mean surprise of the bytes after the word."""
    bits_again: float
    """Mean surprise of the bytes of the original word where it comes again."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """The two readings of a text."""

    place: int
    """Of the word, in bytes from the beginning of the split."""
    after: int
    """Bytes that were read after the word."""
    again: int
    """How often the original word comes again in them."""
    original: WordKept
    replaced: WordKept


def parse_replacement(text: str) -> tuple[bytes, bytes]:
    """The word and what replaces it, of OLD=NEW.  Raises ValueError where there aren't two different words."""
    old, equals, new = text.partition("=")
    if not equals or not old or not new or old == new:
        raise ValueError(f"Expect `replace` to be two different words as OLD=NEW, actual: {text!r}")
    return os.fsencode(old), os.fsencode(new)


class Passage(NamedTuple):
    """A text with a word in it."""

    place: int
    """Of the word, in bytes from the beginning of the split."""
    before: bytes
    word: bytes
    after: bytes
    """At least one byte."""


def find_passage(split: np.ndarray, word: bytes, steps: int) -> Passage:
    """Some `steps` bytes of a split (uint8 [N]) around the first place of a word that is followed by something.

    Raises ValueError where the split has no such place, or `steps` are too few to read beyond the word.
    """
    place, name = split.tobytes().find(word), repr(word.decode(errors="replace"))
    if place < 0 or place + len(word) >= len(split):
        raise ValueError(f"Expect `replace` to name a word of the text, actual: {name}, which is not in it")
    begin = max(0, place - steps // BEFORE)
    text, at = split[begin : begin + steps + 1].tobytes(), place - begin
    if not text[at + len(word) :]:
        raise ValueError(
            f"Expect `record_steps` to be at least {at + len(word)} to read on after {name}, actual: {steps}"
        )
    return Passage(place, text[:at], word, text[at + len(word) :])


def replace_word(model: SequenceModel, stream: Any, passage: Passage, new: bytes) -> Replacement:
    """Read a passage of a text's stream with its word and with another one in its place."""
    place, before, old, after = passage
    again = [n for n in range(len(after)) if after.startswith(old, n)]
    original, replaced = (
        _kept(word, record_tokens(model, _episode(stream, before + word + after)), len(before), again, len(old))
        for word in (old, new)
    )
    return Replacement(place=place, after=len(after), again=len(again), original=original, replaced=replaced)


def _episode(stream: Any, text: bytes) -> TokenEpisode:
    """All of the text but its last byte, each byte to be followed by the next."""
    read = np.frombuffer(text, np.uint8).astype(np.int64)[None]
    first = np.arange(read.shape[1] - 1)[None] == 0
    return TokenEpisode(stream, Window(read[:, :-1], read[:, 1:], first), False)


def _kept(word: bytes, trace: EpisodeTrace, at: int, again: list[int], length: int) -> WordKept:
    """What a reading kept of the word at byte `at`; it comes again at these bytes after it, `length` bytes long."""
    end = at + len(word)
    after = trace.values[end - 1 :]  # entry n is the surprise of byte n after the word
    places = np.array([n + step for n in again for step in range(length)], dtype=np.int64)
    return WordKept(
        word=word.decode(errors="replace"),
        span=[float(layer.span[at:end].max()) for layer in trace.layers],
        lifetime=[int(lifetimes(layer)[at:end].max()) for layer in trace.layers],
        bits_after=float(after.mean()),
        bits_again=float(after[places].mean()) if len(places) else math.nan,
    )


def replacement_lines(found: Replacement) -> Iterator[str]:
    """The two readings side by side as lines to read."""
    first, second = found.original, found.replaced
    yield f"{first.word!r} at byte {found.place:,} replaced, {found.after:,} bytes read after it"
    yield f"{'':37}{first.word!r:>12}{second.word!r:>12}"
    for number, spans in enumerate(zip(first.span, second.span, strict=True), 1):
        yield f"  {f'layer {number}: longest span':35}" + "".join(f"{span:>12.1f}" for span in spans)
    for number, lives in enumerate(zip(first.lifetime, second.lifetime, strict=True), 1):
        yield f"  {f'layer {number}: gone after, steps':35}" + "".join(f"{life:>12,}" for life in lives)
    yield f"  {'bits a byte after it':35}{first.bits_after:>12.4f}{second.bits_after:>12.4f}"
    if found.again:
        times = f"{found.again} time{'s' * (found.again > 1)}"
        said = f"bits a byte of {first.word!r} again, {times}"
        yield f"  {said:35}{first.bits_again:>12.4f}{second.bits_again:>12.4f}"
