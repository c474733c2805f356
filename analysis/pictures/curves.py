"""The picture of a training run: what the agent earned and how much it held in memory, from the run's event files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCORES = {"rollout/success_rate": "success", "rollout/ep_rew_mean": "mean return"}
LIVE = "memory/live_layer_"
STROKES = (("-", 3.0, 0.4), ("--", 1.3, 1.0), (":", 1.3, 1.0), ("-.", 1.3, 1.0))
"""Stroke, width and opacity of a layer's curve: where layers hold the same, the gaps show the one beneath."""

Curve = tuple[np.ndarray, np.ndarray]
"""Steps and the values there."""


def read_curves(run: Path) -> dict[str, Curve]:
    """Score and live memories by tag, from the event files in a run folder, which may still be written to.

    Raises:
        ValueError: Where there is neither.
    """
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag in SCORES or tag.startswith(LIVE)]
    if not tags:
        raise ValueError(f"Expect `run` to hold event files with scores or live memories, actual: {run}")
    curves = {}
    for tag in tags:
        # A value that is given again for a step, after a run was resumed, replaces the first.
        points = {event.step: event.value for event in events.Scalars(tag)}
        curves[tag] = np.array(sorted(points)), np.array([points[step] for step in sorted(points)])
    return curves


def draw_curves(runs: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Score above, live memories of each layer below, over the steps of training; one colour a run, on white."""
    if not runs:
        raise ValueError("Expect `runs` to hold at least 1 run, actual: 0")
    figure = Figure(figsize=(10, 5.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    score, live = figure.subplots(2, 1, sharex=True)
    named = {tag: words for tag, words in SCORES.items() if any(tag in curves for curves in runs.values())}
    tag, words = next(iter(named.items()), ("", "score"))
    for number, (name, curves) in enumerate(runs.items()):
        color = f"C{number}"
        _line(score, curves.get(tag), color=color, linewidth=1.3, label=name)
        # Shorter tags first: layer_2 stands before layer_10.
        layers = sorted((tag for tag in curves if tag.startswith(LIVE)), key=lambda tag: (len(tag), tag))
        for place, layer in enumerate(layers):
            label = f"{name}, layer {layer.removeprefix(LIVE)}"
            stroke, width, alpha = STROKES[place % len(STROKES)]
            _line(live, curves[layer], color=color, linestyle=stroke, linewidth=width, alpha=alpha, label=label)
    score.set(ylabel=words)
    live.set(ylabel="live memories", xlabel="environment steps", yscale="log")
    live.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    live.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    live.yaxis.set_minor_formatter(NullFormatter())
    live.xaxis.set_major_formatter(EngFormatter(sep=""))
    for panel in (score, live):
        panel.grid(color="#dddddd", linewidth=0.6)
        if panel.lines:
            panel.legend(fontsize="small", frameon=False)
    return figure


def save_curves(runs: Mapping[str, Path], path: Path) -> None:
    """Read the runs, by the names they shall bear, and write their picture as a PNG file."""
    draw_curves({name: read_curves(run) for name, run in runs.items()}).savefig(path, dpi=120)


def _line(panel: Axes, curve: Curve | None, **style: Any) -> None:
    if curve is not None:
        panel.plot(*curve, **style)
