"""What becomes of a sequence model's answers once its memory is changed: `interventions` over a stream of tokens.

An intervention gets the memory after each step, as with agents, so the stream is read step by step, all rows side by
side.  Steps are counted from the latest reset on.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from ..sequences.meaning import meaning
from ..sequences.model import SequenceModel, negative_log_likelihood
from ..sequences.streams import Window, join
from ..sequences.text import Text
from ..sequences.training import Evaluation, tensors
from .interventions import STANDARD, Intervention, check_editable


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How a model answered."""

    bits: float
    """Mean surprise of the targets, a scored step; NaN where none is."""
    error: float
    """Share of wrong answers; NaN where none is scored."""

    @classmethod
    def of(cls, found: Evaluation) -> "Answers":
        """Those of an evaluation."""
        return cls(bits=found.bits, error=found.error)


def read_all(stream: Any, segment: int, windows: int | None) -> Window:
    """The next windows of a stream as one, or all that is left of one that ends (as `training.evaluate` reads)."""
    found: list[Window] = []
    while len(found) < windows if windows is not None else not stream.ended:
        found.append(stream.read(segment))
    return join(found)


def longest_read(window: Window) -> int:
    """The last step after a reset that a window reads, of all its rows."""
    steps = np.broadcast_to(np.arange(window.resets.shape[1]), window.resets.shape)
    begun = np.maximum.accumulate(np.where(window.resets, steps, 0), axis=1)
    return int((steps - begun).max())


def relevance(stream: Any, window: Window) -> Bool[np.ndarray, "B T"]:
    """Which tokens of a stream's first window a later step needs; none of a text, whose many bytes aren't looked at."""
    return np.zeros(window.tokens.shape, dtype=bool) if isinstance(stream, Text) else meaning(stream, window).relevant


@torch.no_grad()
def answers_under(
    model: SequenceModel, window: Window, relevant: Bool[np.ndarray, "B T"], intervene: Intervention
) -> Answers:
    """What the model answers on a window, from empty memories on, while these are changed after each step."""
    check_editable(model)
    marked = torch.from_numpy(relevant)
    tokens, targets, resets = tensors(window, model.head.weight.device)
    training, state = model.training, model.core.initial_state(len(tokens))
    model.eval()
    loss, scored, wrong = 0.0, 0, 0
    for step in range(tokens.shape[1]):
        now = slice(step, step + 1)
        scores, output = model(tokens[:, now], state, resets[:, now])
        state = intervene(output.state, marked[:, step].to(tokens.device))
        found = negative_log_likelihood(scores, targets[:, now])
        loss, scored, wrong = loss + found[0].item(), scored + found[1], wrong + found[2]
    model.train(training)
    count = scored or math.nan
    return Answers(bits=loss / count / math.log(2), error=wrong / count)


def standard_effects(model: SequenceModel, window: Window, relevant: Bool[np.ndarray, "B T"]) -> dict[str, Answers]:
    """The answers under each of the interventions of the memory report; none where no step is known to be relevant.

    Swapping needs two rows, and is left out of a stream of one.
    """
    if not relevant.any():
        return {}
    tried = {name: make for name, make in STANDARD.items() if "swapped" not in name or len(window.tokens) > 1}
    return {name: answers_under(model, window, relevant, make()) for name, make in tried.items()}


def effect_lines(effects: Mapping[str, Answers]) -> Iterator[str]:
    """Answers with and without changes of the memory as lines to read."""
    yield f"{'memory changed':37}      bits     error"
    for name, found in effects.items():
        yield f"  {name:35}{found.bits:>10.4f}{found.error:>10.2%}"
