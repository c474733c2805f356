"""Collecting a rollout: acting in every environment, with the memory of each carried from step to step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ... import processes
from ..actions import environment_actions, environment_masks
from ..observations import check_finite
from .rollout import SequenceRolloutBuffer

if TYPE_CHECKING:
    from .on_policy import MemoryOnPolicyAlgorithm


def collect(
    algorithm: "MemoryOnPolicyAlgorithm",
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: SequenceRolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Act for `n_rollout_steps` in every environment; False if a callback stopped it, in this process or another.

    Callbacks find SB3's names in their locals: `obs_tensor`, `actions` (as drawn), `clipped_actions` (as the
    environment took them), `values`, `log_probs`, `new_obs`, `rewards`, `dones`, `infos`, `n_steps`.  At the end of
    the rollout `rollout_buffer.rewards` are divided by `reward_scale.scale`, unless `normalize_reward` is False.

    Raises ValueError where an observation or a reward is NaN or infinite.
    """
    assert algorithm._last_obs is not None and algorithm._last_episode_starts is not None
    algorithm.policy.set_training_mode(False)
    masked = algorithm.use_masking and env.has_attr("action_masks")
    state = algorithm._memory if algorithm._memory is not None else algorithm.policy.initial_state(env.num_envs)
    with torch.no_grad():
        # The weights have changed since the memories were written.
        state = algorithm.policy.core.refresh(state.compact())
    rollout_buffer.begin(state, masked)
    callback.on_rollout_start()
    algorithm.reward_scale.begin_rollout(np.asarray(algorithm._last_episode_starts, dtype=bool))
    starts = torch.as_tensor(algorithm._last_episode_starts, dtype=torch.bool, device=algorithm.device)
    dones, n_steps, goes_on = np.zeros(env.num_envs, dtype=bool), 0, True
    bootstraps = []
    while n_steps < n_rollout_steps:
        action_masks = environment_masks(env, algorithm.policy) if masked else None
        with torch.no_grad():
            obs_tensor = _copied(obs_as_tensor(algorithm._last_obs, algorithm.device))
            drawn, values, log_probs, state = algorithm.policy(obs_tensor, state, starts, action_masks=action_masks)
        actions, clipped_actions = drawn.cpu().numpy(), environment_actions(algorithm.policy, drawn)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        assert not isinstance(new_obs, tuple)  # SB3 has no policies for these
        check_finite(new_obs)
        # Before a callback may stop training, so that what goes on later goes on from here.
        last_starts, starts = starts, torch.as_tensor(dones, dtype=torch.bool, device=algorithm.device)
        algorithm._last_obs, algorithm._last_episode_starts, algorithm._memory = new_obs, dones, state
        algorithm.num_timesteps += env.num_envs * processes.count()
        callback.update_locals(locals() | {"self": algorithm})
        if not (goes_on := callback.on_step()):
            break
        algorithm._update_info_buffer(infos, dones)
        n_steps += 1
        _check_rewards(rewards, algorithm.num_timesteps)
        if algorithm.scales_rewards:
            algorithm.reward_scale.note(rewards, dones)
        bootstraps.append(_truncation_values(algorithm, infos, dones, state))
        earned = torch.as_tensor(rewards, dtype=torch.float32, device=algorithm.device)
        rollout_buffer.add(obs_tensor, drawn, earned, last_starts, values, log_probs, action_masks)
    if not processes.all_of_them(goes_on):
        return False
    _scale_rewards(algorithm, torch.stack(bootstraps))
    algorithm.share_episodes()
    with torch.no_grad():
        last_values = algorithm.policy.predict_values(
            obs_as_tensor(algorithm._last_obs, algorithm.device), state, starts
        )
    rollout_buffer.compute_returns_and_advantage(last_values, dones)
    callback.update_locals(locals() | {"self": algorithm})
    callback.on_rollout_end()
    return True


def _scale_rewards(algorithm: "MemoryOnPolicyAlgorithm", bootstraps: Tensor) -> None:
    """Bring a rollout's rewards to their unit, and add what truncated rows would have earned in it, [T, B]."""
    if algorithm.scales_rewards:
        algorithm.reward_scale.end_rollout()
        algorithm.rollout_buffer.rewards /= algorithm.reward_scale.scale
    algorithm.rollout_buffer.rewards += bootstraps


def _check_rewards(rewards: np.ndarray, steps: int) -> None:
    """Raise ValueError where one of the rewards [B] is NaN or infinite."""
    if not np.isfinite(rewards).all():
        row = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise ValueError(f"Expect finite rewards, actual: {rewards[row]} of row {row}, after {steps} steps")


def _truncation_values(
    algorithm: "MemoryOnPolicyAlgorithm", infos: Sequence[dict[str, Any]], dones: np.ndarray, state: Any
) -> Tensor:
    """What truncated rows would still have earned, [B]: the value of their last observation, discounted.

    `state` is the memory after the step before it, which the reset has not touched yet.
    """
    extra = torch.zeros(len(dones), device=algorithm.device)
    cut_off = [row for row in np.flatnonzero(dones).tolist() if infos[row].get("TimeLimit.truncated", False)]
    # As SB3 does, without the bootstrap where a VecEnv doesn't tell the last observation.
    rows = [row for row in cut_off if infos[row].get("terminal_observation") is not None]
    if rows:
        endings = [infos[row]["terminal_observation"] for row in rows]
        if isinstance(endings[0], dict):
            last: Any = {name: np.stack([ending[name] for ending in endings]) for name in endings[0]}
        else:
            last = np.stack(endings)
        check_finite(last, "the last observation", rows)
        index = torch.as_tensor(rows, device=algorithm.device)
        with torch.no_grad():
            no_starts = torch.zeros(len(rows), dtype=torch.bool, device=algorithm.device)
            values = algorithm.policy.predict_values(
                obs_as_tensor(last, algorithm.device), state.rows(index), no_starts
            )
        extra[index] = algorithm.gamma * values
    return extra


def _copied(observations: Any) -> Any:
    """A copy of a tensor, or of those of a dictionary: a VecEnv may write what comes next into the same arrays."""
    if isinstance(observations, dict):
        return {name: part.clone() for name, part in observations.items()}
    return observations.clone()
