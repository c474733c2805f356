"""The Expire-Span core as a features extractor of SB3: it reads windows of `HistoryWrapper` from an empty memory.

Each window is a segment with gradient, however the algorithm shuffles or replays it.  Its features equal those of the
recurrent core wherever the window reaches back to the start of the episode.

The paper's penalty is a term of the loss, and the losses of SB3's algorithms have no place for it.  So its gradient is
added where the gradient of the features arrives: parameters get the gradient of

    loss + penalty_weight * penalty / steps

with the penalty summed over layers and over all steps of the windows, as MemoryPPO adds it.  What the algorithm does
to its loss (SAC's temperature, PPO's `vf_coef`) doesn't scale the penalty; clipping of gradients concerns both.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecTransposeImage
from torch import Tensor, nn

from ..memory import CoreOutput, ExpireSpan, ExpireSpanConfig, ExpireSpanState
from ..memory.checks import check_not_negative
from .encoders import is_minigrid_image
from .history import ACTION, OBSERVATION, PAST, REWARD, HistorySpace, leaves
from .policy import default_extractor


class ExpireSpanExtractor(BaseFeaturesExtractor):
    """What the core returns for the last step of each window, [N, width].

    Goes into `policy_kwargs` as `features_extractor_class`, the arguments but the first into
    `features_extractor_kwargs`; the policy is "MultiInputPolicy".

    Args:
        observation_space: The space of an environment in `HistoryWrapper`.
        memory: Configuration of the core, or its fields as a dictionary, where `max_span` is the window's length unless
            given: nothing is remembered for longer.
        features_extractor_class: What embeds each observation; by default what MemoryPPO takes for its space.
        features_extractor_kwargs: Arguments of that class beside the space.
        penalty_weight: Weight of the paper's penalty of a step; spans are shortened by nothing else than the task at 0.
        pictures: Whether Boxes of bytes with three dimensions hold pictures, which the extractor gets channel first and
            divided by 255, as SB3 gives them, or codes, which it gets as they are.  By default all are pictures but
            those whose space MiniGrid's codes have.

    Raises ValueError for another observation space, a negative weight, and a weight that can't shorten anything since
    spans begin at more than the window's length.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        memory: ExpireSpanConfig | dict[str, Any] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        penalty_weight: float = 0.0,
        pictures: bool | None = None,
    ) -> None:
        if not isinstance(observation_space, HistorySpace):
            raise ValueError(
                f"Expect `observation_space` to be a HistorySpace, as HistoryWrapper makes, actual: {observation_space}"
            )
        length = observation_space.length
        if not isinstance(memory, ExpireSpanConfig):
            fields: dict[str, Any] = {"max_span": float(length)} | (memory or {})
            memory = ExpireSpanConfig(**fields)
        check_not_negative("penalty_weight", penalty_weight)
        longest = memory.initial_span * memory.max_span
        if penalty_weight and longest >= length - 1:
            raise ValueError(
                f"Expect `initial_span` * `max_span` to be less than {length - 1} where there is a `penalty_weight`, "
                f"since no older memory is in a window of {length} steps, actual: {longest:g}"
            )
        super().__init__(observation_space, memory.width)
        self.penalty_weight = penalty_weight
        self.step_space = observation_space.step_space
        self.parts = {name: _Part.of(space, pictures) for name, space in leaves(self.step_space)}
        seen = self._seen_space(self.step_space)
        encoder = features_extractor_class or default_extractor(seen)
        self.encoder = encoder(seen, **(features_extractor_kwargs or {}))
        self.extra = [name for name in (ACTION, REWARD) if name in observation_space.spaces]
        size = self.encoder.features_dim + sum(observation_space[name].shape[1] for name in self.extra)  # pyright: ignore[reportOptionalSubscript]  # Boxes
        self.embed = nn.Identity() if size == memory.width and not self.extra else nn.Linear(size, memory.width)
        self.core = ExpireSpan(memory)

    def forward(self, observations: dict[str, Tensor]) -> Float[Tensor, "N D"]:
        """Windows of N environments, as SB3's policies preprocess them, to features [N, width]."""
        charge = self.penalty_weight > 0 and torch.is_grad_enabled()
        output, steps = self._read(observations, charge=charge)
        features = output.y[:, -1]
        if not charge:
            return features
        return _Charged.apply(features, self.penalty_weight * output.penalty / steps)

    def read(self, observations: dict[str, Tensor]) -> CoreOutput[ExpireSpanState]:
        """The core's output over the windows, with its trace; to see what is kept.

        T is the longest history among the N windows.  Where one is shorter, the steps before it mean nothing.
        """
        return self._read(observations, trace=True)[0]

    def apply(self, fn: Any) -> "ExpireSpanExtractor":
        """As torch's; but SB3's orthogonal initialisation reaches the encoder only: the core has one of its own."""
        if isinstance(fn, partial) and fn.func is BasePolicy.init_weights:
            self.encoder.apply(fn)
            return self
        return super().apply(fn)

    def _read(
        self, observations: dict[str, Tensor], charge: bool = False, trace: bool = False
    ) -> tuple[CoreOutput[ExpireSpanState], int]:
        """The core's output, and the number of steps in all windows."""
        past = observations[PAST].flatten(1).argmax(1, keepdim=True)  # one-hot by then
        longest = int(past.max()) + 1
        back = torch.arange(longest - 1, -1, -1, device=past.device)
        valid = back <= past
        windows = {name: window for name, window in observations.items() if name != PAST}
        steps = self._embedded({name: window[:, -longest:][valid] for name, window in windows.items()})
        x = steps.new_zeros(*valid.shape, self.core.width)
        x[valid] = steps
        # Places before a history are episodes of one step: nothing sees them, and none of them is ever charged.
        resets = back >= past
        state = self.core.initial_state(len(x))
        return self.core(x, state, resets, charge=charge, trace=trace, keep=False), len(steps)

    def _embedded(self, steps: dict[str, Tensor]) -> Float[Tensor, "steps D"]:
        kind = next(self.core.parameters()).dtype
        seen = self._seen(self.step_space, {name: part.seen(steps[name]).to(kind) for name, part in self.parts.items()})
        return self.embed(torch.cat([self.encoder(seen), *(steps[name].to(kind) for name in self.extra)], 1))

    def _seen_space(self, space: spaces.Space, name: str = OBSERVATION) -> spaces.Space:
        """The space of a step as the encoder sees it."""
        if isinstance(space, spaces.Dict):
            return spaces.Dict([(key, self._seen_space(part, f"{name}/{key}")) for key, part in space.items()])
        return self.parts[name].space

    def _seen(self, space: spaces.Space, steps: dict[str, Tensor], name: str = OBSERVATION) -> Any:
        """The parts of steps as the encoder sees them: in dictionaries where the observations are."""
        if isinstance(space, spaces.Dict):
            return {key: self._seen(part, steps, f"{name}/{key}") for key, part in space.items()}
        return steps[name]


class _Part(NamedTuple):
    """How one part of a step, stored flat, becomes what SB3 would give an extractor."""

    space: spaces.Space
    """As the extractor sees it: pictures channel first, numbers in at least one dimension, choices from 0."""
    picture: bool
    channels_last: bool
    """Whether it is a picture stored with its channels last."""

    @classmethod
    def of(cls, space: spaces.Space, pictures: bool | None) -> "_Part":
        """For the space as the environment has it."""
        if isinstance(space, spaces.Discrete):
            return cls(spaces.Discrete(int(space.n)), False, False)
        if isinstance(space, spaces.MultiDiscrete):
            return cls(spaces.MultiDiscrete(space.nvec.reshape(-1)), False, False)
        if not isinstance(space, spaces.Box):
            return cls(space, False, False)
        if not space.shape:
            return cls(spaces.Box(space.low.reshape(1), space.high.reshape(1), dtype=space.dtype.type), False, False)
        picture = is_image_space(space) and (not is_minigrid_image(space) if pictures is None else pictures)
        if picture and not is_image_space_channels_first(space):
            return cls(VecTransposeImage.transpose_space(space), True, True)
        return cls(space, picture, False)

    def seen(self, flat: Tensor) -> Tensor:
        """M steps, [M, size], as the extractor sees them."""
        shape = self.space.shape or ()
        values = (
            flat.reshape(-1, *shape[1:], shape[0]).movedim(-1, 1) if self.channels_last else flat.reshape(-1, *shape)
        )
        seen = preprocess_obs(values, self.space, normalize_images=self.picture)
        assert isinstance(seen, Tensor)
        return seen


class _Charged(torch.autograd.Function):
    """The features, through which a scalar charge gets the gradient that a term of the loss would have: 1."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, charge: Tensor) -> Tensor:
        ctx.like = charge.detach()
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's takes any number of gradients
        return grad, torch.ones_like(ctx.like)
