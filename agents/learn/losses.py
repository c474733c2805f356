"""Advantages and losses as pure functions, on tensors laid out [T, B] (time, environment)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ... import processes


def gae(
    rewards: Float[Tensor, "T B"],
    values: Float[Tensor, "T B"],
    last_values: Float[Tensor, " B"],
    episode_starts: Bool[Tensor, "T B"],
    last_dones: Bool[Tensor, " B"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "T B"]:
    """Generalised advantage estimates (Schulman et al., 2016).

    A truncated episode counts as ended here: its bootstrap value stands in its last reward already.
    """
    going_on = torch.cat([~episode_starts[1:], ~last_dones.unsqueeze(0)]).to(values.dtype)
    next_values = torch.cat([values[1:], last_values.unsqueeze(0)])
    deltas = rewards + gamma * going_on * next_values - values
    decay = gamma * gae_lambda * going_on
    advantages = torch.empty_like(values)
    running = torch.zeros_like(last_values)
    for step in reversed(range(len(rewards))):
        running = deltas[step] + decay[step] * running
        advantages[step] = running
    return advantages


def normalized_advantages(advantages: Float[Tensor, "T B"], floor: float) -> Float[Tensor, "T B"]:
    """Zero mean and a standard deviation of 1 over all processes, but never scaled up by more than 1 / floor.

    Without the floor a rollout that held no reward has its value noise blown up to a full-sized learning signal.
    """
    _, mean, var = processes.moments(advantages.flatten())
    return (advantages - mean) / var.sqrt().clamp_min(floor)


def deviation(returns: Float[Tensor, "T B"], floor: float) -> float:
    """The standard deviation over all processes, at least `floor`."""
    _, _, var = processes.moments(returns.flatten())
    return var.sqrt().clamp_min(floor).item()


def explained_variance(values: Float[Tensor, "T B"], returns: Float[Tensor, "T B"]) -> float:
    """1 - Var(returns - values) / Var(returns) over all processes; NaN where all returns are equal."""
    _, _, var = processes.moments(torch.stack([returns - values, returns], -1).flatten(0, 1))
    unexplained, all_of_it = var.tolist()
    return 1 - unexplained / all_of_it if all_of_it else float("nan")


def policy_gradient(log_prob: Float[Tensor, "T B"], advantages: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
    """A2C's policy loss (Mnih et al., 2016): -mean(log p A)."""
    return -(log_prob * advantages).mean()


def clipped_surrogate(
    ratio: Float[Tensor, "T B"], advantages: Float[Tensor, "T B"], clip_range: float
) -> Float[Tensor, ""]:
    """PPO's policy loss (Schulman et al., 2017): -mean(min(r A, clip(r) A))."""
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def value_loss(
    values: Float[Tensor, "T B"],
    old_values: Float[Tensor, "T B"],
    returns: Float[Tensor, "T B"],
    clip_range: float | None,
) -> Float[Tensor, ""]:
    """Mean squared error; with a clip range, of values that move no further than that from the old ones."""
    if clip_range is not None:
        values = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.nn.functional.mse_loss(values, returns)
