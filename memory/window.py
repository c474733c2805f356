"""A transformer over a window: every memory stays for the last N steps, whatever it holds.

That is Expire-Span with spans that are all N and a ramp of one step, so it is computed as such, and its memories can be
looked into and edited in the same way.  With gates an acting step is PyTorch's.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..checks import check_sizes, check_whole
from .core import CoreConfig, MemoryCore
from .expire_span.budget import PressureConfig
from .expire_span.config import ExpireSpanConfig
from .expire_span.core import ExpireSpan
from .expire_span.layer import ExpireSpanLayer

SATURATED = 100.0
"""A logit whose sigmoid is 1 in every type of numbers."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig(CoreConfig):
    """Shape of a transformer over a window."""

    layers: int = 2
    """Transformer layers, each with memories of its own."""
    width: int = 64
    """Width of the model (D)."""
    heads: int = 4
    """Attention heads; they divide the width."""
    ff_width: int = 128
    """Hidden width of the feed-forward half of a layer."""
    window: int = 64
    """Steps before the present one that each layer sees (N); 0 for no memory."""

    def __post_init__(self) -> None:
        check_sizes(self, "layers", "width", "heads", "ff_width")
        check_whole("window", self.window, at_least=0)
        if self.width % self.heads:
            raise ValueError(f"Expect `width` to be a multiple of `heads` ({self.heads}), actual: {self.width}")


class WindowTransformer(ExpireSpan):
    """A transformer whose layers see the last N steps of the episode; with a GRU's gates where `gated`."""

    def __init__(self, config: WindowConfig, *, gated: bool = False) -> None:
        self.gated = gated
        super().__init__(
            ExpireSpanConfig(
                layers=config.layers,
                width=config.width,
                heads=config.heads,
                ff_width=config.ff_width,
                max_span=float(max(config.window, 1)),
                ramp=1.0,
                position_window=config.window + 1,
            )
        )
        for layer in self.stack():
            for parameter in layer.span.parameters():
                parameter.requires_grad_(False)
            nn.init.constant_(layer.span.bias, SATURATED if config.window else -SATURATED)

    def make_layer(self) -> ExpireSpanLayer:
        """A new layer."""
        return ExpireSpanLayer(self.config, gated=self.gated)

    def parameter_groups(self) -> list[tuple[str | float, list[nn.Parameter]]]:
        """None: spans don't learn."""
        return []

    def controller(self, settings: Any) -> Any:
        """None: spans don't change."""

    def check_settings(self, settings: PressureConfig) -> None:
        """Raise ValueError where there are any for a controller."""
        MemoryCore.check_settings(self, settings)
