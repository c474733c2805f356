"""What an agent sees, as small pictures to record."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from minigrid.minigrid_env import MiniGridEnv
from PIL import Image

from ..envs.single import GridEnv

TILE = 8
"""Pixels across a cell of a MiniGrid view."""
LARGEST = 96
"""Longest side of a recorded picture; larger ones are reduced."""
MOST_DRAWN = 1000
"""Different views that are remembered."""
FROM_CELLS = (MiniGridEnv.get_pov_render, GridEnv.get_pov_render)
"""These draw nothing but the cells in view and, for this project's grids, the direction of the last move."""


class AgentView:
    """Takes pictures of what the agent sees in one environment.

    What the environment itself draws of its agent's view (`get_pov_render`, as all of MiniGrid's have); else the
    observation where it is a picture itself, in colour or grey; else what the environment renders, if it was made with
    `render_mode="rgb_array"`.  Rendering that raises an error, on a machine without a screen say, is warned of once and
    not tried again.

    Equal views of a grid are drawn once: drawing takes three to five times as long as reading the cells that are drawn,
    and most episodes show the same few views again and again.  The observation would not do as a key: a wrapper may
    have made it of something else.
    """

    def __init__(self, env: gym.Env) -> None:
        self._env = env
        self._draw = getattr(env.unwrapped, "get_pov_render", None)
        self._drawn: dict[tuple[bytes, int], np.ndarray] = {}
        self._broken = False

    def __call__(self, observation: Any) -> np.ndarray | None:
        """The picture for the present observation, uint8 [height, width, 3 or 1]; None where there is none."""
        if self._draw is not None:
            return self._attempt(self._view, self._draw)
        picture = as_picture(observation)
        if picture is None and self._env.render_mode == "rgb_array":
            picture = as_picture(self._attempt(self._env.render))
        return None if picture is None else reduced(picture)

    def _view(self, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        inner: Any = self._env.unwrapped
        if getattr(type(inner), "get_pov_render", None) not in FROM_CELLS:
            return reduced(draw(TILE))
        cells, visible = inner.gen_obs_grid()
        key = cells.encode(visible).tobytes(), int(inner.agent_dir)
        if key not in self._drawn:
            if len(self._drawn) >= MOST_DRAWN:
                return reduced(draw(TILE))
            self._drawn[key] = reduced(draw(TILE))
        return self._drawn[key]

    def _attempt(self, render: Callable[..., Any], *arguments: Any) -> Any:
        if self._broken:
            return None
        try:
            return render(*arguments)
        except Exception as error:
            self._broken = True
            said = f"{type(error).__name__}: {error}"
            warnings.warn(f"{self._env} is recorded without pictures, drawing it raised {said}", stacklevel=2)
            return None


def as_picture(value: Any) -> np.ndarray | None:
    """The value as a picture, uint8 [height, width, 3 or 1], if it is one with its channels first or last."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3:
        return None
    if value.shape[2] in (1, 3):
        return value
    return value.transpose(1, 2, 0) if value.shape[0] in (1, 3) else None


def reduced(picture: np.ndarray) -> np.ndarray:
    """The picture with its longest side at most `LARGEST` pixels."""
    height, width, channels = picture.shape
    factor = LARGEST / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = Image.fromarray(np.ascontiguousarray(picture if channels == 3 else picture[:, :, 0]))
    return np.asarray(image.resize(size, Image.Resampling.BOX)).reshape(*size[::-1], channels)
