"""An SB3 actor-critic policy with memory: features -> memory core -> heads.

The core reads the features of the whole history; how much of it is kept is the core's business.  Acting is a segment of
one step, training a segment of a rollout: the same function.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from ..memory import ExpireSpan, ExpireSpanConfig, ExpireSpanState, LayerTrace, Spared
from .encoders import MiniGridExtractor, TokenLineExtractor, is_minigrid_image, is_token_line


@dataclass(frozen=True, kw_only=True)
class SequenceEvaluation:
    """What the present weights make of recorded sequences; tensors are [T, B]."""

    values: Tensor
    log_prob: Tensor
    entropy: Tensor
    penalty: Tensor
    """Unweighted memory penalty of the paper, summed over the sequences."""
    rent: Tensor
    """The same for the charge on every live memory."""
    spared: Spared | None
    """The memories in use, where the rent spares them."""
    trace: tuple[LayerTrace, ...] | None


class Action(NamedTuple):
    """One step of B environments."""

    actions: Tensor
    values: Tensor
    log_prob: Tensor
    state: ExpireSpanState
    trace: tuple[LayerTrace, ...] | None


def default_extractor(space: spaces.Space) -> type[BaseFeaturesExtractor]:
    """The features extractor for MiniGrid's codes, lines of tokens, pictures, dictionaries, or anything flat."""
    if is_minigrid_image(space):
        return MiniGridExtractor
    if is_token_line(space):
        return TokenLineExtractor
    if isinstance(space, spaces.Dict):
        if codes := [name for name, part in space.items() if is_minigrid_image(part)]:
            raise ValueError(
                f"Expect a dictionary without MiniGrid's codes where no `features_extractor_class` is given, "
                f"actual: {', '.join(codes)}; wrap the environment in minigrid.wrappers.ImgObsWrapper"
            )
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor


class LeanCategorical(CategoricalDistribution):
    """SB3's categorical distribution from few operations: with torch's own it took a sixth of the time of acting."""

    log_probs: Tensor
    """Of all actions, [B, A]."""

    def proba_distribution(self, action_logits: Tensor) -> "LeanCategorical":
        """The distribution with these logits [B, A]."""
        made = LeanCategorical(self.action_dim)
        made.log_probs = action_logits.log_softmax(-1)
        return made

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities [B] of actions [B]."""
        return self.log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """In nats, [B]."""
        finite = self.log_probs.clamp_min(
            torch.finfo(self.log_probs.dtype).min
        )  # actions that are ruled out add nothing
        return -(finite.exp() * finite).sum(-1)

    def sample(self) -> Tensor:
        """Actions [B]: the first to arrive of exponential waits at the rates of the probabilities."""
        return (self.log_probs.exp() / torch.empty_like(self.log_probs).exponential_()).argmax(-1)

    def mode(self) -> Tensor:
        """The likeliest actions [B]."""
        return self.log_probs.argmax(-1)


class MemoryActorCriticPolicy(ActorCriticPolicy):
    """Actor and critic on top of one memory core.

    Arguments beyond those of SB3's ActorCriticPolicy: `memory`, the configuration of the core (or its fields as a
    dictionary).  `net_arch` describes layers between the core and the heads; there are none by default.
    `span_lr_scale` multiplies the learning rate for the weights that predict spans.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        memory: ExpireSpanConfig | dict[str, Any] | None = None,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        span_lr_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if isinstance(memory, dict):
            memory = ExpireSpanConfig(**memory)
        self.memory_config = memory or ExpireSpanConfig()
        self.span_lr_scale = span_lr_scale
        if kwargs.get("use_sde"):
            raise ValueError("Expect `use_sde` to be False: state-dependent exploration is not supported, actual: True")
        # SB3's eps of 1e-5 drowns the gradients of what is seen once in an episode; a shorter memory of squared
        # gradients than Adam's usual one keeps a sudden large gradient after quiet ones from becoming a huge step.
        if kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam:
            kwargs.setdefault("optimizer_kwargs", {"eps": 1e-8, "betas": (0.9, 0.98), "fused": True})
        # SB3 would take MiniGrid's codes for pixels and divide them by 255.
        kwargs.setdefault("normalize_images", not is_minigrid_image(observation_space))
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[] if net_arch is None else net_arch,
            features_extractor_class=features_extractor_class or default_extractor(observation_space),
            **kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        # The optimizer, made by the parent, takes all parameters that exist by then.
        self.core = ExpireSpan(self.memory_config)
        same = self.features_dim == self.core.width
        self.embed = nn.Identity() if same else nn.Linear(self.features_dim, self.core.width)
        super()._build(lr_schedule)
        if isinstance(self.action_dist, CategoricalDistribution):
            self.action_dist = LeanCategorical(self.action_dist.action_dim)
        # Values start near 0: random ones make a landscape of their own, which bootstrapping from truncated episodes
        # keeps alive and the policy climbs, away from where the rewards are.
        nn.init.orthogonal_(self.value_net.weight, 0.01)
        spans = {id(parameter) for layer in self.core.stack() for parameter in layer.span.parameters()}
        groups = [
            {"params": [p for p in self.parameters() if id(p) not in spans], "lr_scale": 1.0},
            {"params": [p for p in self.parameters() if id(p) in spans], "lr_scale": self.span_lr_scale},
        ]
        settings: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(groups, **settings)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = MlpExtractor(self.core.width, self.net_arch, self.activation_fn, self.device)

    def initial_state(self, num_envs: int) -> ExpireSpanState:
        """The memory of environments that have seen nothing."""
        return self.core.initial_state(num_envs)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # a policy with memory takes and returns a state
        self, obs: Any, state: ExpireSpanState, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, ExpireSpanState]:
        """One step of B environments: actions, values [B], log-probabilities [B] and the state after it.

        `episode_starts`, bool [B], says which rows have just been reset.
        """
        return self.act(obs, state, episode_starts, deterministic)[:4]

    def act(
        self,
        obs: Any,
        state: ExpireSpanState,
        episode_starts: Tensor,
        deterministic: bool = False,
        trace: bool = False,
        attention: bool = False,
    ) -> Action:
        """One step of B environments, on request with what the layers keep at it and attend to."""
        features = self.features(obs).unsqueeze(1)
        starts = episode_starts.unsqueeze(1)
        output = self.core(features, state, starts, charge=False, trace=trace, attention=attention)
        distribution, values = self._heads(output.y.squeeze(1))
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        shaped = actions.reshape(-1, *(self.action_space.shape or ()))
        return Action(shaped, values, log_prob, output.state, output.trace)

    def features(self, obs: Any) -> Tensor:
        """What the core reads of N observations, [N, D]."""
        return self.embed(self.extract_features(obs))

    def assess(self, latent: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Values and log-probabilities of actions, both [N], from what the core returned, [N, D]."""
        distribution, values = self._heads(latent)
        return values, distribution.log_prob(self._as_drawn(actions))

    def action_logits(self, obs: Any, state: ExpireSpanState, episode_starts: Tensor) -> tuple[Tensor, ExpireSpanState]:
        """Log-probabilities [B, A] of all actions, and the state after the step; for discrete actions."""
        features = self.features(obs).unsqueeze(1)
        output = self.core(features, state, episode_starts.unsqueeze(1), charge=False)
        distribution = self._heads(output.y.squeeze(1))[0]
        assert isinstance(distribution, LeanCategorical)
        return distribution.log_probs, output.state

    def predict_values(  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        self, obs: Any, state: ExpireSpanState, episode_starts: Tensor
    ) -> Tensor:
        """Values [B] of one step; the state stays as it is."""
        return self.act(obs, state, episode_starts).values

    def evaluate_sequences(
        self,
        obs: Any,
        actions: Tensor,
        state: ExpireSpanState,
        episode_starts: Tensor,
        *,
        charge: bool = True,
        trace: bool = False,
        spare_used: bool = False,
    ) -> SequenceEvaluation:
        """Recorded sequences under the present weights.

        Observations and actions are [T, B, ...], `episode_starts` is bool [T, B], `state` stood before the first step.
        `charge`, `trace` and `spare_used` are those of `MemoryCore.forward`.
        """
        steps, rows = episode_starts.shape
        # Sequence by sequence, as the core reads them: observations are smaller than what would have to be moved later.
        obs, actions = (_by_sequence(part) for part in (obs, actions))
        features = self.features(obs).unflatten(0, (rows, steps))
        output = self.core(
            features,
            self.core.refresh(state),
            episode_starts.T,
            charge=charge,
            trace=trace,
            spare_used=spare_used,
            keep=False,
        )
        distribution, values = self._heads(output.y.flatten(0, 1))
        log_prob = distribution.log_prob(self._as_drawn(actions))
        entropy = distribution.entropy()
        if entropy is None:  # no closed form for this distribution
            entropy = -log_prob
        values, log_prob, entropy = (part.unflatten(0, (rows, steps)).T for part in (values, log_prob, entropy))
        return SequenceEvaluation(
            values=values,
            log_prob=log_prob,
            entropy=entropy,
            penalty=output.penalty,
            rent=output.rent,
            spared=output.spared,
            trace=output.trace,
        )

    def get_distribution(self, obs: Any) -> Distribution:
        """Not there: an action depends on the memory.  `action_logits` takes one, and so does calling the policy."""
        raise NotImplementedError("Expect a memory: use `action_logits(obs, state, episode_starts)`, or `act`")

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Not there: the value of an action depends on the memory.  `evaluate_sequences` takes whole sequences."""
        raise NotImplementedError("Expect a memory: use `evaluate_sequences(obs, actions, state, episode_starts)`")

    def _get_constructor_parameters(self) -> dict[str, Any]:
        ours = {"memory": asdict(self.memory_config), "span_lr_scale": self.span_lr_scale}
        return super()._get_constructor_parameters() | ours

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  # the state is a memory, not a tuple of arrays
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: ExpireSpanState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, ExpireSpanState]:
        """Actions for one observation or a batch of them, and the memory to hand in with the next.

        Without a state the memory is empty; where `episode_start` is true, it is emptied first.
        """
        self.set_training_mode(False)
        tensor, vectorized = self.obs_to_tensor(observation)
        rows = len(next(iter(tensor.values())) if isinstance(tensor, dict) else tensor)
        if state is None:
            state = self.initial_state(rows)
        starts = np.zeros(rows, dtype=bool) if episode_start is None else np.reshape(episode_start, -1).astype(bool)
        if len(starts) != rows or len(state.time) != rows:
            raise ValueError(
                f"Expect `state` and `episode_start` to have a row for each of {rows} observations, "
                f"actual: {len(state.time)} and {len(starts)}"
            )
        with torch.no_grad():
            actions, _, _, after = self(tensor, state, torch.as_tensor(starts, device=self.device), deterministic)
        actions = environment_actions(self, actions)
        return actions if vectorized else actions.squeeze(0), after

    def _as_drawn(self, actions: Tensor) -> Tensor:
        """Stored actions in the shape and number type in which the distribution draws them."""
        if isinstance(self.action_space, spaces.Box):
            return actions.flatten(1)
        return actions.float() if isinstance(self.action_space, spaces.MultiBinary) else actions

    def _heads(self, latent: Tensor) -> tuple[Distribution, Tensor]:
        actor, critic = self.mlp_extractor(latent)
        return self._get_action_dist_from_latent(actor), self.value_net(critic).squeeze(-1)


def _by_sequence(recorded: Any) -> Any:
    """A tensor [T, B, ...], or each of a dictionary, as [B * T, ...]."""
    if isinstance(recorded, dict):
        return {name: _by_sequence(part) for name, part in recorded.items()}
    return recorded.transpose(0, 1).flatten(0, 1)


def environment_actions(policy: ActorCriticPolicy, actions: Tensor) -> np.ndarray:
    """Actions as the environment takes them: continuous ones within their bounds."""
    array = actions.cpu().numpy()
    space = policy.action_space
    return np.clip(array, space.low, space.high) if isinstance(space, spaces.Box) else array
