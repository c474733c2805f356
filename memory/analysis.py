"""Numbers about what is kept, as pure functions."""

import numpy as np


def retention_score(span: np.ndarray, relevant: np.ndarray) -> float:
    """How well spans tell relevant steps from irrelevant ones: the area under the ROC curve, in [0, 1].

    The probability that a random relevant step has a longer span than a random irrelevant one, ties counting half:
    0.5 says nothing, 1 separates them perfectly.  `span` and `relevant` are arrays of the same shape.

    Returns:
        The area, or NaN where there is no relevant or no irrelevant step.
    """
    if span.shape != relevant.shape:
        raise ValueError(f"Expect `span` and `relevant` to have one shape, actual: {span.shape} and {relevant.shape}")
    flat, positive = span.ravel(), relevant.ravel().astype(bool)
    positives = int(positive.sum())
    negatives = flat.size - positives
    if not positives or not negatives:
        return float("nan")
    _, group, count = np.unique(flat, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    above = mean_rank[group.ravel()][positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def mean_interval(values: np.ndarray, confidence_z: float = 1.96) -> tuple[float, float, float]:
    """Mean of the values and the ends of its normal 95 % confidence interval."""
    mean = float(np.mean(values))
    half = confidence_z * float(np.std(values, ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, mean - half, mean + half


def share_interval(successes: int, trials: int, confidence_z: float = 1.96) -> tuple[float, float, float]:
    """Share of successes and the ends of its 95 % Wilson interval, which stays within [0, 1]."""
    share, z2 = successes / trials, confidence_z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = confidence_z / (1 + z2 / trials) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return share, max(0.0, centre - half), min(1.0, centre + half)
