"""Proximal Policy Optimization (Schulman et al., 2017) on whole sequences with memory."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from stable_baselines3.common.utils import FloatSchedule

from ... import processes
from ...checks import check_positive, check_whole
from ...memory import PressureConfig
from ..policy import MemoryActorCriticPolicy
from .config import OnPolicyConfig, Scheduled, pick
from .losses import clipped_surrogate, value_loss
from .on_policy import MemoryOnPolicyAlgorithm
from .rollout import SequenceBatch
from .training_log import TrainingLog


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OnPolicyConfig):
    """Settings of the algorithm, the same for every task."""

    n_epochs: int = 4
    """Passes over a rollout."""
    clip_range: float = 0.2
    """How far the probability ratio may move before the objective stops rewarding it."""
    clip_range_vf: float | None = None
    """How far a value may move from the one recorded; None for no limit."""
    target_kl: float | None = 0.03
    """Leave a rollout once the policy has moved this far (times 1.5) from the one that collected it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("n_epochs", self.n_epochs, at_least=1)
        check_positive("clip_range", self.clip_range)
        for name in ("clip_range_vf", "target_kl"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))


class MemoryPPO(MemoryOnPolicyAlgorithm):
    """PPO whose policy remembers: an SB3 algorithm with the usual arguments, callbacks, logger and methods.

    Args:
        policy: `"MemoryPolicy"` (or SB3's `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"`, which mean the same: the
            network follows from the observations, which `"CnnPolicy"` takes for pictures), or a subclass of
            `MemoryActorCriticPolicy`.
        env: A Gymnasium environment or its id, an SB3 VecEnv, or a Gymnasium VectorEnv.
        memory_budget: Mean live memories per layer that training aims at; see `PressureConfig`.
        penalty_weight: The paper's constant weight of the span penalty instead of a budget; see `PressureConfig`.
        budget_pull, late_pull: How far an update moves spans; see `PressureConfig`.
        learning_rate: As all that are not named here, see `PPOConfig`, which also holds the defaults.  It, `clip_range`
            and `clip_range_vf` may be functions of the share of the training that remains, from 1 to 0.
        policy_kwargs: Arguments of the policy; `{"core": "lstm"}` names the core, `{"memory": {...}}` its settings.
        kwargs: SB3's `stats_window_size`, `tensorboard_log`, `verbose`, `seed`, `device`.

    Raises:
        ValueError: Where a setting is out of range, or `batch_size` does not divide the rollout into whole
            environment columns; the message says which sizes do.
    """

    config_class: ClassVar[type[Any]] = PPOConfig
    SCHEDULED: ClassVar[tuple[str, ...]] = ("learning_rate", "clip_range", "clip_range_vf")

    n_epochs: int
    clip_range: Any
    """A number or a function, which SB3 keeps as a function."""
    clip_range_vf: Any
    target_kl: float | None

    def __init__(
        self,
        policy: str | type[MemoryActorCriticPolicy],
        env: Any,
        learning_rate: Scheduled = PPOConfig.learning_rate,
        n_steps: int | None = PPOConfig.n_steps,
        batch_size: int | None = PPOConfig.batch_size,
        n_epochs: int = PPOConfig.n_epochs,
        gamma: float = PPOConfig.gamma,
        gae_lambda: float = PPOConfig.gae_lambda,
        clip_range: Scheduled = PPOConfig.clip_range,
        clip_range_vf: Scheduled | None = PPOConfig.clip_range_vf,
        normalize_advantage: bool = PPOConfig.normalize_advantage,
        ent_coef: float = PPOConfig.ent_coef,
        vf_coef: float = PPOConfig.vf_coef,
        max_grad_norm: float = PPOConfig.max_grad_norm,
        *,
        normalize_reward: bool = PPOConfig.normalize_reward,
        normalize_observations: bool = PPOConfig.normalize_observations,
        advantage_floor: float = PPOConfig.advantage_floor,
        normalize_value_loss: bool = PPOConfig.normalize_value_loss,
        target_kl: float | None = PPOConfig.target_kl,
        anneal: bool = PPOConfig.anneal,
        span_lr_scale: float = PPOConfig.span_lr_scale,
        memory_budget: float | None = PressureConfig.memory_budget,
        penalty_weight: float | None = PressureConfig.penalty_weight,
        budget_pull: float = PressureConfig.budget_pull,
        late_pull: float = PressureConfig.late_pull,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        given = locals()
        settings = {field.name: given[field.name] for field in fields(PPOConfig)}
        super().__init__(policy, env, settings, pick(PressureConfig, given), policy_kwargs, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def train(self) -> None:
        """Some epochs over the rollout just collected, until the policy has moved as far as it may."""
        log = self._begin_update()
        clip_range, clip_range_vf = self._now("clip_range"), self._now("clip_range_vf")
        log.add(clip_range=clip_range, **({} if clip_range_vf is None else {"clip_range_vf": clip_range_vf}))
        for epoch in range(self.n_epochs):
            self._n_updates += 1
            batches = self.rollout_buffer.get(self.batch_size)
            if not all(self._update(batch, log, clip_range, clip_range_vf, first=epoch == 0) for batch in batches):
                break
        self._finish_update(log)

    def _update(
        self, batch: SequenceBatch, log: TrainingLog, clip_range: float, clip_range_vf: float | None, first: bool
    ) -> bool:
        """One gradient step; False, and no step, where the policy has already moved too far."""
        now = self._evaluate(batch, first)
        log_ratio = now.log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        with torch.no_grad():
            approx_kl = processes.mean((ratio - 1 - log_ratio).mean()).item()
            clip_fraction = ((ratio - 1).abs() > clip_range).float().mean().item()
        log.add(approx_kl=approx_kl, clip_fraction=clip_fraction)
        log.add_core(now.core)
        if self.target_kl is not None and approx_kl > 1.5 * self.target_kl:
            return False
        policy_loss = clipped_surrogate(ratio, batch.advantages, clip_range)
        values_loss = value_loss(now.values, batch.old_values, batch.returns, clip_range_vf)
        loss = self._loss(policy_loss, values_loss, now)
        self._step(loss, batch.old_values.numel() / (self.n_epochs * self.n_steps * self.n_envs))
        log.add_losses(policy_loss, values_loss, now.entropy.mean(), loss)
        return True
