"""Numbers about what is attended to, as pure functions of a recorded layer (trace.py).

Only later steps count as users of a memory: every step attends to its own.  Weights are means over the heads, and those
below `LEAST_WEIGHT` are not recorded, so nothing here can see them.
"""

import numpy as np

from ..checks import check_whole
from .numbers import lifetimes
from .record import LEAST_WEIGHT, AttentionRecord, LayerRecord


def attention_received(layer: LayerRecord) -> np.ndarray:
    """The attention that each memory got from all later steps together, [T]."""
    used = _later(layer)
    return np.bincount(used.memory, used.weight, minlength=len(layer.span))


def peak_attention(layer: LayerRecord) -> np.ndarray:
    """The most attention that each memory got from any later step, [T]."""
    used, peak = _later(layer), np.zeros(len(layer.span))
    np.maximum.at(peak, used.memory, used.weight)
    return peak


def attention_beyond(layer: LayerRecord, age: int) -> np.ndarray:
    """The share of each step's attention that goes to memories older than `age` steps, [T]."""
    check_whole("age", age, at_least=0)
    used = _later(layer)
    old = used.query - used.memory > age
    return np.bincount(used.query[old], used.weight[old], minlength=len(layer.span))


def never_attended(layer: LayerRecord, least: float = LEAST_WEIGHT) -> np.ndarray:
    """Which memories were kept beyond their own step for nothing, bool [T].

    No later step gave them a weight of at least `least`.
    """
    _check_least(least)
    return (lifetimes(layer) > 1) & (peak_attention(layer) < least)


def attended_at_deletion(layer: LayerRecord, least: float = LEAST_WEIGHT) -> np.ndarray:
    """Which memories expired while still in use, bool [T]: a sign that their spans are too short.

    On the last step that saw them they got a weight of at least `least`, although they had nearly faded by then.
    """
    _check_least(least)
    used = _later(layer)
    last = (used.query == layer.deleted[used.memory] - 1) & (used.weight >= least)
    in_use = np.zeros(len(layer.span), dtype=bool)
    in_use[used.memory[last]] = True
    return in_use & layer.expired


def _later(layer: LayerRecord) -> AttentionRecord:
    """The attention of steps to memories of earlier ones."""
    if layer.attention is None:
        raise ValueError("Expect `layer` to be recorded with attention, actual: without")
    recorded = layer.attention
    later = recorded.query > recorded.memory
    return AttentionRecord(
        query=recorded.query[later], memory=recorded.memory[later], weight=recorded.weight[later].astype(np.float64)
    )


def _check_least(least: float) -> None:
    if least < LEAST_WEIGHT:
        raise ValueError(
            f"Expect `least` to be at least {LEAST_WEIGHT}, below which nothing is recorded, actual: {least}"
        )
