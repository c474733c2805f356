"""Policies and algorithms with memory, on Stable-Baselines3."""

from .a2c import A2CConfig, MemoryA2C
from .callbacks import RecordEpisodes
from .encoders import MiniGridExtractor, TokenLineExtractor
from .gymnasium_vec_env import GymnasiumVecEnv
from .history import HistorySpace, HistoryWrapper
from .history_extractor import ExpireSpanExtractor
from .masked_evaluation import MaskedEvalCallback, WithMasks
from .policy import MemoryActorCriticPolicy
from .ppo import MemoryPPO, PPOConfig
from .pressure import PressureConfig
from .rollout import SequenceRolloutBuffer

__all__ = [
    "A2CConfig",
    "ExpireSpanExtractor",
    "GymnasiumVecEnv",
    "HistorySpace",
    "HistoryWrapper",
    "MaskedEvalCallback",
    "MemoryA2C",
    "MemoryActorCriticPolicy",
    "MemoryPPO",
    "MiniGridExtractor",
    "PPOConfig",
    "PressureConfig",
    "RecordEpisodes",
    "SequenceRolloutBuffer",
    "TokenLineExtractor",
    "WithMasks",
]
