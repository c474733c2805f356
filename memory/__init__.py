"""Memory cores that know only torch: the Expire-Span transformer, what it stores, and how to look into it."""

from .core import AttentionTrace, CoreOutput, LayerTrace, MemoryCore, Spared
from .expire_span import ExpireSpan
from .layer import ExpireSpanConfig
from .layer_memory import LayerMemory
from .span import expire_mask, span_penalty
from .state import ExpireSpanState

__all__ = [
    "AttentionTrace",
    "CoreOutput",
    "ExpireSpan",
    "ExpireSpanConfig",
    "ExpireSpanState",
    "LayerMemory",
    "LayerTrace",
    "MemoryCore",
    "Spared",
    "expire_mask",
    "span_penalty",
]
