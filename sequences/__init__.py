"""Long token sequences for the memory cores: text as streams."""

from .streams import IGNORED, Stream, Window
from .text import Text, TextConfig

__all__ = ["IGNORED", "Stream", "Text", "TextConfig", "Window"]
