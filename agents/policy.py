"""An SB3 actor-critic policy with memory: features -> memory core -> heads.

The core reads the features of the whole history; how much of it is kept is the core's business.  Acting is a segment of
one step, training a segment of a rollout: the same function.
"""

from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from ..checks import check_choice
from ..memory import CoreConfig, CoreOutput, MemoryCore, Record, Trace, core_config
from ..memory.core import episode_time, segment_starts
from .actions import LeanCategorical, environment_actions, masked_logits, read_masks
from .arguments import check_extractor_arguments, check_policy_arguments
from .encoders import MiniGridExtractor, TokenLineExtractor, default_extractor, measuring
from .numbers_extractor import NumbersExtractor
from .observations import Kinds, check_finite, check_kinds, kinds_of_space, prepare
from .time_value import TimeValue


@dataclass(frozen=True, kw_only=True)
class SequenceEvaluation:
    """What the present weights make of recorded sequences; tensors are [T, B]."""

    values: Tensor
    log_prob: Tensor
    entropy: Tensor
    core: CoreOutput[Any]
    """What the core returned: its losses, facts and trace, as far as they were asked for."""


class Action(NamedTuple):
    """One step of B environments."""

    actions: Tensor
    values: Tensor
    log_prob: Tensor
    state: Any
    trace: Trace | None


KIND_OF_EXTRACTOR: dict[type, Kinds] = {MiniGridExtractor: "minigrid", TokenLineExtractor: "tokens"}
"""What a features extractor that is asked for by its class says about the observations."""


class MemoryActorCriticPolicy(ActorCriticPolicy):
    """Actor and critic on top of one memory core.

    Arguments beyond those of SB3's ActorCriticPolicy:

    - `core`: the memory core by its name ("expire-span" by default; `memory.CORES` has all), or its configuration.
    - `memory`: settings of the core as a dictionary, or its configuration in place of `core`.
    - `observations`: what the observations are, "numbers", "picture", "minigrid" (its codes) or "tokens", or a
      dictionary of these for a Dict space.  MemoryPPO and MemoryA2C ask the environment; without one, None goes by the
      space alone, which can't tell MiniGrid's codes and tokens from other numbers.
    - `span_lr_scale`: multiplies the learning rate for the weights that predict spans.
    - `time_aware_critic`: whether the critic, and it alone, is told the steps since the episode began (time_value.py);
      without effect where the core's state doesn't know them, as a core of the user's may not.

    `net_arch` describes layers between the core and the heads; there are none by default.  Without
    `features_extractor_class` the network follows from `observations`.  With `share_features_extractor=False` the
    memory reads the actor's features, and the critic adds features of its own of the present observation to what the
    memory returned.

    Raises ValueError for settings that are out of range, `observations` that can't be those of the space, and those of
    SB3's and RecurrentPPO's arguments that can't be had (arguments.py), TypeError for arguments that neither has.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        core: str | CoreConfig | None = None,
        memory: CoreConfig | dict[str, Any] | None = None,
        observations: str | dict[str, Any] | None = None,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        span_lr_scale: float = 1.0,
        time_aware_critic: bool = True,
        **kwargs: Any,
    ) -> None:
        self.core_config = core_config(core, memory)
        self.span_lr_scale = span_lr_scale
        check_choice("time_aware_critic", time_aware_critic, (True, False))
        self.time_aware_critic = time_aware_critic
        check_policy_arguments(type(self), kwargs)
        # SB3's eps of 1e-5 drowns the gradients of what is seen once in an episode; a shorter memory of squared
        # gradients than Adam's usual one keeps a sudden large gradient after quiet ones from becoming a huge step.
        if kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam:
            kwargs.setdefault("optimizer_kwargs", {"eps": 1e-8, "betas": (0.9, 0.98), "fused": True})
        if observations is None and features_extractor_class is not None:
            observations = KIND_OF_EXTRACTOR.get(features_extractor_class)
        self.observations: Kinds = check_kinds(observations or kinds_of_space(observation_space), observation_space)
        if features_extractor_class is None:
            features_extractor_class, settings = default_extractor(observation_space, self.observations)
            given = kwargs.get("features_extractor_kwargs") or {}
            check_extractor_arguments(features_extractor_class, given, settings)
            kwargs["features_extractor_kwargs"] = settings | given
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[] if net_arch is None else net_arch,
            features_extractor_class=features_extractor_class,
            **kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        # The optimizer, made by the parent, takes all parameters that exist by then.
        self.core: MemoryCore[Any] = self.core_config.build()
        same = self.features_dim == self.core.width
        self.embed = nn.Identity() if same else nn.Linear(self.features_dim, self.core.width)
        if not self.share_features_extractor:
            self.embed_critic = nn.Linear(self.features_dim, self.core.width)
        knows_time = hasattr(self.core.initial_state(1), "time")
        self.time_value = TimeValue() if self.time_aware_critic and knows_time else None
        super()._build(lr_schedule)
        if isinstance(self.action_dist, CategoricalDistribution):
            self.action_dist = LeanCategorical(self.action_dist.action_dim)
        # Values start near 0: random ones make a landscape of their own, which bootstrapping from truncated episodes
        # keeps alive and the policy climbs, away from where the rewards are.
        nn.init.orthogonal_(self.value_net.weight, 0.01)
        special = self.core.parameter_groups()
        apart = {id(parameter) for _, parameters in special for parameter in parameters}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters() if id(p) not in apart], "lr_scale": 1.0},
            *(
                {"params": parameters, "lr_scale": getattr(self, scale) if isinstance(scale, str) else scale}
                for scale, parameters in special
            ),
        ]
        settings: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(groups, **settings)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = MlpExtractor(self.core.width, self.net_arch, self.activation_fn, self.device)

    @property
    def device(self) -> torch.device:
        """Where the policy lives; SB3 goes through all modules to find out, which acting would do twice a step."""
        head = self._modules.get("action_net")  # not there yet while the policy is being built
        return head.weight.device if isinstance(head, nn.Linear) else super().device

    def initial_state(self, num_envs: int) -> Any:
        """The memory of environments that have seen nothing."""
        return self.core.initial_state(num_envs)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # a policy with memory takes and returns a state
        self,
        obs: Any,
        state: Any,
        episode_starts: Tensor,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """One step of B environments: actions, values [B], log-probabilities [B] and the state after it.

        `episode_starts`, bool [B], says which rows have just been reset.  `action_masks`, bool [B, M], is true for
        actions that may be taken (`actions.mask_width`).  Actions are as drawn: `environment_actions` makes of them
        what an environment takes.
        """
        return self.act(obs, state, episode_starts, deterministic, action_masks=action_masks)[:4]

    def act(
        self,
        obs: Any,
        state: Any,
        episode_starts: Tensor,
        deterministic: bool = False,
        trace: bool = False,
        attention: bool = False,
        action_masks: Tensor | None = None,
    ) -> Action:
        """`forward`, on request with what the layers keep at the step and attend to."""
        features, critic = self._features(obs)
        starts = episode_starts.unsqueeze(1)
        record = Record.STATE
        if trace or attention:
            record |= Record.ATTENTION if attention else Record.TRACE
        output = self.core(features.unsqueeze(1), state, starts, record=record)
        time = self.time_of(state, episode_starts)
        distribution, values = self._heads(output.y.squeeze(1), critic, action_masks, time)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        shaped = actions.reshape(-1, *(self.action_space.shape or ()))
        return Action(shaped, values, log_prob, output.state, output.trace)

    def extract_features(  # pyright: ignore[reportIncompatibleMethodOverride]  # always of one extractor
        self, obs: Any, features_extractor: BaseFeaturesExtractor | None = None
    ) -> Tensor:
        """Features [N, features_dim] of N observations; without an extractor, of the actor's."""
        prepared = prepare(obs, self.observation_space, self.observations, self.normalize_images)
        return (features_extractor or self.pi_features_extractor)(prepared)

    def measuring(self) -> list[tuple[str | None, NumbersExtractor]]:
        """What of the features extractors keeps running statistics (`encoders.measuring`)."""
        extractors = (self.pi_features_extractor, self.vf_features_extractor)
        return [found for one in extractors[: 1 if self.share_features_extractor else 2] for found in measuring(one)]

    def observe(self, obs: Any) -> None:
        """Take N observations into the running statistics, where there are any."""
        for name, extractor in self.measuring():
            part, space = (obs, self.observation_space) if name is None else (obs[name], self.observation_space[name])  # pyright: ignore[reportIndexIssue]  # a Dict
            extractor.observe(prepare(part, space, "numbers"))

    def features(self, obs: Any) -> Tensor:
        """What the core reads of N observations, [N, D]."""
        return self.embed(self.extract_features(obs))

    def _features(self, obs: Any) -> tuple[Tensor, Tensor | None]:
        """What the core reads, and what the critic sees beside it where it has an extractor of its own; [N, D] each."""
        if self.share_features_extractor:
            return self.features(obs), None
        return self.features(obs), self.embed_critic(self.extract_features(obs, self.vf_features_extractor))

    def time_of(self, state: Any, episode_starts: Tensor) -> Tensor | None:
        """Steps since the episode began, int64 [B], for a critic that goes by them; None for another."""
        return None if self.time_value is None else state.time.masked_fill(episode_starts, 0)

    def assess(self, latent: Tensor, actions: Tensor, action_masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values and log-probabilities of drawn actions, both [N], from what the core returned, [N, D].

        Of values the part that the memory gives, without the time and the features of a critic's own extractor.
        """
        distribution, values = self._heads(latent, action_masks=action_masks)
        return values, distribution.log_prob(self._as_drawn(actions))

    def action_logits(
        self, obs: Any, state: Any, episode_starts: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Log-probabilities [B, A] of all actions, and the state after the step; for discrete actions."""
        distribution, after = self._next_actions(obs, state, episode_starts, action_masks)
        assert isinstance(distribution, LeanCategorical)
        return distribution.log_probs, after

    def _next_actions(
        self, obs: Any, state: Any, episode_starts: Tensor, action_masks: Tensor | None
    ) -> tuple[Distribution, Any]:
        """The distribution of B environments' actions, and the state after the step; without values."""
        features = self.features(obs).unsqueeze(1)
        output = self.core(features, state, episode_starts.unsqueeze(1))
        actor = self.mlp_extractor.forward_actor(output.y.squeeze(1))
        return self._get_action_dist_from_latent(actor, action_masks), output.state

    def predict_values(  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        self, obs: Any, state: Any, episode_starts: Tensor
    ) -> Tensor:
        """Values [B] of one step; the state stays as it is.

        In the units of `rollout_buffer.returns`: rewards divided by `reward_scale.scale`, unless the algorithm was
        made with `normalize_reward=False`.
        """
        return self.act(obs, state, episode_starts).values

    def evaluate_sequences(
        self,
        obs: Any,
        actions: Tensor,
        state: Any,
        episode_starts: Tensor,
        *,
        action_masks: Tensor | None = None,
        record: Record = Record.NOTHING,
    ) -> SequenceEvaluation:
        """Recorded sequences under the present weights.

        Observations and actions (as drawn) are [T, B, ...], `episode_starts` is bool [T, B], `action_masks` bool
        [T, B, M], `state` stood before the first step.  `record` says what the core is to return beside its output.
        """
        steps, rows = episode_starts.shape
        # Sequence by sequence, as the core reads them: observations are smaller than what would have to be moved later.
        obs, actions, action_masks = (_by_sequence(part) for part in (obs, actions, action_masks))
        features, critic = self._features(obs)
        output = self.core(
            features.unflatten(0, (rows, steps)),
            self.core.refresh(state),
            episode_starts.T,
            record=record,
        )
        time = None
        if self.time_value is not None:
            time = episode_time(state.time, segment_starts(episode_starts.T)).flatten()
        distribution, values = self._heads(output.y.flatten(0, 1), critic, action_masks, time)
        log_prob = distribution.log_prob(self._as_drawn(actions))
        entropy = distribution.entropy()
        if entropy is None:  # no closed form for this distribution
            entropy = -log_prob
        values, log_prob, entropy = (part.unflatten(0, (rows, steps)).T for part in (values, log_prob, entropy))
        return SequenceEvaluation(values=values, log_prob=log_prob, entropy=entropy, core=output)

    def get_distribution(self, obs: Any) -> Distribution:
        """Not there: an action depends on the memory.  `action_logits` takes one, and so does calling the policy."""
        raise NotImplementedError("Expect a memory: use `action_logits(obs, state, episode_starts)`, or `act`")

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Not there: the value of an action depends on the memory.  `evaluate_sequences` takes whole sequences."""
        raise NotImplementedError("Expect a memory: use `evaluate_sequences(obs, actions, state, episode_starts)`")

    def _get_constructor_parameters(self) -> dict[str, Any]:
        ours = {
            "core": self.core_config.name,
            "memory": asdict(self.core_config),  # pyright: ignore[reportArgumentType]  # a dataclass
            "observations": self.observations,
            "span_lr_scale": self.span_lr_scale,
            "time_aware_critic": self.time_aware_critic,
            "share_features_extractor": self.share_features_extractor,
        }
        return super()._get_constructor_parameters() | ours

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  # the state is a memory, not a tuple of arrays
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, Any]:
        """Actions for one observation or a batch of them, and the memory to hand in with the next.

        Without a state the memory is empty; where `episode_start` is true, it is emptied first.  `action_masks` are
        those of sb3-contrib's MaskablePPO: true for actions that may be taken.

        Raises ValueError where the observation is no dictionary though the space is one (or the other way round), NaN
        or infinite, the rows of the arguments differ, a mask leaves no action, or `episode_start` says that an episode
        goes on whose state is None.
        """
        if isinstance(observation, tuple):
            raise ValueError(
                "Expect `observation` to be an array or a dictionary, actual: a tuple; Gymnasium's reset returns "
                "`obs, info`, SB3's VecEnv the observation alone"
            )
        parts = self.observation_space.spaces if isinstance(self.observation_space, spaces.Dict) else None
        if (parts is not None) != isinstance(observation, dict):
            wanted = "an array" if parts is None else f"a dictionary of {', '.join(parts)}"
            raise ValueError(f"Expect `observation` to be {wanted}, actual: {type(observation).__name__}")
        check_finite(observation)
        if self.training:  # walking through all modules at every step would take a fifth of the time
            self.set_training_mode(False)
        tensor, vectorized = self.obs_to_tensor(observation)
        rows = len(next(iter(tensor.values())) if isinstance(tensor, dict) else tensor)
        if state is None and episode_start is not None and not np.all(episode_start):
            raise ValueError(
                "Expect `state` where `episode_start` says that an episode goes on, actual: None; sb3-contrib's "
                "evaluate_policy for masks hands none on: use expirespan.agents.MaskedEvalCallback, or WithMasks"
            )
        if state is None:
            state = self.initial_state(rows)
        starts = np.zeros(rows, dtype=bool) if episode_start is None else np.reshape(episode_start, -1).astype(bool)
        if len(starts) != rows or len(state) != rows:
            raise ValueError(
                f"Expect `state` and `episode_start` to have a row for each of {rows} observations, "
                f"actual: {len(state)} and {len(starts)}"
            )
        masks = None
        if action_masks is not None:
            masks = torch.as_tensor(read_masks(self.action_space, action_masks, rows), device=self.device)
        with torch.no_grad():
            begun = torch.as_tensor(starts, device=self.device)
            distribution, after = self._next_actions(tensor, state, begun, masks)
            drawn = distribution.get_actions(deterministic=deterministic)
        actions = environment_actions(self, drawn.reshape(-1, *(self.action_space.shape or ())))
        return actions if vectorized else actions.squeeze(0), after

    def _as_drawn(self, actions: Tensor) -> Tensor:
        """Stored actions in the shape and number type in which the distribution draws them."""
        if isinstance(self.action_space, spaces.Box):
            return actions.reshape(len(actions), -1)
        return actions.float() if isinstance(self.action_space, spaces.MultiBinary) else actions.long()

    def _heads(
        self,
        latent: Tensor,
        critic: Tensor | None = None,
        action_masks: Tensor | None = None,
        time: Tensor | None = None,
    ) -> tuple[Distribution, Tensor]:
        """The distribution over actions, and values [N]; `latent` is what the core returned, [N, D]."""
        actor, valued = self.mlp_extractor(latent)
        if critic is not None:
            valued = self.mlp_extractor.forward_critic(latent + critic)
        values = self.value_net(valued).squeeze(-1)
        if self.time_value is not None and time is not None:
            values = values + self.time_value(time)
        return self._get_action_dist_from_latent(actor, action_masks), values

    def _get_action_dist_from_latent(self, latent_pi: Tensor, action_masks: Tensor | None = None) -> Distribution:
        # A copy, so that the policy holds no tensors of a graph: it could not be copied or pickled with them.
        distribution: Any = copy(self.action_dist)
        outputs = self.action_net(latent_pi)
        if isinstance(distribution, DiagGaussianDistribution):
            return distribution.proba_distribution(outputs, self.log_std)
        logits = masked_logits(outputs, action_masks, self.action_space)
        return distribution.proba_distribution(action_logits=logits)


def _by_sequence(recorded: Any) -> Any:
    """A tensor [T, B, ...], or each of a dictionary, as [B * T, ...]; None stays None."""
    if recorded is None:
        return None
    if isinstance(recorded, dict):
        return {name: _by_sequence(part) for name, part in recorded.items()}
    return recorded.transpose(0, 1).flatten(0, 1)
