"""Transformer-XL (Dai et al., 2019): a transformer over a window.  Positions are this project's, for all ages."""

from dataclasses import dataclass
from typing import ClassVar

from .window import WindowConfig, WindowTransformer


@dataclass(frozen=True, kw_only=True)
class TransformerXLConfig(WindowConfig):
    """Shape of the Transformer-XL."""

    name: ClassVar[str] = "transformer-xl"

    def build(self) -> WindowTransformer:
        """A new core with these settings."""
        return WindowTransformer(self)
