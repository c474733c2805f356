"""What the tokens of each task mean to people: their text, what a later step needs, what happens.

`meaning` and `pictures` know this project's streams; of another one tokens are shown as numbers, unless it registers a
function of its own: `@meaning.register(MyStream)`.
"""

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from .collision import FRAME, Collision, draw_frame
from .collision_meaning import QUADRANTS, happenings, token_names
from .recall import AssociativeRecall, Copy
from .streams import IGNORED, Window
from .text import Text

LONGEST_SIDE = 72
"""Pixels of a picture, at most, unless it has more cells."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a window of B rows and T steps says."""

    labels: np.ndarray
    """Text of each token, unicode [B, T]; joined they are the text that was read."""
    relevant: Bool[np.ndarray, "B T"]
    """Whether a later step needs the token, where the task knows."""
    events: np.ndarray
    """What happens at each step, "" for nothing; unicode [B, T]."""
    classes: tuple[str, ...]
    """Names of what is predicted."""


@singledispatch
def meaning(stream: Any, window: Window) -> Meaning:
    """What a window of this stream says; its first step must be the first of the stream or of an episode."""
    names = np.array([f"{number} " for number in range(stream.vocabulary)])
    return Meaning(
        labels=names[window.tokens],
        relevant=np.zeros(window.tokens.shape, dtype=bool),
        events=np.full(window.tokens.shape, ""),
        classes=tuple(map(str, range(stream.classes))),
    )


@meaning.register(Text)
def _(stream: Any, window: Window) -> Meaning:
    return Meaning(
        labels=np.array([byte_labels(row.astype(np.uint8).tobytes()) for row in window.tokens]),
        relevant=np.zeros(window.tokens.shape, dtype=bool),
        events=np.full(window.tokens.shape, ""),
        classes=tuple(byte_labels(bytes([byte]))[0] for byte in range(stream.classes)),
    )


@meaning.register(AssociativeRecall)
def _(stream: Any, window: Window) -> Meaning:
    config, tokens = stream.config, window.tokens
    value = (tokens >= config.keys) & (tokens < config.keys + config.values)
    key = np.zeros_like(value)
    key[:, :-1] = value[:, 1:]
    values = [f"v{number}" for number in range(config.values)]
    names = [f"k{number} " for number in range(config.keys)] + [f"{name} " for name in values]
    names = np.array([*names, *(f"f{number} " for number in range(config.fillers))])
    asked = window.targets != IGNORED
    events = np.select([asked, key, value], ["question", "key", "value"], "")
    return Meaning(labels=names[tokens], relevant=key | value, events=events, classes=tuple(values))


@meaning.register(Copy)
def _(stream: Any, window: Window) -> Meaning:
    config, tokens = stream.config, window.tokens
    symbols = [f"s{number}" for number in range(config.symbols)]
    others = [f"d{number} " for number in range(config.distractor_symbols)]
    names = np.array([*(f"{name} " for name in symbols), *others, "go "])
    asked = window.targets != IGNORED
    copied = (tokens < config.symbols) & ~asked
    events = np.select([asked, copied], ["question", "to copy"], "")
    return Meaning(labels=names[tokens], relevant=copied, events=events, classes=tuple(symbols))


@meaning.register(Collision)
def _(stream: Any, window: Window) -> Meaning:
    relevant, events = happenings(window.tokens, stream.config)
    names = np.array(token_names(stream.config))
    labels = names[window.tokens].astype(object)
    labels[:, 6::FRAME] = np.char.replace(labels[:, 6::FRAME].astype(str), " ", "? ")
    labels[:, 7::FRAME] = np.char.replace(labels[:, 7::FRAME].astype(str), " ", "?\n")
    return Meaning(labels=labels.astype(str), relevant=relevant, events=events, classes=QUADRANTS)


def pictures(stream: Any, tokens: Int64[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"] | None:
    """The frame that each token is of, where the stream has frames and at least one of them is whole.

    A last frame that is cut off is shown as the one before.
    """
    if not isinstance(stream, Collision) or len(tokens) < FRAME:
        return None
    whole = tokens[: len(tokens) // FRAME * FRAME].reshape(-1, FRAME)
    cell = max(1, LONGEST_SIDE // (stream.config.grid + 2))
    frames = np.stack([draw_frame(frame, stream.config, cell) for frame in whole])
    return frames[np.minimum(np.arange(len(tokens)) // FRAME, len(frames) - 1)]


def byte_labels(data: bytes) -> list[str]:
    r"""The text of each byte: a character of UTF-8 at its last byte, "" at those before.

    Bytes that are none of UTF-8 and characters that can't be seen are escaped, as \xff, but for space, tab and newline.
    """
    labels, at = [""] * len(data), 0
    for character in data.decode("utf-8", errors="surrogateescape"):
        stray = "\udc80" <= character <= "\udcff"
        at += 1 if stray else len(character.encode())
        labels[at - 1] = rf"\x{ord(character) - 0xDC00:02x}" if stray else visible(character)
    return labels


def visible(character: str) -> str:
    r"""The character itself, escaped if it can't be seen: control characters, those that reorder text and the like."""
    if character.isprintable() or character in "\n\t":
        return character
    return character.encode("unicode_escape").decode()
