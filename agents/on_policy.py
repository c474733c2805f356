"""Collecting experience with memory: what the on-policy algorithms share."""

from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import (
    check_for_correct_spaces,
    explained_variance,
    get_system_info,
    obs_as_tensor,
)
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ..memory import ExpireSpanState
from .checkpoint import SUFFIX, read_checkpoint, write_checkpoint
from .config import OnPolicyConfig
from .encoders import is_minigrid_image
from .losses import normalized_advantages
from .policy import MemoryActorCriticPolicy, SequenceEvaluation, environment_actions
from .pressure import PressureConfig, SpanPressure
from .reward_scale import RewardScale
from .rollout import SequenceBatch, SequenceRolloutBuffer
from .saving import describe, read_arguments, restore, stored_spaces
from .training_log import TrainingLog
from .vec_env import as_vec_env

Algorithm = TypeVar("Algorithm", bound="MemoryOnPolicyAlgorithm")
LARGEST_BATCH = 1024
"""Steps of a minibatch that is not asked for, at most."""


class MemoryOnPolicyAlgorithm(OnPolicyAlgorithm):
    """An SB3 OnPolicyAlgorithm whose policy carries a memory through each episode."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MemoryPolicy": MemoryActorCriticPolicy}
    policy: MemoryActorCriticPolicy  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower than the parent's
    rollout_buffer: SequenceRolloutBuffer  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower than the parent's

    config: Any
    """Settings of the algorithm (`OnPolicyConfig`)."""

    def __init__(
        self,
        policy: str | type[MemoryActorCriticPolicy],
        env: Any,
        config: OnPolicyConfig,
        pressure: PressureConfig,
        policy_kwargs: dict[str, Any] | None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self.config = config
        self._policy_kwargs = dict(policy_kwargs or {})
        self.pressure = SpanPressure(pressure)
        self._memory: ExpireSpanState | None = None
        super().__init__(
            policy,
            as_vec_env(env),
            learning_rate=config.learning_rate,
            n_steps=config.n_steps,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            ent_coef=config.ent_coef,
            vf_coef=config.vf_coef,
            max_grad_norm=config.max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=SequenceRolloutBuffer,
            policy_kwargs={"span_lr_scale": config.span_lr_scale, **(policy_kwargs or {})},
            _init_setup_model=False,
            **kwargs,
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self.batch_size = self._batch_size()
        super()._setup_model()
        self.reward_scale = RewardScale(self.n_envs, self.gamma)

    def arguments(self) -> dict[str, Any]:
        """The arguments that would make this model again, the environment and the device apart."""
        default_policy = self.policy_aliases["MemoryPolicy"]
        return {
            "policy": "MemoryPolicy" if self.policy_class is default_policy else self.policy_class,
            **asdict(self.config),
            **asdict(self.pressure.config),
            "policy_kwargs": self._policy_kwargs,
            "seed": self.seed,
            "stats_window_size": self._stats_window_size,
            "tensorboard_log": None if self.tensorboard_log is None else str(self.tensorboard_log),
            "verbose": self.verbose,
        }

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Write a checkpoint: one safetensors file, which executes nothing when it is read.

        It holds the policy and everything that training needs to continue.  Arguments that are classes or functions
        can't be in it and must be given to `load` again.  `.safetensors` is added to a path without a suffix;
        `exclude` and `include` are SB3's and not supported.

        Raises ValueError where `exclude` or `include` is given.
        """
        if exclude is not None or include is not None:
            raise ValueError(f"Expect `exclude` and `include` to be None, actual: {exclude!r} and {include!r}")
        write_checkpoint(checkpoint_path(path), *describe(self))

    @classmethod
    def load(
        cls: type[Algorithm],
        path: Any,
        env: Any = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Algorithm:
        """The model of a checkpoint.

        Args:
            path: The file; `.safetensors` is added to a path without a suffix.
            env: An environment to go on training in; evaluation needs none.
            device: Where the policy shall live.
            custom_objects: Arguments that replace stored ones, like `kwargs`.
            print_system_info: Print the versions in use, as SB3 does.
            force_reset: Begin new episodes on the next `learn`.  If False, and if the environment can restore its
                state, training goes on exactly where it stood, random numbers included.  (With `anneal`, the
                step size also depends on the total number of steps that `learn` is asked for.)
            kwargs: Arguments of the constructor that replace stored ones.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where it is not a checkpoint of this algorithm, its spaces are not those of `env`, or it needs
                an argument that it could not hold.
        """
        if print_system_info:
            get_system_info()
        tensors, document = read_checkpoint(checkpoint_path(path))
        arguments = read_arguments(document, {**(custom_objects or {}), **kwargs}, cls.__name__)
        model = cls(env=env, device=device, _init_setup_model=False, **arguments)
        observation_space, action_space = stored_spaces(document)
        if env is None:
            model.observation_space, model.action_space = observation_space, action_space
            model.n_envs = document["n_envs"]
        else:
            assert model.env is not None
            check_for_correct_spaces(model.env, observation_space, action_space)
        model._setup_model()
        restore(model, tensors, document, continue_episodes=not force_reset)
        return model

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Go on in another environment, of any kind that the constructor takes, with the same spaces and rows."""
        super().set_env(as_vec_env(env), force_reset)

    def restore_statistics(self, episodes: list[dict[str, float]], successes: list[bool]) -> None:
        """Put back the recent episodes that the log and the budget go by."""
        self.ep_info_buffer = deque(episodes, maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(successes, maxlen=self._stats_window_size)

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  # the state is a memory, not a tuple of arrays
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: ExpireSpanState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, ExpireSpanState]:
        """Actions, and the memory to hand in with the next observation; see `MemoryActorCriticPolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _batch_size(self) -> int:
        """Steps of a minibatch, which is whole environment columns."""
        steps, size = self.config.n_steps, self.config.batch_size
        fitting = [columns * steps for columns in range(1, self.n_envs + 1) if self.n_envs % columns == 0]
        if size is None:
            return max((size for size in fitting if size <= LARGEST_BATCH), default=steps)
        if size not in fitting:
            raise ValueError(
                f"Expect `batch_size` to be whole columns of {steps} steps that divide {self.n_envs} environments, "
                f"one of {', '.join(map(str, fitting))}, actual: {size}"
            )
        return size

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # What remained as the rollout began: its end may lie past the total, or it may be all that is asked for.
        super()._update_current_progress_remaining(num_timesteps - self.n_steps * self.n_envs, total_timesteps)

    def _update_learning_rate(self, optimizers: Any) -> None:
        remaining = self._current_progress_remaining
        rate = self.lr_schedule(remaining) * (remaining if self.config.anneal else 1)
        self.logger.record("train/learning_rate", rate)
        for group in self.policy.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def _evaluate(self, batch: SequenceBatch, trace: bool) -> SequenceEvaluation:
        """What the present weights make of a minibatch, and what it charges for memories if anyone wants to know."""
        return self.policy.evaluate_sequences(
            batch.observations,
            batch.actions,
            batch.state,
            batch.episode_starts,
            charge=trace or self.pressure.moves_spans,
            trace=trace,
            spare_used=self.pressure.has_budget,
        )

    def _loss(self, policy_loss: Tensor, value_loss: Tensor, entropy: Tensor, penalty: Tensor) -> Tensor:
        """The weighted sum of all terms."""
        loss = policy_loss + self.config.vf_coef * value_loss - self.config.ent_coef * entropy
        return loss + self.pressure.weight * penalty if self.pressure.weight else loss

    def _step(self, loss: Tensor, now: SequenceEvaluation, share: float) -> None:
        """One step of the optimizer, and this share of an update's pull on the spans."""
        core, pressure = self.policy.core, self.pressure
        shortening = core.rent_gradients(now.rent) if pressure.pulls else None
        spared = now.spared if pressure.config.late_pull else None
        counterpulls = pressure.counterpulls(spared) if spared else []
        lengthening = core.rent_gradients(-spared.overdue) if spared and any(counterpulls) else None
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm, error_if_nonfinite=True)
        self.policy.optimizer.step()
        if shortening is not None:
            core.move_spans(shortening, [pull * share for pull in pressure.pulls])
        if lengthening is not None:
            core.move_spans(lengthening, [pull * share for pull in counterpulls])

    def _begin_update(self) -> TrainingLog:
        """Make ready to learn from the rollout just collected; where to log what comes of it."""
        config, buffer = self.config, self.rollout_buffer
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        if config.normalize_advantage:
            buffer.advantages = normalized_advantages(buffer.advantages, config.advantage_floor)
        return TrainingLog()

    def _finish_update(self, log: TrainingLog) -> None:
        """Log an update, and let the pressure on the spans follow what came of it."""
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.cpu().numpy().ravel(), buffer.returns.cpu().numpy().ravel())
        log.add(explained_variance=float(explained), memory__penalty_weight=self.pressure.weight)
        log.add(reward_scale=self.reward_scale.scale)
        log.add(memory__pull=max(self.pressure.pulls, default=0.0))
        figures = log.figures(self.policy.memory_config.max_span)
        self.pressure.update(figures, 1 - self._current_progress_remaining)
        log.record(self.logger, figures)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # MiniGrid's codes have the shape of a picture, but their axes must not be swapped.
        if isinstance(env, VecEnv) and is_minigrid_image(env.observation_space):
            return env
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def collect_rollouts(  # pyright: ignore[reportIncompatibleMethodOverride]  # a buffer of sequences
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
        self.reward_scale.begin_episodes(np.asarray(self._last_episode_starts, dtype=bool))
        starts = torch.as_tensor(self._last_episode_starts, dtype=torch.bool, device=self.device)
        dones = np.zeros(env.num_envs, dtype=bool)
        for _ in range(n_rollout_steps):
            with torch.no_grad():
                obs = obs_as_tensor(self._last_obs, self.device)
                actions, values, log_probs, state = self.policy(obs, state, starts)
            new_obs, rewards, dones, infos = env.step(environment_actions(self.policy, actions))
            assert not isinstance(new_obs, tuple)  # SB3 has no policies for these
            # Before a callback may stop training, so that what goes on later goes on from here.
            last_starts, starts = starts, torch.as_tensor(dones, dtype=torch.bool, device=self.device)
            self._last_obs, self._last_episode_starts, self._memory = new_obs, dones, state
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            scaled = torch.as_tensor(self.reward_scale.scaled(rewards, dones), dtype=torch.float32, device=self.device)
            rewards = scaled + self._truncation_values(infos, dones, state)
            rollout_buffer.add(obs, actions, rewards, last_starts, values, log_probs)
        with torch.no_grad():
            last_values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device), state, starts)
        rollout_buffer.compute_returns_and_advantage(last_values, dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

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


def checkpoint_path(path: Any) -> Path:
    """The path with the suffix of checkpoints, if it has none."""
    path = Path(path)
    return path if path.suffix else path.with_suffix(SUFFIX)
