"""What the tokens of Object Collision say: the names of places and colours, and which collisions are asked for."""

import numpy as np
from jaxtyping import Bool, Int64

from .collision import FRAME
from .collision_world import CollisionConfig

QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
HUES = "red orange yellow lime green mint cyan azure blue violet magenta rose".split()
"""Names of 12 hues, 30 degrees apart."""


def color_names(colors: int) -> list[str]:
    """What the colours of `draw_frame` are called; numbered where there are more than names."""
    if colors > len(HUES):
        return [f"color-{number}" for number in range(colors)]
    return [HUES[round(len(HUES) * number / colors)] for number in range(colors)]


def token_names(config: CollisionConfig) -> list[str]:
    """The text of each token, each followed by a space."""
    places = [f"{axis}{number} " for axis in "rc" for number in range(config.grid)]
    return places + 2 * [f"{name} " for name in color_names(config.colors)]


def happenings(tokens: Int64[np.ndarray, "B T"], config: CollisionConfig) -> tuple[Bool[np.ndarray, "B T"], np.ndarray]:
    """Whether each token is of a collision that a later frame asks for, and the collision in its frame, unicode [B, T].

    A collision is asked for where its pair of colours is, before these collide again.
    """
    rows, steps = tokens.shape
    count = steps // FRAME
    frame = tokens[:, : count * FRAME].reshape(rows, count, FRAME)
    met = (frame[:, :, 0] == frame[:, :, 3]) & (frame[:, :, 1] == frame[:, :, 4])
    pair = (frame[:, :, [2, 5]] - 2 * config.grid) @ [config.colors, 1]
    asked = (frame[:, :, 6:] - 2 * config.grid - config.colors) @ [config.colors, 1]
    needed, said = np.zeros((rows, count), dtype=bool), np.full((rows, count), "", dtype=object)
    names = color_names(config.colors)
    for row, at in np.argwhere(met).tolist():
        again = np.flatnonzero(met[row, at + 1 :] & (pair[row, at + 1 :] == pair[row, at]))
        end = at + 1 + int(again[0]) if len(again) else count
        needed[row, at] = (asked[row, at + 1 : end] == pair[row, at]).any()
        said[row, at] = "collision " + "/".join(names[color] for color in divmod(int(pair[row, at]), config.colors))
    relevant, events = np.zeros(tokens.shape, dtype=bool), np.full(tokens.shape, "", dtype=object)
    relevant[:, : count * FRAME] = needed.repeat(FRAME, 1)
    events[:, : count * FRAME] = said.repeat(FRAME, 1)
    return relevant, events.astype(str)
