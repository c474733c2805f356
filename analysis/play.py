"""Episodes to look at: each is played once, and every picture and file of it is made from what was recorded then."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from ..agents.policy import MemoryActorCriticPolicy
from ..envs import make_batched, make_single, make_viewed
from .evaluation import record_episode
from .record import EpisodeTrace

POV_TILE = 16
"""Pixels across a cell of the views beneath a moving picture."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is played, and for how long."""

    env_id: str
    env_args: dict[str, Any]
    view_size: int | None
    max_steps: int

    def single(self) -> gym.Env:
        """One environment."""
        return make_single(self.env_id, self.env_args, self.view_size)

    def viewed(self) -> gym.Env:
        """One environment, drawn if it can be."""
        return make_viewed(self.env_id, self.env_args, self.view_size)

    def batched(self, rows: int) -> VectorEnv:
        """A number of environments side by side."""
        return make_batched(self.env_id, rows, self.env_args, self.view_size)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A recorded episode with what was photographed at each of its steps, if anything."""

    seed: int
    trace: EpisodeTrace
    scenes: list[np.ndarray]
    """What the environment rendered."""
    views: list[np.ndarray]
    """What the agent saw, where the environment can draw that apart; else the scenes."""


def play_episode(
    policy: MemoryActorCriticPolicy,
    env: gym.Env,
    seed: int,
    deterministic: bool,
    max_steps: int,
    *,
    photographed: bool = False,
    attention: bool = False,
    frames: bool = False,
) -> Episode:
    """Play and record one episode, which is a function of its seed; see `record_episode` for the rest."""
    scenes: list[np.ndarray] = []
    views: list[np.ndarray] = []

    def photograph() -> None:
        scene: Any = env.render()
        scenes.append(scene)
        pov = getattr(env.unwrapped, "get_pov_render", None)
        views.append(scene if pov is None else pov(POV_TILE))

    on_step = photograph if photographed else lambda: None
    trace = record_episode(
        policy, env, seed, deterministic, on_step, attention=attention, frames=frames, max_steps=max_steps
    )
    return Episode(seed=seed, trace=trace, scenes=scenes, views=views)
