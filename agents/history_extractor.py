"""The Expire-Span core as a features extractor of SB3: it reads windows of `HistoryWrapper` from an empty memory.

Each window is a segment with gradient, however the algorithm shuffles or replays it.  Its features equal those of the
recurrent core wherever the window reaches back to the start of the episode.

The paper's penalty is a term of the loss, and the losses of SB3's algorithms have no place for it.  So its gradient is
added where the gradient of the features arrives: parameters get the gradient of

    loss + penalty_weight * penalty / steps

with the penalty summed over layers and over all steps of the windows, as MemoryPPO adds it.  What the algorithm does
to its loss (SAC's temperature, PPO's `vf_coef`) doesn't scale the penalty; clipping of gradients concerns both.
"""

from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from ..checks import check_not_negative
from ..memory import CoreOutput, ExpireSpan, ExpireSpanConfig, ExpireSpanState, Record
from .arguments import check_known
from .encoders import default_extractor
from .history import ACTION, OBSERVATION, PAST, REWARD, HistorySpace, named_parts
from .observations import Kinds, prepare
from .vec_env import seen_by_policies


class ExpireSpanExtractor(BaseFeaturesExtractor):
    """What the core returns for the last step of each window, [N, width].

    Goes into `policy_kwargs` as `features_extractor_class`, the arguments but the first into
    `features_extractor_kwargs`; the policy is "MultiInputPolicy".

    Args:
        observation_space: The space of an environment in `HistoryWrapper`.
        memory: Configuration of the core, or its fields as a dictionary, where `max_span` is the window's length unless
            given: nothing is remembered for longer.
        features_extractor_class: What embeds each observation; by default what MemoryPPO takes for its space, but
            without running statistics: numbers are read as they are.
        features_extractor_kwargs: Arguments of that class beside the space.
        penalty_weight: Weight of the paper's penalty of a step; spans are shortened by nothing else than the task at 0.

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
    ) -> None:
        if not isinstance(observation_space, HistorySpace):
            raise ValueError(
                f"Expect `observation_space` to be a HistorySpace, as HistoryWrapper makes, actual: {observation_space}"
            )
        length = observation_space.length
        if not isinstance(memory, ExpireSpanConfig):
            given: dict[str, Any] = {"max_span": float(length)} | (memory or {})
            check_known("`memory`", given, [field.name for field in fields(ExpireSpanConfig)])
            memory = ExpireSpanConfig(**given)
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
        self.kinds: Kinds = observation_space.kinds
        self.seen_space = seen_by_policies(self.step_space, self.kinds)
        encoder, settings = features_extractor_class, features_extractor_kwargs or {}
        if encoder is None:
            encoder, defaults = default_extractor(self.seen_space, self.kinds)
            settings = defaults | settings
        self.encoder = encoder(self.seen_space, **settings)
        self.extra = [name for name in (ACTION, REWARD) if name in observation_space.spaces]
        size = self.encoder.features_dim + sum(observation_space[name].shape[1] for name in self.extra)  # pyright: ignore[reportOptionalSubscript]  # Boxes
        self.embed = nn.Identity() if size == memory.width and not self.extra else nn.Linear(size, memory.width)
        self.core = ExpireSpan(memory)

    def forward(self, observations: dict[str, Tensor]) -> Float[Tensor, "N D"]:
        """Windows of N environments, as SB3's policies preprocess them, to features [N, width]."""
        charged = self.penalty_weight > 0 and torch.is_grad_enabled()
        output, steps = self._read(observations, Record.LOSSES if charged else Record.NOTHING)
        features = output.y[:, -1]
        if not charged:
            return features
        return _Charged.apply(features, self.penalty_weight * output.losses["penalty"] / steps)

    def read(self, observations: dict[str, Tensor]) -> CoreOutput[ExpireSpanState]:
        """The core's output over the windows, with its trace; to see what is kept.

        T is the longest history among the N windows.  Where one is shorter, the steps before it mean nothing.
        """
        return self._read(observations, Record.LOSSES | Record.TRACE)[0]

    def apply(self, fn: Any) -> "ExpireSpanExtractor":
        """As torch's; but SB3's orthogonal initialisation reaches the encoder only: the core has one of its own."""
        if isinstance(fn, partial) and fn.func is BasePolicy.init_weights:
            self.encoder.apply(fn)
            return self
        return super().apply(fn)

    def _read(self, observations: dict[str, Tensor], record: Record) -> tuple[CoreOutput[ExpireSpanState], int]:
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
        return self.core(x, state, resets, record=record), len(steps)

    def _embedded(self, steps: dict[str, Tensor]) -> Float[Tensor, "steps D"]:
        kind, told = next(self.core.parameters()).dtype, named_parts(self.seen_space)
        parts = {name: _shaped(steps[name], space, told[name]) for name, space in named_parts(self.step_space).items()}
        if isinstance(self.step_space, spaces.Dict):
            named = dict(zip(self.step_space, parts.values(), strict=True))
            seen = {key: part.to(kind) for key, part in prepare(named, self.seen_space, self.kinds).items()}
        else:
            seen = prepare(parts[OBSERVATION], self.seen_space, self.kinds).to(kind)
        return self.embed(torch.cat([self.encoder(seen), *(steps[name].to(kind) for name in self.extra)], 1))


def _shaped(flat: Tensor, space: spaces.Space, told: spaces.Space) -> Tensor:
    """M steps of one part, [M, size], in the shape of its space, with the channels where the encoder is told."""
    shape = space.shape or ()
    if isinstance(space, spaces.Box) and not shape:
        return flat
    steps = flat.reshape(-1, *shape)
    if told.shape != shape:
        steps = steps.movedim(-1, 1)
    # SB3 has made numbers of bytes, by which pictures are known.
    return steps.byte() if space.dtype == np.uint8 else steps


class _Charged(torch.autograd.Function):
    """The features, through which a scalar charge gets the gradient that a term of the loss would have: 1."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, charge: Tensor) -> Tensor:
        ctx.like = charge.detach()
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's takes any number of gradients
        return grad, torch.ones_like(ctx.like)
