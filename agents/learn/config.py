"""Settings that the on-policy algorithms share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule

from ...checks import check_choice, check_not_negative, check_positive, check_share, check_whole

Config = TypeVar("Config")
Scheduled = float | Callable[[float], float]
"""A number, or a function of the share of the training that remains, from 1 to 0, as SB3's schedules are."""


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig:
    """What every algorithm that learns from whole sequences of its own experience needs to know."""

    learning_rate: float = 7e-4
    """Step size of Adam at the start."""
    anneal: bool = True
    """Let a constant step size fall linearly to 0 over training: Adam turns the small gradients of a solved task into
    steps of full size, which a constant one never stops taking."""
    span_lr_scale: float = 0.03
    """Step size of the spans' weights, as a multiple of learning_rate."""
    n_steps: int | None = None
    """Steps of a rollout in each environment: the length of a training segment (T).  None for 128, or for 64 with
    fewer than 32 environments, which would otherwise learn from their steps too rarely."""
    batch_size: int | None = None
    """Steps of a minibatch: whole environment columns, so a multiple of n_steps; the columns of a rollout are
    shared out evenly.  None for at least 4 minibatches a rollout (as far as there are environments) of at most 1,024
    steps, or of one column where that is longer."""
    gamma: float = 0.995
    """Discount of future rewards."""
    gae_lambda: float = 0.9
    """Weight of longer returns in the advantage estimate."""
    normalize_advantage: bool = True
    """Scale the advantages of a rollout to a standard deviation of 1."""
    advantage_floor: float = 0.1
    """Smallest standard deviation that advantages and the value loss are divided by: rollouts without reward are not
    blown up."""
    normalize_value_loss: bool = True
    """Divide the value loss by the standard deviation of the rollout's returns: with small rewards, values are
    otherwise learned too slowly beside a policy whose advantages are normalised."""
    normalize_reward: bool = True
    """Divide rewards by the running standard deviation of the discounted return where that is above 1
    (reward_scale.py).  Values, advantages and `rollout_buffer.rewards` are then in this unit.  Without effect where
    SB3's VecNormalize already normalises rewards."""
    normalize_observations: bool = True
    """Give the network numbers of a Box as their distance from their running mean in running standard deviations
    (`NumbersExtractor`); the statistics change between rollouts alone.  Pictures, class numbers, MiniGrid's codes and
    tokens stay as they are.  Without effect where SB3's VecNormalize already normalises observations."""
    ent_coef: float = 0.001
    """Weight of the entropy bonus.  Where an early mistake can't be made good again (a T-Maze), few steps of an episode
    tell good actions from bad ones, and a larger bonus outweighs them."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Longest gradient; longer ones are scaled down.  Infinity for no limit."""

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), at_least=1)
        check_positive("advantage_floor", self.advantage_floor)
        if self.max_grad_norm != math.inf:
            check_positive("max_grad_norm", self.max_grad_norm)
        for name in ("learning_rate", "span_lr_scale", "ent_coef", "vf_coef"):
            check_not_negative(name, getattr(self, name))
        for name in ("gamma", "gae_lambda"):
            check_share(name, getattr(self, name))
        for name in ("anneal", *(field.name for field in fields(self) if field.name.startswith("normalize_"))):
            check_choice(name, getattr(self, name), (True, False))


FEW_ENVIRONMENTS = 32
"""With fewer environments, rollouts are shorter."""
LARGEST_BATCH = 1024
"""Steps of a minibatch that is not asked for, at most."""
FEWEST_BATCHES = 4
"""Minibatches of a rollout where no size is asked for, at least, as far as there are environments."""


def rollout_steps(num_envs: int | None) -> int:
    """Steps of a rollout in each environment where none are asked for; without environments, as with many."""
    return 64 if num_envs is not None and num_envs < FEW_ENVIRONMENTS else 128


def minibatch_steps(asked: int | None, n_steps: int, num_envs: int, processes: int = 1) -> int:
    """Steps of a minibatch, which is whole environment columns; environments and minibatches are of all processes."""
    if asked is not None:
        return min(asked, n_steps * num_envs)  # there may be fewer environments than at first
    batches = max(FEWEST_BATCHES, math.ceil(n_steps * num_envs / LARGEST_BATCH))
    return math.ceil(num_envs / min(batches, num_envs // processes)) * n_steps


def check_batch_size(asked: int | None, n_steps: int, num_envs: int, processes: int = 1) -> None:
    """Raise ValueError where so many steps are no whole columns of so many environments, or too few for processes."""
    if asked is not None and (asked % n_steps or asked > n_steps * num_envs):
        raise ValueError(
            f"Expect `batch_size` to be a multiple of `n_steps` ({n_steps}), since a minibatch is whole environment "
            f"columns, of at most {n_steps * num_envs}, actual: {asked}"
        )
    if asked is not None and asked < n_steps * processes:
        said = f"at least {n_steps * processes}, a column of each of {processes} processes"
        raise ValueError(f"Expect `batch_size` to be {said}, actual: {asked}")


def pick(config: type[Config], given: Mapping[str, Any]) -> Config:
    """A configuration from those of the given arguments that are its fields."""
    return config(**{field.name: given[field.name] for field in fields(config) if field.name in given})  # pyright: ignore[reportArgumentType]  # a dataclass


def plain_numbers(given: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's, which a checkpoint can hold and Python's own generators take as seeds."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}


def plain_schedule(value: Any) -> Any:
    """A setting without the wrapper that SB3 puts around schedules: a number, a function, or as it is."""
    if isinstance(value, FloatSchedule):
        value = value.value_schedule
    return value.val if isinstance(value, ConstantSchedule) else value
