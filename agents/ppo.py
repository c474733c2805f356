"""Proximal Policy Optimization (Schulman et al., 2017) on whole sequences with memory."""

from typing import Any

import torch
from stable_baselines3.common.utils import explained_variance

from .losses import clipped_surrogate, normalized_advantages, value_loss
from .on_policy import MemoryOnPolicyAlgorithm
from .policy import MemoryActorCriticPolicy


class MemoryPPO(MemoryOnPolicyAlgorithm):
    """PPO whose policy remembers."""

    def __init__(
        self,
        policy: str | type[MemoryActorCriticPolicy],
        env: Any,
        learning_rate: float = 1e-3,
        n_steps: int = 128,
        batch_size: int = 1024,
        n_epochs: int = 4,
        gamma: float = 0.995,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        clip_range_vf: float | None = None,
        normalize_advantage: bool = True,
        advantage_floor: float = 0.1,
        ent_coef: float = 0.02,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        target_kl: float | None = 0.03,
        pressure=None,
        span_lr_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy, env, learning_rate=learning_rate, n_steps=n_steps, gamma=gamma, gae_lambda=gae_lambda,
            ent_coef=ent_coef, vf_coef=vf_coef, max_grad_norm=max_grad_norm, **kwargs,
        )
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.advantage_floor = advantage_floor
        self.target_kl = target_kl
        self.pressure = pressure
        self.span_lr_scale = span_lr_scale
        spans = [p for n, p in self.policy.named_parameters() if ".span." in n]
        ids = {id(p) for p in spans}
        rest = [p for p in self.policy.parameters() if id(p) not in ids]
        self.policy.optimizer = torch.optim.Adam([{"params": rest}, {"params": spans}], lr=learning_rate, eps=float(__import__("os").environ.get("EPS","1e-5")), fused=True)

    def train(self) -> None:
        """Some epochs over the rollout just collected."""
        self.policy.set_training_mode(True)
        lr = self.lr_schedule(self._current_progress_remaining)
        groups = self.policy.optimizer.param_groups
        groups[0]["lr"], groups[1]["lr"] = lr, lr * self.span_lr_scale
        buffer = self.rollout_buffer
        if self.normalize_advantage:
            buffer.advantages = normalized_advantages(buffer.advantages, self.advantage_floor)
        weight = self.pressure.weight if self.pressure else 0.0
        stats: dict[str, list] = {k: [] for k in ["policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "penalty", "live", "maxspan", "grad_norm"]}
        stop = False
        for epoch in range(self.n_epochs):
            for batch in buffer.get(self.batch_size):
                ev = self.policy.evaluate_sequences(batch.observations, batch.actions, batch.state, batch.episode_starts, trace=epoch == 0)
                log_ratio = ev.log_prob - batch.old_log_prob
                ratio = log_ratio.exp()
                with torch.no_grad():
                    kl = ((ratio - 1) - log_ratio).mean().item()
                stats["approx_kl"].append(kl)
                if self.target_kl is not None and kl > 1.5 * self.target_kl:
                    stop = True
                    break
                pl = clipped_surrogate(ratio, batch.advantages, self.clip_range)
                vl = value_loss(ev.values, batch.old_values, batch.returns, self.clip_range_vf)
                entropy = ev.entropy.mean()
                penalty = ev.penalty / batch.old_values.numel()
                loss = pl + self.vf_coef * vl - self.ent_coef * entropy + weight * penalty
                self.policy.optimizer.zero_grad()
                loss.backward()
                gn = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                stats["policy_loss"].append(pl.item()); stats["value_loss"].append(vl.item()); stats["entropy"].append(entropy.item())
                stats["penalty"].append(penalty.item()); stats["grad_norm"].append(gn.item())
                stats["clip_fraction"].append(((ratio - 1).abs() > self.clip_range).float().mean().item())
                if ev.trace is not None:
                    stats["live"].append([t.live.float().mean().item() for t in ev.trace])
                    stats["maxspan"].append([t.span.max().item() for t in ev.trace])
            if stop:
                break
        import numpy as np
        live = np.mean(stats["live"], 0); maxspan = np.max(stats["maxspan"], 0)
        self.last = {k: float(np.mean(v)) for k, v in stats.items() if k not in ("live", "maxspan")} | {"live": live, "maxspan": maxspan, "updates": len(stats["policy_loss"])}
        self.last["ev"] = explained_variance(buffer.values.numpy().ravel(), buffer.returns.numpy().ravel())
        if self.pressure:
            self.pressure.update(live, self)
