"""Policies and algorithms with memory, on Stable-Baselines3."""

from ..memory.expire_span.budget import PressureConfig
from .encoders import MiniGridExtractor, TokenLineExtractor
from .gymnasium_vec_env import GymnasiumVecEnv
from .history import HistorySpace, HistoryWrapper
from .history_extractor import ExpireSpanExtractor
from .learn.a2c import A2CConfig, MemoryA2C
from .learn.on_policy import TrainingDiverged
from .learn.ppo import MemoryPPO, PPOConfig
from .learn.rollout import SequenceRolloutBuffer
from .masked_evaluation import MaskedEvalCallback, WithMasks
from .policy import MemoryActorCriticPolicy

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
    "SequenceRolloutBuffer",
    "TokenLineExtractor",
    "TrainingDiverged",
    "WithMasks",
]
