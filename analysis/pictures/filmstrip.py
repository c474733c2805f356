"""The frames that are still remembered: of a whole episode as a moving picture, and of one step as a still one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from ..record import EpisodeTrace, in_color
from .timeline import RELEVANT

THUMBNAIL, COLUMNS, ROWS, CAPTION = 64, 6, 4, 14
MOST_FRAMES = 400
"""Longer episodes are thinned out to this many frames."""
STRIP_COLUMNS, STRIP_MOST = 16, 96
"""Frames in a row of a still picture, and the most that it shows of a layer."""


def save_episode_gif(
    trace: EpisodeTrace, scenes: Sequence[np.ndarray], views: Sequence[np.ndarray], path: Path, fps: int = 10
) -> None:
    """Write an animated GIF.

    Args:
        trace: The recorded episode of T steps.
        scenes: What is shown above, a picture [height, width, 3 or 1] for each step.
        views: What the agent sees, a picture for each step; the remembered ones are shown below, the oldest first,
            each with the step that it was seen at, relevant ones framed in red.
        path: The file.
        fps: Pictures a second.

    Raises:
        ValueError: Where there isn't one scene and one view for each step.
    """
    steps = len(trace.relevant)
    if not len(scenes) == len(views) == steps:
        raise ValueError(f"Expect {steps} `scenes` and `views`, actual: {len(scenes)} and {len(views)}")
    width = COLUMNS * THUMBNAIL
    thumbnails = [
        Image.fromarray(in_color(view)).resize((THUMBNAIL - 4, THUMBNAIL - 4), Image.Resampling.NEAREST)
        for view in views
    ]
    shown = range(0, steps, -(-steps // MOST_FRAMES))
    frames = [_frame(trace, step, _fitted(scenes[step], width), thumbnails) for step in shown]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // fps, loop=0)


def _fitted(scene: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(in_color(scene))
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def _frame(trace: EpisodeTrace, step: int, scene: Image.Image, thumbnails: Sequence[Image.Image]) -> Image.Image:
    cell = THUMBNAIL + CAPTION
    frame = Image.new("RGB", (scene.width, scene.height + 2 * CAPTION + ROWS * cell), "white")
    frame.paste(scene, (0, 0))
    draw = ImageDraw.Draw(frame)
    kept = trace.remembered(step)
    left_out = max(0, len(kept) - COLUMNS * ROWS)
    # The oldest memories are the ones that somebody decided to keep.
    caption = f"step {step}: {len(kept)} of {step + 1} steps remembered" + (
        f", the newest {left_out} not shown" if left_out else ""
    )
    draw.text((4, scene.height + 4), caption, fill="black")
    for place, written in enumerate(kept[: COLUMNS * ROWS]):
        x, y = place % COLUMNS * THUMBNAIL, scene.height + 2 * CAPTION + place // COLUMNS * cell
        if trace.relevant[written]:
            draw.rectangle((x, y, x + THUMBNAIL - 1, y + THUMBNAIL - 1), outline=RELEVANT, width=2)
        frame.paste(thumbnails[written], (x + 2, y + 2))
        draw.text((x + 4, y + THUMBNAIL), str(written), fill="black")
    return frame


def draw_filmstrip(trace: EpisodeTrace, step: int, title: str = "") -> Figure:
    """The frames that each layer still remembers at one step, the oldest first, beside the present one.

    Each frame carries the step that it was seen at; those of relevant steps are framed in red.  Drawn on a white
    ground, so that it reads the same in any theme.

    Raises:
        ValueError: Where the step lies outside the episode, or the episode was recorded without frames.
    """
    if trace.frames is None:
        raise ValueError("Expect `trace` to be recorded with frames, actual: without")
    if not 0 <= step < len(trace.relevant):
        raise ValueError(f"Expect `step` to be from 0 to {len(trace.relevant) - 1}, actual: {step}")
    kept = [np.flatnonzero(layer.deleted[: step + 1] > step) for layer in trace.layers]
    rows = [-(-min(len(steps), STRIP_MOST) // STRIP_COLUMNS) for steps in kept]
    inches = [0.55 + 0.85 * count for count in rows]
    size = 0.7 * STRIP_COLUMNS, 1.5 + sum(inches)
    figure = Figure(figsize=size, dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(kept) + 1, 1, height_ratios=[1.2, *inches])
    _lay_out(axes[0], trace, np.array([step]), 1)
    framed = any(trace.relevant[steps].any() for steps in kept) or trace.relevant[step]
    explained = "; framed in red: relevant steps, whose observation a later step needs" if framed else ""
    axes[0].set_title(f"{title}{', ' if title else ''}step {step}{explained}", loc="left", fontsize="medium")
    for number, (panel, steps, count) in enumerate(zip(axes[1:], kept, rows, strict=True), 1):
        _lay_out(panel, trace, steps[:STRIP_MOST], count)
        left_out = f", the newest {len(steps) - STRIP_MOST} not shown" if len(steps) > STRIP_MOST else ""
        said = f"layer {number} remembers {len(steps)} of {step + 1} steps{left_out}"
        panel.set_title(said, loc="left", fontsize="small")
    return figure


def save_filmstrip(trace: EpisodeTrace, step: int, path: Path, title: str = "") -> None:
    """Write `draw_filmstrip` as a PNG file."""
    draw_filmstrip(trace, step, title).savefig(path)


def _lay_out(panel: Axes, trace: EpisodeTrace, steps: np.ndarray, rows: int) -> None:
    """Frames side by side in rows, each with its step beneath."""
    assert trace.frames is not None
    panel.axis("off")
    for place, written in enumerate(steps.tolist()):
        x, y = place % STRIP_COLUMNS, 1.25 * (place // STRIP_COLUMNS)
        picture = in_color(trace.frames[written])
        height, width = (0.9 * side / max(picture.shape[:2]) for side in picture.shape[:2])
        panel.imshow(picture, extent=(x, x + width, y + height, y))
        panel.text(x + 0.45, y + 0.95, str(written), ha="center", va="top", fontsize="x-small", color="black")
        if trace.relevant[written]:
            frame = Rectangle((x - 0.02, y - 0.02), 0.94, 0.94, fill=False, edgecolor=RELEVANT, linewidth=2.5)
            panel.add_patch(frame)
    panel.set(xlim=(-0.05, STRIP_COLUMNS), ylim=(1.25 * rows, -0.05), aspect="equal", anchor="NW")
