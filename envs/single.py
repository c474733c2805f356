"""The single face of a world: one Gymnasium Env that is a citizen of MiniGrid.

It holds a world of one row, and mirrors it into MiniGrid's Grid, so that MiniGrid's rendering and wrappers work.
"""

from functools import partial
from typing import Any, SupportsFloat

import numpy as np
from gymnasium import spaces
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.minigrid_env import MiniGridEnv

from .world import GridWorld, Move

WINDOW = 32
"""Longer grids are drawn as the cells around the agent, at most this many across."""


class GridEnv(MiniGridEnv):
    """One world behind MiniGrid's interface.  The view is centred on the agent and does not turn with it."""

    def __init__(self, world: GridWorld, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(
            mission_space=MissionSpace(mission_func=world.mission),
            width=world.width,
            height=world.height,
            max_steps=world.max_steps,
            see_through_walls=True,
            agent_view_size=world.view_size,
            render_mode=render_mode,
            **kwargs,
        )
        self.world = world
        self.actions = Move
        self.action_space = spaces.Discrete(len(Move))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin a new episode, the first of a new random stream if a seed is given."""
        if seed is not None:
            self.world.seed(0, seed)
        obs, _ = super().reset(seed=seed, options=options)
        return obs, self._info()

    def step(self, action: Any) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Move one cell (`Move`)."""
        if not self.action_space.contains(action):
            raise ValueError(f"Expect `action` to be an int from 0 to {len(Move) - 1}, actual: {action!r}")
        result = self.world.step(np.array([action], dtype=np.int64))
        reward, terminated, truncated = float(result.reward[0]), bool(result.terminated[0]), bool(result.truncated[0])
        self._follow_world()
        if self.render_mode == "human":
            self.render()
        info = self._info()
        if terminated or truncated:
            info["is_success"] = bool(self.world.succeeded(result)[0])
        return self.gen_obs(), reward, terminated, truncated, info

    def get_view_exts(self, agent_view_size: int | None = None) -> tuple[int, int, int, int]:
        """The square around the agent: left, top, and past the right and the bottom."""
        size = agent_view_size or self.agent_view_size
        left, top = int(self.agent_pos[0]) - size // 2, int(self.agent_pos[1]) - size // 2
        return left, top, left + size, top + size

    def get_view_coords(self, i: int, j: int) -> tuple[int, int]:
        """Where in the view a cell of the grid is; may lie outside of it."""
        left, top, _, _ = self.get_view_exts()
        return i - left, j - top

    def gen_obs_grid(self, agent_view_size: int | None = None) -> tuple[Grid, np.ndarray]:
        """The cells around the agent, all of them visible."""
        left, top, right, bottom = self.get_view_exts(agent_view_size)
        grid = self.grid.slice(left, top, right - left, bottom - top)
        return grid, np.ones((grid.width, grid.height), dtype=bool)

    def get_pov_render(self, tile_size: int) -> np.ndarray:
        """The agent's view as a picture."""
        grid, visible = self.gen_obs_grid()
        middle = self.agent_view_size // 2
        return grid.render(tile_size, (middle, middle), self.agent_dir, highlight_mask=visible)

    def get_full_render(self, highlight: bool, tile_size: int) -> np.ndarray:
        """The grid, or of a long one the part around the agent, with the view highlighted."""
        x, y = int(self.agent_pos[0]), int(self.agent_pos[1])
        width = min(self.width, WINDOW)
        left = min(max(x - width // 2, 0), self.width - width)
        view = self.get_view_exts()
        seen = np.zeros((width, self.height), dtype=bool)
        seen[max(view[0] - left, 0) : max(view[2] - left, 0), max(view[1], 0) : view[3]] = highlight
        grid = self.grid.slice(left, 0, width, self.height)
        return grid.render(tile_size, (x - left, y), self.agent_dir, highlight_mask=seen)

    def _gen_grid(self, width: int, height: int) -> None:
        self.world.reset(0)
        self.grid, _ = Grid.decode(self.world.grid(0))
        self._follow_world()
        beneath = self.grid.get(*self.agent_pos)
        if beneath is not None:  # what can be entered is up to the world, but MiniGrid's reset asks the object
            beneath.can_overlap = partial(bool, True)

    def _follow_world(self) -> None:
        self.agent_pos = (int(self.world.positions[0, 0]), int(self.world.positions[0, 1]))
        self.agent_dir = int(self.world.directions[0])
        self.step_count = int(self.world.steps[0])

    def _info(self) -> dict[str, Any]:
        return {name: value[0].item() for name, value in self.world.infos().items()}
