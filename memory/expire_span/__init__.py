"""The Expire-Span transformer: memories that decide how long they stay."""

from .budget import PressureConfig
from .config import ExpireSpanConfig
from .core import ExpireSpan
from .slots import LayerMemory
from .span import expire_mask, span_penalty
from .state import ExpireSpanState

__all__ = [
    "ExpireSpan",
    "ExpireSpanConfig",
    "ExpireSpanState",
    "LayerMemory",
    "PressureConfig",
    "expire_mask",
    "span_penalty",
]
