"""Collecting experience with memory: what the on-policy algorithms share."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import Tensor

from ..memory import ExpireSpanState
from .encoders import is_minigrid_image
from .policy import MemoryActorCriticPolicy
from .rollout import SequenceRolloutBuffer
from .vec_env import GymnasiumVecEnv


class MemoryOnPolicyAlgorithm(OnPolicyAlgorithm):
    """An SB3 OnPolicyAlgorithm whose policy carries a memory through each episode."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MemoryPolicy": MemoryActorCriticPolicy}
    policy: MemoryActorCriticPolicy  # type: ignore[assignment]  # narrower than the parent's
    rollout_buffer: SequenceRolloutBuffer  # type: ignore[assignment]  # narrower than the parent's

    def __init__(self, policy: str | type[MemoryActorCriticPolicy], env: Any, **kwargs: Any) -> None:
        if isinstance(env, gym.vector.VectorEnv):
            env = VecMonitor(GymnasiumVecEnv(env))
        self._memory: ExpireSpanState | None = None
        super().__init__(policy, env, rollout_buffer_class=SequenceRolloutBuffer, use_sde=False, sde_sample_freq=-1, **kwargs)

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # MiniGrid's codes have the shape of a picture, but their axes must not be swapped.
        if isinstance(env, VecEnv) and is_minigrid_image(env.observation_space):
            return env
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def collect_rollouts(  # type: ignore[override]  # a buffer of sequences
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: SequenceRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Act for `n_rollout_steps` in every environment; False if a callback stopped it."""
        assert self._last_obs is not None and self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        state = self._memory if self._memory is not None else self.policy.initial_state(env.num_envs)
        with torch.no_grad():
            # The weights have changed since the memories were written.
            state = self.policy.core.refresh(state.packed())
        rollout_buffer.begin(state)
        callback.on_rollout_start()
        starts = torch.as_tensor(self._last_episode_starts, dtype=torch.bool, device=self.device)
        dones = np.zeros(env.num_envs, dtype=bool)
        for _ in range(n_rollout_steps):
            with torch.no_grad():
                obs = obs_as_tensor(self._last_obs, self.device)
                actions, values, log_probs, state = self.policy(obs, state, starts)
            new_obs, rewards, dones, infos = env.step(self._for_environment(actions))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            rewards = torch.as_tensor(rewards, device=self.device) + self._truncation_values(infos, dones, state)
            rollout_buffer.add(obs, actions, rewards, starts, values, log_probs)
            self._last_obs, self._last_episode_starts, self._memory = new_obs, dones, state
            starts = torch.as_tensor(dones, dtype=torch.bool, device=self.device)
        with torch.no_grad():
            last_values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device), state, starts)
        rollout_buffer.compute_returns_and_advantage(last_values, dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _for_environment(self, actions: Tensor) -> np.ndarray:
        array = actions.cpu().numpy()
        if isinstance(self.action_space, spaces.Box):
            if self.policy.squash_output:
                return self.policy.unscale_action(array)
            return np.clip(array, self.action_space.low, self.action_space.high)
        return array

    def _truncation_values(self, infos: list[dict[str, Any]], dones: np.ndarray, state: ExpireSpanState) -> Tensor:
        """What truncated rows would still have earned, [B]: the value of their last observation, discounted.

        `state` is the memory after the step before it, which the reset has not touched yet.
        """
        extra = torch.zeros(len(dones), device=self.device)
        rows = [row for row in np.flatnonzero(dones) if infos[row].get("TimeLimit.truncated", False)]
        if rows:
            endings = [infos[row]["terminal_observation"] for row in rows]
            if isinstance(endings[0], dict):
                last: Any = {name: np.stack([ending[name] for ending in endings]) for name in endings[0]}
            else:
                last = np.stack(endings)
            index = torch.as_tensor(rows, device=self.device)
            with torch.no_grad():
                no_starts = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
                values = self.policy.predict_values(obs_as_tensor(last, self.device), state.rows(index), no_starts)
            extra[index] = self.gamma * values
        return extra
