"""GTrXL (Parisotto et al., 2020): a transformer over a window, with the gates of a GRU in place of its residuals."""

from dataclasses import dataclass
from typing import ClassVar

from .window import WindowConfig, WindowLayer, WindowTransformer


@dataclass(frozen=True, kw_only=True)
class GTrXLConfig(WindowConfig):
    """Shape of the GTrXL."""

    name: ClassVar[str] = "gtrxl"

    def build(self) -> "GTrXL":
        """A new core with these settings."""
        return GTrXL(self)


class GTrXL(WindowTransformer):
    """A gated transformer whose layers see the last N steps of the episode."""

    def make_layer(self) -> WindowLayer:
        """A new layer."""
        return WindowLayer(self.config, self.config.window + 1, gated=True)
