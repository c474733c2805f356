"""Advantage actor-critic (Mnih et al., 2016), the paper's algorithm, on whole sequences with memory."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ...memory import PressureConfig
from ..policy import MemoryActorCriticPolicy
from .config import OnPolicyConfig, Scheduled, pick
from .losses import policy_gradient, value_loss
from .on_policy import MemoryOnPolicyAlgorithm
from .rollout import SequenceBatch
from .training_log import TrainingLog


@dataclass(frozen=True, kw_only=True)
class A2CConfig(OnPolicyConfig):
    """Settings of the algorithm, the same for every task."""

    gae_lambda: float = 0.8
    """Weight of longer returns in the advantage estimate."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus.  Nothing holds A2C's steps back as PPO's clipping does: with 0.005 a run was sure
    of itself too early, and lost at 70 % what it had learned to 90 %."""
    normalize_value_loss: bool = False
    """Divide the value loss by the standard deviation of the rollout's returns."""


class MemoryA2C(MemoryOnPolicyAlgorithm):
    """A2C whose policy remembers: an SB3 algorithm with the usual arguments, callbacks, logger and methods.

    One pass over each rollout, a gradient step for each minibatch of whole environment columns.

    Args:
        policy: `"MemoryPolicy"` (or SB3's `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"`, which mean the same: the
            network follows from the observations, which `"CnnPolicy"` takes for pictures), or a subclass of
            `MemoryActorCriticPolicy`.
        env: A Gymnasium environment or its id, an SB3 VecEnv, or a Gymnasium VectorEnv.
        memory_budget: Mean live memories per layer that training aims at; see `PressureConfig`.
        penalty_weight: The paper's constant weight of the span penalty instead of a budget; see `PressureConfig`.
        budget_pull, late_pull: How far an update moves spans; see `PressureConfig`.
        learning_rate: As all that are not named here, see `A2CConfig`, which also holds the defaults.  It may
            be a function of the share of the training that remains, from 1 to 0.
        policy_kwargs: Arguments of the policy; `{"core": "lstm"}` names the core, `{"memory": {...}}` its settings.
        kwargs: SB3's `stats_window_size`, `tensorboard_log`, `verbose`, `seed`, `device`.

    Raises:
        ValueError: Where a setting is out of range, or `batch_size` does not divide the rollout into whole
            environment columns; the message says which sizes do.
    """

    config_class: ClassVar[type[Any]] = A2CConfig

    def __init__(
        self,
        policy: str | type[MemoryActorCriticPolicy],
        env: Any,
        learning_rate: Scheduled = A2CConfig.learning_rate,
        n_steps: int | None = A2CConfig.n_steps,
        gamma: float = A2CConfig.gamma,
        gae_lambda: float = A2CConfig.gae_lambda,
        ent_coef: float = A2CConfig.ent_coef,
        vf_coef: float = A2CConfig.vf_coef,
        max_grad_norm: float = A2CConfig.max_grad_norm,
        *,
        batch_size: int | None = A2CConfig.batch_size,
        normalize_advantage: bool = A2CConfig.normalize_advantage,
        normalize_reward: bool = A2CConfig.normalize_reward,
        normalize_observations: bool = A2CConfig.normalize_observations,
        advantage_floor: float = A2CConfig.advantage_floor,
        normalize_value_loss: bool = A2CConfig.normalize_value_loss,
        anneal: bool = A2CConfig.anneal,
        span_lr_scale: float = A2CConfig.span_lr_scale,
        memory_budget: float | None = PressureConfig.memory_budget,
        penalty_weight: float | None = PressureConfig.penalty_weight,
        budget_pull: float = PressureConfig.budget_pull,
        late_pull: float = PressureConfig.late_pull,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        given = locals()
        settings = {field.name: given[field.name] for field in fields(A2CConfig)}
        super().__init__(policy, env, settings, pick(PressureConfig, given), policy_kwargs, **kwargs)

    def train(self) -> None:
        """One pass over the rollout just collected."""
        log = self._begin_update()
        for batch in self.rollout_buffer.get(self.batch_size):
            self._update(batch, log)
        self._n_updates += 1
        self._finish_update(log)

    def _update(self, batch: SequenceBatch, log: TrainingLog) -> None:
        """One gradient step."""
        now = self._evaluate(batch, first=True)
        policy_loss = policy_gradient(now.log_prob, batch.advantages)
        values_loss = value_loss(now.values, batch.old_values, batch.returns, clip_range=None)
        loss = self._loss(policy_loss, values_loss, now)
        self._step(loss, batch.old_values.numel() / (self.n_steps * self.n_envs))
        log.add_core(now.core)
        log.add_losses(policy_loss, values_loss, now.entropy.mean(), loss)
        log.add(policy_loss=policy_loss.item())  # the name that SB3's A2C gives it
