"""The picture of one episode's memory: which timesteps were kept, and for how long.

Timesteps run across.  Each layer has a panel in which every memory is a bar from the step that wrote it to the step
that deleted it, at the height of the step that wrote it: a memory that expires at once is a dot on the diagonal, one
that is kept a long bar to the right.  A bar is strong over its predicted span and pale over the ramp after it.
Relevant steps are marked, and the lowest panel counts live memories.  The legend says all this, since the picture has
to stand alone.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..record import EpisodeTrace, LayerRecord

KEPT, RELEVANT, EVICTED, DIAGONAL_COLOR = "#4c78a8", "#e45756", "#8a4fa0", "#777777"
PALE = 0.35
"""Opacity of what fades."""
KINDS = {
    KEPT: "a memory, from the step that wrote it to the step that deleted it",
    EVICTED: "evicted: the capacity pushed it out before it expired",
    RELEVANT: "memory of a relevant step: a later step needs its observation",
}
RAMP = "pale end of a bar: past its predicted span the memory fades out"
DIAGONAL = "diagonal: the present step, where every bar begins"
NO_RELEVANT = "no step of this episode is marked as relevant"
LAYER_LINES = (("#8db6e2", "-", 3.2), ("#b3541e", "--", 1.4), ("#2f7d4f", ":", 1.5), ("#7a4fa3", "-.", 1.5))
"""Colour, stroke and width of a layer's count: where two layers hold the same, the gaps show the one beneath."""


def draw_timeline(trace: EpisodeTrace, title: str = "") -> Figure:
    """A figure of one recorded episode, on a white ground so that it reads the same in any theme."""
    layers, steps = len(trace.layers), len(trace.relevant)
    figure = Figure(figsize=(10, 2.4 * layers + 2.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    *panels, counts = figure.subplots(layers + 1, 1, sharex=True, height_ratios=[2.4] * layers + [1.3])
    shown: set[str] = set()
    for number, (panel, layer) in enumerate(zip(panels, trace.layers, strict=True), 1):
        shown |= _draw_bars(panel, layer, trace.relevant)
        panel.plot([0, steps], [0, steps], color=DIAGONAL_COLOR, linewidth=0.8, linestyle=":", zorder=0)
        panel.yaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
        panel.set(ylabel=f"layer {number}\nstep written", xlim=(0, steps), ylim=(-0.03 * steps, steps * 1.03))
    _draw_counts(counts, trace)
    handles = [Line2D([], [], color=color, linewidth=3.0, label=KINDS[color]) for color in KINDS if color in shown]
    handles.append(Line2D([], [], color=KEPT, alpha=PALE, linewidth=3.0, label=RAMP))
    handles.append(Line2D([], [], color=DIAGONAL_COLOR, linestyle=":", label=DIAGONAL))
    if not trace.relevant.any():
        handles.append(Line2D([], [], linestyle="none", label=NO_RELEVANT))
    said = figure.legend(handles=handles, loc="outside upper left", fontsize="small", frameon=False, ncols=2)
    said.set_title(title)
    said.set_alignment("left")
    return figure


def _draw_bars(panel: Axes, layer: LayerRecord, relevant: np.ndarray) -> set[str]:
    """The memories of a layer as bars; returns the colours that occur."""
    steps = len(relevant)
    written, thin = np.arange(steps), max(0.6, min(2.0, 200 / steps))
    lasting = layer.deleted - written > steps / 20
    faded = np.clip(np.nan_to_num(written + layer.span), written, layer.deleted)
    color = np.where(layer.evicted, EVICTED, np.where(relevant, RELEVANT, KEPT))
    for kind in KINDS:
        chosen = color == kind
        least = thin if kind != RELEVANT else max(1.4, min(3.0, 60 / max(1, chosen.sum())))
        # What outlives its neighbours stays visible among thousands of steps.
        thick = np.where(lasting[chosen], max(1.2, least), least)
        for end, alpha in ((layer.deleted, PALE), (faded, 1.0)):
            bars = [[(i, i), (end[i], i)] for i in written[chosen]]
            panel.add_collection(LineCollection(bars, colors=kind, alpha=alpha, linewidths=thick, capstyle="butt"))
    return set(color.tolist())


def _draw_counts(panel: Axes, trace: EpisodeTrace) -> None:
    """Live memories of each layer at every step, and those that keeping everything would hold."""
    edges = np.arange(len(trace.relevant) + 1)
    for number, layer in enumerate(trace.layers):
        color, stroke, width = LAYER_LINES[number % len(LAYER_LINES)]
        live = np.append(layer.live, layer.live[-1])
        panel.step(edges, live, color, where="post", linestyle=stroke, linewidth=width, label=f"layer {number + 1}")
    panel.step(edges, edges + 1, "#444444", where="post", linestyle=":", linewidth=1, label="if everything were kept")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    top = max((int(layer.live.max()) for layer in trace.layers), default=1)
    panel.set(ylabel="live memories", xlabel="step of the episode", ylim=(0, 1.6 * top))
    panel.legend(loc="upper right", fontsize="small", frameon=False, ncols=len(trace.layers) + 1)


def save_timeline(trace: EpisodeTrace, path: Path, title: str = "") -> None:
    """Write the picture of one recorded episode as a PNG file."""
    draw_timeline(trace, title).savefig(path, dpi=120)
