"""The batched face of a world: a Gymnasium VectorEnv that steps all rows at once.

Observations are MiniGrid's images without the direction and the mission: what `ImgObsWrapper` gives of one
environment.  Autoreset is same-step: a finished row already shows its next episode, and `info["final_obs"]` and
`info["final_info"]` keep the end of the last one, as in Gymnasium's SyncVectorEnv.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .world import GridWorld, Move


class GridVectorEnv(VectorEnv):
    """`num_envs` worlds behind Gymnasium's vector interface.

    Row i is seeded with `seed + i`, as Gymnasium seeds its own vector environments, so that it lives through the same
    episodes as a single environment of that seed.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012 - Gymnasium's form

    def __init__(self, world: GridWorld) -> None:
        self.world = world
        self.num_envs = world.num_worlds
        size = world.view_size
        self.single_observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.single_action_space = spaces.Discrete(len(Move))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes in all rows; row i is seeded with `seed + i` or with `seed[i]`."""
        seeds = (
            [None if seed is None else seed + row for row in range(self.num_envs)]
            if not isinstance(seed, list)
            else seed
        )
        if len(seeds) != self.num_envs:
            raise ValueError(f"Expect `seed` to have one entry for each of {self.num_envs} rows, actual: {len(seeds)}")
        for row, row_seed in enumerate(seeds):
            if row_seed is not None:
                self.world.seed(row, row_seed)
            self.world.reset(row)
        return self.world.views(), self._infos()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all rows; finished ones are reset at once."""
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape != (self.num_envs,) or (actions < 0).any() or (actions >= len(Move)).any():
            raise ValueError(
                f"Expect `actions` to be {self.num_envs} ints from 0 to {len(Move) - 1}, actual: {actions}"
            )
        reward, terminated, truncated = self.world.step(actions)
        done = terminated | truncated
        if not done.any():
            return self.world.views(), reward, terminated, truncated, self._infos()
        final_obs = np.full(self.num_envs, None, dtype=object)
        views = self.world.views()
        for row in np.flatnonzero(done).tolist():
            final_obs[row] = views[row]
        final_info = self.world.infos() | {"is_success": terminated & (reward > 0)}
        final_info |= {f"_{name}": done for name in final_info}
        for row in np.flatnonzero(done).tolist():
            self.world.reset(row)
        infos = self._infos() | {
            "final_obs": final_obs,
            "_final_obs": done,
            "final_info": final_info,
            "_final_info": done,
        }
        return self.world.views(), reward, terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly (see `GridWorld.state_dict`)."""
        return self.world.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.world.load_state_dict(state)

    def _infos(self) -> dict[str, Any]:
        infos: dict[str, Any] = self.world.infos()
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        return infos | {f"_{name}": everywhere for name in infos}
