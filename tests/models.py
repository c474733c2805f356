"""Small agents and environments for tests of what an agent does."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from expirespan.agents import MemoryA2C, MemoryPPO
from expirespan.envs import CorridorVectorEnv
from expirespan.memory import ExpireSpan, ExpireSpanConfig
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

SMALL = {"memory": {"layers": 2, "width": 16, "heads": 2, "ff_width": 16, "max_span": 40.0, "ramp": 4.0}}


def corridor(rows: int = 4, **arguments: int) -> CorridorVectorEnv:
    return CorridorVectorEnv(rows, **({"min_length": 3, "max_length": 7} | arguments))


def small(env: Any = None, **arguments: Any) -> MemoryPPO:
    settings = {"n_steps": 16, "batch_size": 32, "policy_kwargs": SMALL, "seed": 3, "device": "cpu"}
    return MemoryPPO("MemoryPolicy", env if env is not None else corridor(), **(settings | arguments))


def rows_of(model: MemoryPPO | MemoryA2C) -> VecEnv:
    assert model.env is not None
    return model.env


def span_core(model: MemoryPPO | MemoryA2C) -> ExpireSpan:
    core = model.policy.core
    assert isinstance(core, ExpireSpan)
    return core


def span_config(model: MemoryPPO | MemoryA2C) -> ExpireSpanConfig:
    return span_core(model).config


def weights(model: MemoryPPO) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.policy.parameters()]


class Blinker(gym.Env):
    """Shows its step count; reward 1 a step; truncated after 3 steps."""

    observation_space = spaces.Box(0, 10, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.array([0, 1], dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.array([self.steps, 1], dtype=np.float32), 1.0, False, self.steps == 3, {}
