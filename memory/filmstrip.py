"""An episode as a moving picture: the present frame, and beside it the frames that are still remembered."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .trace import EpisodeTrace

THUMBNAIL, COLUMNS, ROWS, CAPTION = 64, 6, 4, 14
MOST_FRAMES = 400
"""Longer episodes are thinned out to this many frames."""


def save_episode_gif(
    trace: EpisodeTrace, scenes: Sequence[np.ndarray], views: Sequence[np.ndarray], path: Path, fps: int = 10
) -> None:
    """Write an animated GIF.

    Args:
        trace: The recorded episode of T steps.
        scenes: What is shown above, a picture [height, width, 3] for each step.
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
        Image.fromarray(view).resize((THUMBNAIL - 4, THUMBNAIL - 4), Image.Resampling.NEAREST) for view in views
    ]
    shown = range(0, steps, -(-steps // MOST_FRAMES))
    frames = [_frame(trace, step, _fitted(scenes[step], width), thumbnails) for step in shown]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // fps, loop=0)


def _fitted(scene: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(scene)
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
            draw.rectangle((x, y, x + THUMBNAIL - 1, y + THUMBNAIL - 1), outline="#e45756", width=2)
        frame.paste(thumbnails[written], (x + 2, y + 2))
        draw.text((x + 4, y + THUMBNAIL), str(written), fill="black")
    return frame
