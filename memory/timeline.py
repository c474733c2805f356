"""The picture of one episode's memory: which timesteps were kept, and for how long.

Timesteps run across.  Each layer has a panel in which every memory is a bar from the step that wrote it to the step
that deleted it, at the height of the step that wrote it: a memory that expires at once is a dot on the diagonal, one
that is kept a long bar to the right.  Relevant steps are marked, and the lowest panel counts live memories.
"""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from .trace import EpisodeTrace

KEPT, RELEVANT, EVICTED = "#4c78a8", "#e45756", "#b279a2"


def draw_timeline(trace: EpisodeTrace, title: str = "") -> Figure:
    """A figure of one recorded episode, on a white ground so that it reads the same in any theme."""
    layers, steps = len(trace.layers), len(trace.relevant)
    figure = Figure(figsize=(10, 2.4 * layers + 1.9), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(layers + 1, 1, sharex=True, height_ratios=[2.4] * layers + [1.3])
    written, thin = np.arange(steps), max(0.6, min(2.0, 200 / steps))
    for number, (panel, layer) in enumerate(zip(axes, trace.layers, strict=False), 1):
        groups = (
            ("kept", KEPT, ~trace.relevant & ~layer.evicted),
            ("evicted", EVICTED, layer.evicted),
            ("relevant", RELEVANT, trace.relevant & ~layer.evicted),
        )
        lasting = layer.deleted - written > steps / 20
        for label, color, chosen in groups:
            bars = [[(i, i), (layer.deleted[i], i)] for i in written[chosen]]
            if bars:
                least = thin if label != "relevant" else max(1.4, min(3.0, 60 / len(bars)))
                # What outlives its neighbours stays visible among thousands of steps.
                thick = np.where(lasting[chosen], max(1.2, least), least)
                panel.add_collection(LineCollection(bars, colors=color, linewidths=thick))
                panel.plot([], [], color=color, linewidth=3.0, label=label)
        panel.plot(written, written, color="#bbbbbb", linewidth=0.5, zorder=0)
        panel.set(ylabel=f"layer {number}\nstep written", xlim=(0, steps), ylim=(-0.03 * steps, steps * 1.03))
    axes[0].legend(loc="upper left", fontsize="small", frameon=False)
    axes[0].set_title(title, fontsize="medium", loc="left")
    for number, layer in enumerate(trace.layers, 1):
        axes[-1].step(written, layer.live, where="post", linewidth=1, label=f"layer {number}")
    axes[-1].plot(written, written + 1, color="#bbbbbb", linewidth=0.8, linestyle="--", label="keeping everything")
    top = max(int(layer.live.max()) for layer in trace.layers)
    axes[-1].set(ylabel="live memories", xlabel="step of the episode", ylim=(0, 1.6 * top))
    axes[-1].legend(loc="upper right", fontsize="small", frameon=False, ncols=layers + 1)
    return figure


def save_timeline(trace: EpisodeTrace, path: Path, title: str = "") -> None:
    """Write the picture of one recorded episode as a PNG file."""
    draw_timeline(trace, title).savefig(path, dpi=120)
