"""Actions between a policy and its environment: distributions, masks, and the values that an environment takes.

A policy works with what its distribution draws: class numbers from 0, and real numbers.  An environment takes the
values of its space: `Discrete` and `MultiDiscrete` count from their `start`, a `Box` has bounds and perhaps whole
numbers.
"""

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

RULED_OUT = -1e8
"""Logit of an action that a mask rules out: its probability is 0 in floating point, its entropy 0 and not NaN."""


def check_action_space(space: spaces.Space) -> None:
    """Raise ValueError for a space in which no policy of this project can act."""
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise ValueError(
            f"Expect `env` to have actions of type Box, Discrete, MultiDiscrete or MultiBinary, actual: {space}"
        )
    if isinstance(space, spaces.Box) and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"Expect `env` to have finite bounds of its actions, actual: {space}; "
            "gymnasium.wrappers.RescaleAction gives them"
        )
    bits = isinstance(space, spaces.MultiBinary) and not isinstance(space.n, int)
    if bits or (isinstance(space, spaces.MultiDiscrete) and len(space.shape) > 1):
        raise ValueError(f"Expect `env` to have actions in one dimension where they are not a Box, actual: {space}")


def first_action(space: spaces.Space) -> np.ndarray | int:
    """The value that an environment gives to class 0: `start` of Discrete and MultiDiscrete, else 0."""
    if isinstance(space, spaces.Discrete):
        return int(space.start)
    return np.asarray(space.start) if isinstance(space, spaces.MultiDiscrete) else 0


def environment_actions(policy: ActorCriticPolicy, actions: Tensor) -> np.ndarray:
    """Drawn actions [B, ...] as the environment takes them.

    Those of a Box are clipped to its bounds, and rounded where its numbers are whole; class numbers begin at `start`.
    """
    array, space = actions.cpu().numpy(), policy.action_space
    if isinstance(space, spaces.Box):
        if np.issubdtype(space.dtype, np.integer):
            array = np.rint(array)
        return np.clip(array, space.low, space.high).astype(space.dtype, copy=False)
    return (array + first_action(space)).astype(space.dtype, copy=False)


def drawn_actions(space: spaces.Space, actions: np.ndarray) -> np.ndarray:
    """Actions of an environment [N, ...] as the policy draws them: the inverse of `environment_actions`."""
    return actions - first_action(space)


def mask_width(space: spaces.Space) -> int:
    """Entries of an action mask: one a class of Discrete and MultiDiscrete, two (for 0 and for 1) a MultiBinary bit.

    Raises ValueError for a space whose actions can't be masked.
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return 2 * int(np.prod(space.shape))
    raise ValueError(f"Expect actions that can be masked (Discrete, MultiDiscrete, MultiBinary), actual: {space}")


def read_masks(space: spaces.Space, masks: object, rows: int) -> np.ndarray:
    """Action masks as bool [rows, mask_width]: true for an action that may be taken.

    Raises ValueError where the shape is another one, or a choice is left without any action.
    """
    width = mask_width(space)
    array = _flat(masks)
    if array.size != rows * width:
        raise ValueError(f"Expect `action_masks` to have {width} entries for each of {rows} rows, actual: {array.size}")
    array = array.reshape(rows, width)
    for choice in np.split(array, _ends(space), axis=1):
        if len(empty := np.flatnonzero(~choice.any(1))):
            raise ValueError(f"Expect `action_masks` to leave an action to every row, actual: none to row {empty[0]}")
    return array


def _flat(masks: object) -> np.ndarray:
    """Masks as one array of bools; those of a MultiDiscrete may be a list for each of its choices."""
    if isinstance(masks, list | tuple):
        return np.concatenate([_flat(part) for part in masks]) if len(masks) else np.zeros(0, dtype=bool)
    return np.asarray(masks, dtype=bool).reshape(-1)


def environment_masks(env: VecEnv, policy: ActorCriticPolicy) -> Tensor:
    """The masks of all rows now, bool [B, mask_width], from `action_masks()`, as sb3-contrib's MaskablePPO asks."""
    masks = read_masks(policy.action_space, env.env_method("action_masks"), env.num_envs)
    return torch.as_tensor(masks, device=policy.device)


def masked_logits(
    logits: Float[Tensor, "N A"], masks: Bool[Tensor, "N M"] | None, space: spaces.Space
) -> Float[Tensor, "N A"]:
    """The logits with those of masked actions at `RULED_OUT`; M is `mask_width`."""
    if masks is None:
        return logits
    if not isinstance(space, spaces.MultiBinary):
        return logits.masked_fill(~masks, RULED_OUT)
    zero, one = masks.unflatten(-1, (-1, 2)).unbind(-1)
    return logits.masked_fill(~one, RULED_OUT).masked_fill(~zero, -RULED_OUT)


def _ends(space: spaces.Space) -> np.ndarray:
    """Where in a mask the entries of one choice end and those of the next begin."""
    if isinstance(space, spaces.MultiDiscrete):
        return np.cumsum(space.nvec)[:-1]
    return np.arange(2, mask_width(space), 2) if isinstance(space, spaces.MultiBinary) else np.zeros(0, dtype=int)


class LeanCategorical(CategoricalDistribution):
    """SB3's categorical distribution from few operations: with torch's own it took a sixth of the time of acting."""

    log_probs: Tensor
    """Of all actions, [B, A]."""

    def proba_distribution(self, action_logits: Tensor) -> "LeanCategorical":
        """This distribution with these logits [B, A]."""
        self.log_probs = action_logits.log_softmax(-1)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities [B] of actions [B]."""
        return self.log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """In nats, [B]."""
        finite = self.log_probs.clamp_min(torch.finfo(self.log_probs.dtype).min)  # ruled out: add nothing
        return -(finite.exp() * finite).sum(-1)

    def sample(self) -> Tensor:
        """Actions [B]: the first to arrive of exponential waits at the rates of the probabilities."""
        return (self.log_probs.exp() / torch.empty_like(self.log_probs).exponential_()).argmax(-1)

    def mode(self) -> Tensor:
        """The likeliest actions [B]."""
        return self.log_probs.argmax(-1)
