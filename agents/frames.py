"""What an agent sees, as small pictures to record."""

from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

TILE = 8
"""Pixels across a cell of a MiniGrid view."""
LARGEST = 96
"""Longest side of a recorded picture; larger ones are reduced."""


def agent_view(env: gym.Env, observation: Any) -> np.ndarray | None:
    """A picture of what the agent sees, uint8 [height, width, 3]; None where the environment has none.

    The view of a MiniGrid environment; else the observation where it is a colour picture itself; else what the
    environment renders, if it was made with `render_mode="rgb_array"`.
    """
    view = getattr(env.unwrapped, "get_pov_render", None)
    if view is not None:
        return reduced(view(TILE))
    if _is_picture(observation):
        return reduced(observation)
    if env.render_mode != "rgb_array":
        return None
    rendered: Any = env.render()
    return reduced(rendered) if _is_picture(rendered) else None


def reduced(picture: np.ndarray) -> np.ndarray:
    """The picture with its longest side at most `LARGEST` pixels."""
    height, width, _ = picture.shape
    factor = LARGEST / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3
