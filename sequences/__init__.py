"""Long token sequences for the memory cores: text and moving objects as streams."""

from .collision import Collision, draw_frame
from .collision_world import CollisionConfig
from .streams import IGNORED, Stream, Window
from .text import Text, TextConfig

__all__ = ["IGNORED", "Collision", "CollisionConfig", "Stream", "Text", "TextConfig", "Window", "draw_frame"]
