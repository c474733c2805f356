"""GTrXL (Parisotto et al., 2020): a transformer over a window, with the gates of a GRU in place of its residuals."""

from dataclasses import dataclass
from typing import ClassVar

from .window import WindowConfig, WindowTransformer


@dataclass(frozen=True, kw_only=True)
class GTrXLConfig(WindowConfig):
    """Shape of the GTrXL."""

    name: ClassVar[str] = "gtrxl"

    def build(self) -> WindowTransformer:
        """A new core with these settings."""
        return WindowTransformer(self, gated=True)
