"""The figures of an evaluation: as JSON knows them, and as lines to read."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .evaluation import Evaluation
from .numbers import mean_interval, share_interval


def nice_bins(lengths: np.ndarray, most: int = 5) -> list[tuple[int, int]]:
    """At most `most` bins with round limits over whole lengths, as (first, last), both included."""
    low, high = int(lengths.min()), int(lengths.max())
    steps = (int(base * 10**power) for power in range(10) for base in (1, 2, 2.5, 5) if base * 10**power >= 1)
    width = next(step for step in steps if math.ceil(high / step) - (low - 1) // step <= most)
    return [(first + 1, first + width) for first in range((low - 1) // width * width, high, width)]


def as_json(result: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation, as JSON knows them."""
    successes = result.successes
    summary: dict[str, Any] = {
        "episodes": len(successes),
        "mean_return": dict(zip(("mean", "low", "high"), mean_interval(result.returns), strict=True)),
        "success": dict(
            zip(("mean", "low", "high"), share_interval(int(successes.sum()), len(successes)), strict=True)
        ),
        "mean_steps": float(result.steps.mean()),
        "cut_off": result.cut_off,
        "outcomes": {name: float(values.mean()) for name, values in result.outcomes.items()},
        "keeping_everything": float(result.everything.mean()),
        "steps_per_second": result.steps_per_second,
        "layers": [
            {
                "live_mean": float(live.mean()),
                "live_p95": float(np.percentile(live, 95)),
                "live_max": int(live.max()),
                "evictions": int(evictions),
                "retention_score": None if math.isnan(score) else float(score),
            }
            for live, evictions, score in zip(result.live.T, result.evictions, result.retention, strict=True)
        ],
    }
    lengths = result.outcomes.get("length")
    if lengths is not None:
        bins = ((first, last, (lengths >= first) & (lengths <= last)) for first, last in nice_bins(lengths))
        summary["success_by_length"] = [
            {"from": first, "to": last, "episodes": int(chosen.sum()), "success": float(successes[chosen].mean())}
            for first, last, chosen in bins
            if chosen.any()
        ]
    return summary


def figure_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The figures, and the `max_episode_steps` in force, as lines to read."""
    reward, success = summary["mean_return"], summary["success"]
    yield f"episodes          {summary['episodes']}, {summary['mean_steps']:.1f} steps each on average"
    if summary["cut_off"]:
        yield (
            f"cut off           {summary['cut_off']} episodes after {summary['max_episode_steps']:,} steps, "
            "each the last of its row; --max-episode-steps asks for others"
        )
    yield f"mean return       {reward['mean']:.3f}  (95 % interval {reward['low']:.3f} to {reward['high']:.3f})"
    yield f"success           {success['mean']:.1%}  (95 % interval {success['low']:.1%} to {success['high']:.1%})"
    for name, mean in summary["outcomes"].items():
        yield f"{name.replace('_', ' '):17} {mean:.3g} on average"
    for row in summary.get("success_by_length", []):
        yield f"  length {row['from']:>5} to {row['to']:<5} {row['success']:7.1%}  of {row['episodes']} episodes"
    if not summary["layers"]:
        yield "memory            a state of fixed size, or none: no memories of single steps"
    else:
        yield "memory            live mean   p95   max   evictions   retention score"
    for number, layer in enumerate(summary["layers"], 1):
        score = "-" if layer["retention_score"] is None else f"{layer['retention_score']:.3f}"
        live = f"{layer['live_mean']:9.1f} {layer['live_p95']:5.0f} {layer['live_max']:5d}"
        yield f"  layer {number}         {live} {layer['evictions']:11d}   {score:>15}"
    if summary["layers"]:
        yield f"  everything      {summary['keeping_everything']:9.1f}"
    yield f"steps per second  {summary['steps_per_second']:.0f}"
