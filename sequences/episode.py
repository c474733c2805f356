"""A stretch of a stream to look at: one row from an empty memory on, until a reset, the end of the data, or N steps.

It is to a sequence model what an episode is to an agent.
"""

from typing import Any, NamedTuple

import numpy as np

from ..checks import check_whole
from .streams import IGNORED, Window


class TokenEpisode(NamedTuple):
    """One row of a stream, read from an empty memory on; its first step is the only reset."""

    stream: Any
    """The stream, which knows what its tokens mean (meaning.py)."""
    window: Window
    """Tokens, targets and resets of its T steps, [1, T]."""
    complete: bool
    """Whether it goes on until a reset or the end of the data, and was not cut off."""


def read_episode(stream: Any, steps: int, skipped: int = 0) -> TokenEpisode:
    """The next episode of a stream (`streams.Stream`) of one row, at most `steps` long.

    `skipped` steps are read over first.  Raises ValueError where the stream has other rows, or ends before that.
    """
    check_whole("steps", steps, at_least=1)
    if stream.batch_size != 1:
        raise ValueError(f"Expect `stream` to have 1 row, actual: {stream.batch_size}")
    if skipped and not getattr(stream, "ended", False):
        stream.read(skipped)
    if getattr(stream, "ended", False):
        raise ValueError(f"Expect an episode that begins within the data, actual: one after {skipped:,} steps of it")
    window = stream.read(steps + 1)  # whether the one after the last is a reset
    ends = [steps + 1, *(np.flatnonzero(window.resets[0, 1:]) + 1)]
    if getattr(stream, "ended", False):
        ends.append(int(np.flatnonzero(window.targets[0] != IGNORED)[-1]) + 1)
    end = min(ends)
    tokens, targets, resets = (part[:, : min(end, steps)] for part in window)
    return TokenEpisode(stream, Window(tokens, targets, np.arange(resets.shape[1])[None] == 0), end <= steps)
