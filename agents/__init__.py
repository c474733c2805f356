"""Policies and algorithms with memory, on Stable-Baselines3."""

from .encoders import MiniGridExtractor
from .policy import MemoryActorCriticPolicy
from .ppo import MemoryPPO, PPOConfig
from .pressure import PressureConfig
from .rollout import SequenceRolloutBuffer
from .vec_env import GymnasiumVecEnv

__all__ = [
    "GymnasiumVecEnv",
    "MemoryActorCriticPolicy",
    "MemoryPPO",
    "MiniGridExtractor",
    "PPOConfig",
    "PressureConfig",
    "SequenceRolloutBuffer",
]
