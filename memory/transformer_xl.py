"""Transformer-XL (Dai et al., 2019): every memory stays for the last N steps, whatever it holds.

That is Expire-Span with spans that are all N and a ramp of one step, so it is computed as such, in C where Expire-Span
is, and its memories can be looked into and edited in the same way.  Positions are this project's, for all ages.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from .core import MemoryCore
from .expire_span.budget import PressureConfig
from .expire_span.config import ExpireSpanConfig
from .expire_span.core import ExpireSpan
from .window import WindowConfig


@dataclass(frozen=True, kw_only=True)
class TransformerXLConfig(WindowConfig):
    """Shape of the Transformer-XL."""

    name: ClassVar[str] = "transformer-xl"

    def build(self) -> "TransformerXL":
        """A new core with these settings."""
        return TransformerXL(self)


SATURATED = 100.0
"""A logit whose sigmoid is 1 in every type of numbers."""


class TransformerXL(ExpireSpan):
    """A transformer whose layers see the last N steps of the episode."""

    def __init__(self, config: TransformerXLConfig) -> None:
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

    def parameter_groups(self) -> list[tuple[str | float, list[nn.Parameter]]]:
        """None: spans don't learn."""
        return []

    def controller(self, settings: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # any core may have none
        """None: spans don't change."""

    def check_settings(self, settings: PressureConfig) -> None:
        """Raise ValueError where there are any for a controller."""
        MemoryCore.check_settings(self, settings)
