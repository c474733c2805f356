"""What an agent sees, as small pictures to record."""

from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

TILE = 8
"""Pixels across a cell of a MiniGrid view."""
LARGEST = 96
"""Longest side of a recorded picture; larger ones are reduced."""
MOST_DRAWN = 1000
"""Different views that are remembered."""


class AgentView:
    """Takes pictures of what the agent sees in one environment.

    What the environment itself draws of its agent's view (`get_pov_render`, as all of MiniGrid's have); else the
    observation where it is a picture itself, in colour or grey; else what the environment renders, if it was made with
    `render_mode="rgb_array"`.  Equal views are drawn once: drawing a grid takes as long as a fifth of a policy's step,
    and most episodes show the same few views again and again.
    """

    def __init__(self, env: gym.Env) -> None:
        self._env = env
        self._draw = getattr(env.unwrapped, "get_pov_render", None)
        self._drawn: dict[tuple[bytes, int], np.ndarray] = {}

    def __call__(self, observation: Any) -> np.ndarray | None:
        """The picture for the present observation, uint8 [height, width, 3 or 1]; None where there is none."""
        if self._draw is not None:
            # A grid's codes, with what the agent carries among them, and its direction are all that is drawn.
            key = np.asarray(observation).tobytes(), int(getattr(self._env.unwrapped, "agent_dir", 0))
            if isinstance(observation, dict) or len(self._drawn) >= MOST_DRAWN:
                return reduced(self._draw(TILE))
            if key not in self._drawn:
                self._drawn[key] = reduced(self._draw(TILE))
            return self._drawn[key]
        if _is_picture(observation):
            return reduced(observation)
        if self._env.render_mode != "rgb_array":
            return None
        rendered: Any = self._env.render()
        return reduced(rendered) if _is_picture(rendered) else None


def reduced(picture: np.ndarray) -> np.ndarray:
    """The picture with its longest side at most `LARGEST` pixels."""
    height, width, channels = picture.shape
    factor = LARGEST / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = Image.fromarray(picture if channels == 3 else picture[:, :, 0])
    return np.asarray(image.resize(size, Image.Resampling.BOX)).reshape(*size[::-1], channels)


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] in (1, 3)
