"""Numbers about what is kept, as pure functions: of arrays first, of recorded episodes (trace.py) second.

What was attended to stands in usage.py, the report made of both in report.py.
"""

from typing import NamedTuple

import numpy as np

from ..checks import check_whole
from .record import EpisodeTrace, LayerRecord

NORMAL_95 = 1.96
"""Standard deviations to either side of the mean that hold 95 % of a normal distribution."""


def retention_score(span: np.ndarray, relevant: np.ndarray) -> float:
    """How well spans tell relevant steps from irrelevant ones: the area under the ROC curve, in [0, 1].

    The probability that a random relevant step has a longer span than a random irrelevant one, ties counting half:
    0.5 says nothing, 1 separates them perfectly.  `span` and `relevant` are arrays of the same shape.

    Returns:
        The area, or NaN where there is no relevant or no irrelevant step.
    """
    _check_same_shape(span=span, relevant=relevant)
    positive = relevant.ravel().astype(bool)
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        return float("nan")
    above = mean_ranks(span)[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


class Found(NamedTuple):
    """How well the longest spans pick out the relevant steps."""

    precision: float
    """Share of the chosen steps that are relevant."""
    recall: float
    """Share of the relevant steps that are chosen."""


def precision_and_recall(span: np.ndarray, relevant: np.ndarray, budget: int | None = None) -> Found:
    """Precision and recall of taking the `budget` longest spans, of equal ones the earlier, for the relevant steps.

    Without a budget as many are taken as there are relevant steps, and the two are equal.  At most all steps are
    taken.  Both are NaN where no step is relevant.
    """
    _check_same_shape(span=span, relevant=relevant)
    if budget is not None:
        check_whole("budget", budget, at_least=1)
    positive = relevant.ravel().astype(bool)
    if not positive.any():
        return Found(float("nan"), float("nan"))
    chosen = np.argsort(-span.ravel(), kind="stable")[: budget or int(positive.sum())]
    hits = int(positive[chosen].sum())
    return Found(hits / len(chosen), hits / int(positive.sum()))


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value of the flattened array, from 1 for the smallest on; ties share the mean of theirs."""
    _, group, count = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group.ravel()]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two arrays of one shape, in [-1, 1]; NaN where one of them is constant."""
    _check_same_shape(a=a, b=b)
    first, second = (mean_ranks(values) - (values.size + 1) / 2 for values in (a, b))
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 0 else float("nan")


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of the values and the ends of its normal 95 % confidence interval."""
    mean = float(np.mean(values))
    half = NORMAL_95 * float(np.std(values, ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, mean - half, mean + half


def share_interval(successes: int, trials: int) -> tuple[float, float, float]:
    """Share of successes and the ends of its 95 % Wilson interval, which stays within [0, 1]."""
    share, z2 = successes / trials, NORMAL_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = NORMAL_95 / (1 + z2 / trials) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return share, max(0.0, centre - half), min(1.0, centre + half)


def lifetimes(layer: LayerRecord) -> np.ndarray:
    """Steps at which each memory was live, the one that wrote it included, [T]; none outlives the episode."""
    return layer.deleted - np.arange(len(layer.deleted))


def live_memories(layer: LayerRecord) -> np.ndarray:
    """Memories live at each step, [T], counted from when they were written and deleted."""
    steps = len(layer.deleted)
    gone = np.bincount(layer.deleted, minlength=steps + 1)[:steps].cumsum()
    return np.arange(1, steps + 1) - gone


def survival(layer: LayerRecord) -> np.ndarray:
    """Share of memories that are still live `age` steps after they were written, for ages 0, 1, ...

    The estimate of Kaplan and Meier: memories that the end of the episode cut short count for the ages they reached.
    """
    lifetime, ended = lifetimes(layer), layer.deleted < len(layer.deleted)
    at_risk = len(lifetime) - np.bincount(lifetime).cumsum()[:-1]  # those that reached lifetime 1, 2, ...
    deaths = np.bincount(lifetime[ended], minlength=len(at_risk) + 1)[1:]
    return np.concatenate([[1.0], np.cumprod(1 - deaths / at_risk)])


def half_life(layer: LayerRecord) -> float:
    """The age in steps at which half of the memories are gone; infinite where more than half were never seen to go."""
    gone = np.flatnonzero(survival(layer) <= 0.5)
    return float(gone[0]) if len(gone) else float("inf")


def spans(trace: EpisodeTrace) -> np.ndarray:
    """The predicted spans of all layers, [layers, T]."""
    return np.stack([layer.span for layer in trace.layers])


def event_labels(trace: EpisodeTrace) -> np.ndarray:
    """A word for what each step was, unicode [T]: its event where it has one, else "relevant" or "other"."""
    labels = np.where(trace.relevant, "relevant", "other")
    return labels if trace.events is None else np.where(trace.events == "", labels, trace.events)


def by_event(values: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of values [layers, T] over the steps of each label: which layer keeps what, [layers] for each label."""
    if values.ndim != 2 or values.shape[1:] != labels.shape:
        raise ValueError(f"Expect `values` to be [layers, {labels.size}], actual: {list(values.shape)}")
    return {str(label): values[:, labels == label].mean(1) for label in np.unique(labels)}


def layer_agreement(trace: EpisodeTrace) -> np.ndarray:
    """Rank correlation of the spans of each pair of layers, [layers, layers]."""
    each = spans(trace)
    return np.array([[rank_correlation(a, b) for b in each] for a in each])


def _check_same_shape(**arrays: np.ndarray) -> None:
    (first, a), (second, b) = arrays.items()
    if a.shape != b.shape:
        raise ValueError(f"Expect `{first}` and `{second}` to have one shape, actual: {a.shape} and {b.shape}")
