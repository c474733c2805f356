"""Adaptive-Span (Sukhbaatar et al., 2019): every head learns how far back it looks, whatever stands there.

A transformer over a window in which head h sees a memory of age a through the mask clamp(1 + (z_h - a) / R, 0, 1),
multiplied into its attention as in Expire-Span.  The span z_h is a weight of the network; its mean over heads is a term
of the loss.  Memories stay for as long as the head with the longest span sees them.  A mask that depends on head and
age alone is a bias of ages, so attention is that of a window.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..checks import check_fraction, check_not_negative, check_positive
from .attention import Positions
from .core import CoreOutput, Record
from .expire_span.config import ExpireSpanConfig
from .expire_span.layer import ExpireSpanLayer
from .expire_span.span import expiry_bias, lifetime, unclamped_mask
from .expire_span.state import ExpireSpanState
from .window import WindowConfig, WindowTransformer


@dataclass(frozen=True, kw_only=True)
class AdaptiveSpanConfig(WindowConfig):
    """Shape of the Adaptive-Span core."""

    name: ClassVar[str] = "adaptive-span"
    window: int = 256
    """Steps before the present one that are stored (N); no head sees further."""
    ramp: float = 16.0
    """Steps over which memories fade beyond a head's span (R)."""
    initial_span: float = 0.5
    """Spans at the start of training, as a share of the window."""
    span_penalty: float = 1e-4
    """Weight in the loss of the mean span in steps, for every layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("ramp", self.ramp)
        check_fraction("initial_span", self.initial_span)
        check_not_negative("span_penalty", self.span_penalty)

    def build(self) -> "AdaptiveSpan":
        """A new core with these settings."""
        return AdaptiveSpan(self)


class AdaptiveLayer(ExpireSpanLayer):
    """A layer whose heads each have a span.  Memories stay for the longest of them."""

    def __init__(self, config: ExpireSpanConfig, window: int, ramp: float, initial_span: float) -> None:
        super().__init__(config)
        self.window, self.head_ramp, self.cut_to = window, ramp, math.inf
        self.share = nn.Parameter(torch.full((config.heads,), initial_span))
        """Of the window, which is the span; kept from 0 to 1 (`SpanBounds`)."""

    @property
    def head_span(self) -> Float[Tensor, " H"]:
        """Of every head, in steps."""
        return self.window * self.share.clamp(0, 1)

    def bound(self) -> None:
        """Let memories stay for as long as some head sees them, under the present weights."""
        if torch.compiler.is_exporting():  # weights are constants then, and a number of them can't be read
            return
        reach = max(int(lifetime(self.head_span.max(), self.head_ramp)) - 1, 0)
        self.span.longest = min(self.window, reach, self.cut_to)

    @property
    def positions(self) -> Positions:
        """What tells ages apart, with the logarithm of each head's mask."""
        ages = torch.arange(self.window + 1, device=self.share.device)
        unclamped = unclamped_mask(self.head_span.unsqueeze(1), ages, self.head_ramp)
        visible = ages < lifetime(self.head_span, self.head_ramp).unsqueeze(1)
        by_age, _ = expiry_bias(unclamped.unsqueeze(0), visible.unsqueeze(0))
        positions = super().positions
        assert positions is not None
        return Positions(positions.key, positions.bias + nn.functional.pad(by_age[0], (0, 1)))


class AdaptiveSpan(WindowTransformer):
    """A transformer whose heads learn how many of the last N steps they see."""

    def __init__(self, config: AdaptiveSpanConfig) -> None:
        self.adaptive_config = config
        super().__init__(config)

    def make_layer(self) -> AdaptiveLayer:
        """A new layer."""
        own = self.adaptive_config
        return AdaptiveLayer(self.config, own.window, own.ramp, own.initial_span)

    def adaptive(self) -> Iterator[AdaptiveLayer]:
        """The layers as what they are."""
        for layer in self.layers:
            assert isinstance(layer, AdaptiveLayer)
            yield layer

    def cut(self, longest: float) -> "AdaptiveSpan":
        """A copy in which no head sees further than `longest` steps.  A state of this core must be refreshed for it."""
        check_not_negative("longest", longest)
        copied = deepcopy(self)
        for layer in copied.adaptive():
            layer.cut_to = min(math.floor(longest), layer.cut_to)
        return copied

    def refresh(self, state: ExpireSpanState) -> ExpireSpanState:
        """Keys, values and spans of stored memories from the current weights."""
        for layer in self.adaptive():
            layer.bound()
        return super().refresh(state)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: ExpireSpanState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
        keep_expired: bool = False,
    ) -> CoreOutput[ExpireSpanState]:
        """Read T steps; `losses` holds "span": the mean span of each layer's heads, summed over layers and steps."""
        for layer in self.adaptive():
            layer.bound()
        output = super().forward(x, state, resets, record=record & ~Record.LOSSES, keep_expired=keep_expired)
        if not record & Record.LOSSES:
            return output
        mean = torch.stack([layer.head_span.mean() for layer in self.adaptive()]).sum()
        return replace(output, losses={"span": resets.numel() * mean})

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of the spans."""
        return {"span": self.adaptive_config.span_penalty}

    def controller(self, settings: Any) -> "SpanBounds":
        """What keeps spans between 0 and the window, and logs them."""
        return SpanBounds(self)


class SpanBounds:
    """Keeps spans between 0 and the window after every step of the optimizer (`memory.core.Controller`)."""

    budget = None
    needs = Record.LOSSES

    def __init__(self, core: AdaptiveSpan) -> None:
        self._core = core

    def observe(self, output: CoreOutput[Any]) -> None:
        """Nothing to take note of."""

    def step(self, share: float) -> None:
        """Clamp the spans: beyond the bounds they would have no gradient to come back by."""
        with torch.no_grad():
            for layer in self._core.adaptive():
                layer.share.clamp_(0, 1)

    def end_update(self, progress: float) -> dict[str, Any]:
        """Mean and longest span of each layer."""
        spans = [layer.head_span.detach() for layer in self._core.adaptive()]
        named = {f"spans/mean_layer_{number}": span.mean().item() for number, span in enumerate(spans, 1)}
        return named | {f"spans/max_layer_{number}": span.max().item() for number, span in enumerate(spans, 1)}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the spans are weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to continue from."""
