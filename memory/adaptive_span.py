"""Adaptive-Span (Sukhbaatar et al., 2019): every head learns how far back it looks, whatever stands there.

A transformer over a window in which head h sees a memory of age a through the mask clamp(1 + (z_h - a) / R, 0, 1),
multiplied into its attention as in Expire-Span.  The span z_h is a weight of the network; its mean over heads is a term
of the loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..checks import check_fraction, check_not_negative, check_positive
from .core import CoreOutput, Record
from .expire_span.span import expiry_bias, lifetime, unclamped_mask
from .window import WindowConfig, WindowLayer, WindowTransformer


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


class AdaptiveLayer(WindowLayer):
    """A layer whose heads each have a span."""

    def __init__(self, config: AdaptiveSpanConfig) -> None:
        super().__init__(config, config.window + 1)
        self.ramp = config.ramp
        self.share = nn.Parameter(torch.full((config.heads,), config.initial_span))
        """Of the window, which is the span; kept from 0 to 1 (`SpanBounds`)."""

    @property
    def span(self) -> Float[Tensor, " H"]:
        """Of every head, in steps."""
        return self.window * self.share.clamp(0, 1)

    @property
    def reach(self) -> int:
        """The greatest age that a head sees now."""
        return min(self.window, max(int(lifetime(self.span.max(), self.ramp)) - 1, 0))

    def mask_bias(self, age: Int[Tensor, "B T S"]) -> Float[Tensor, "B H T S"]:
        """The logarithm of each head's mask."""
        ages = torch.arange(self.window + 1, device=age.device)
        unclamped = unclamped_mask(self.span.view(1, -1, 1), ages, self.ramp)
        visible = ages < lifetime(self.span, self.ramp).view(1, -1, 1)
        by_age, _ = expiry_bias(unclamped, visible)
        return by_age[0][:, age.clamp(max=self.window)].transpose(0, 1)


class AdaptiveSpan(WindowTransformer):
    """A transformer whose heads learn how many of the last N steps they see."""

    config: AdaptiveSpanConfig

    def make_layer(self) -> AdaptiveLayer:
        """A new layer."""
        return AdaptiveLayer(self.config)

    def adaptive(self) -> Iterator[AdaptiveLayer]:
        """The layers as what they are."""
        for layer in self.layers:
            assert isinstance(layer, AdaptiveLayer)
            yield layer

    def losses(self, time: Int[Tensor, "B T"]) -> dict[str, Tensor]:
        """The mean span of each layer's heads, summed over layers and steps."""
        return {"span": time.numel() * torch.stack([layer.span.mean() for layer in self.adaptive()]).sum()}

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of the spans."""
        return {"span": self.config.span_penalty}

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
        spans = [layer.span.detach() for layer in self._core.adaptive()]
        named = {f"spans/mean_layer_{number}": span.mean().item() for number, span in enumerate(spans, 1)}
        return named | {f"spans/max_layer_{number}": span.max().item() for number, span in enumerate(spans, 1)}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the spans are weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to continue from."""
