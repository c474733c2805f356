"""Long token sequences for the memory cores: text, moving objects, copying and associative recall as streams."""

from .collision import Collision, draw_frame
from .collision_world import CollisionConfig
from .recall import AssociativeRecall, AssociativeRecallConfig, Copy, CopyConfig
from .streams import IGNORED, Stream, Window
from .text import Text, TextConfig

__all__ = [
    "IGNORED",
    "AssociativeRecall",
    "AssociativeRecallConfig",
    "Collision",
    "CollisionConfig",
    "Copy",
    "CopyConfig",
    "Stream",
    "Text",
    "TextConfig",
    "Window",
    "draw_frame",
]
