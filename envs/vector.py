"""The batched face of a world: a Gymnasium VectorEnv that steps all rows at once.

Observations of the grid tasks are MiniGrid's images without the direction and the mission: what `ImgObsWrapper` gives
of one environment.  Autoreset is same-step: a finished row already shows its next episode, and `info["final_obs"]` and
`info["final_info"]` keep the end of the last one, as in Gymnasium's SyncVectorEnv.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .world import World


class WorldVectorEnv(VectorEnv):
    """`num_envs` worlds behind Gymnasium's vector interface.

    Row i is seeded with `seed + i`, as Gymnasium seeds its own vector environments, so that it lives through the same
    episodes as a single environment of that seed.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012 - Gymnasium's form

    def __init__(self, world: World) -> None:
        self.world = world
        self.num_envs = world.num_worlds
        self.single_observation_space = world.observation_space
        self.single_action_space = spaces.Discrete(world.num_actions)
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
        return self.world.observe(), self._infos()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all rows; finished ones are reset at once."""
        actions = np.asarray(actions, dtype=np.int64)
        most = self.world.num_actions - 1
        if actions.shape != (self.num_envs,) or (actions < 0).any() or (actions > most).any():
            raise ValueError(f"Expect `actions` to be {self.num_envs} ints from 0 to {most}, actual: {actions}")
        result = self.world.step(actions)
        reward, terminated, truncated = result
        done = terminated | truncated
        if not done.any():
            return self.world.observe(), reward, terminated, truncated, self._infos()
        final_obs = np.full(self.num_envs, None, dtype=object)
        observations = self.world.observe()
        for row in np.flatnonzero(done).tolist():
            final_obs[row] = observations[row]
        final_info = self.world.infos() | {"is_success": self.world.succeeded(result)}
        final_info |= {f"_{name}": done for name in final_info}
        for row in np.flatnonzero(done).tolist():
            self.world.reset(row)
        infos = self._infos() | {
            "final_obs": final_obs,
            "_final_obs": done,
            "final_info": final_info,
            "_final_info": done,
        }
        return self.world.observe(), reward, terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly (see `World.state_dict`)."""
        return self.world.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.world.load_state_dict(state)

    def _infos(self) -> dict[str, Any]:
        infos: dict[str, Any] = self.world.infos()
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        return infos | {f"_{name}": everywhere for name in infos}
