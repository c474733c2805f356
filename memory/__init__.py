"""Memory cores that know only torch: the Expire-Span transformer, what it stores, and how to look into it."""

from .core import AttentionTrace, CoreOutput, LayerTrace, MemoryCore, Spared
from .expire_span.core import ExpireSpan
from .expire_span.layer import ExpireSpanConfig
from .expire_span.slots import LayerMemory
from .expire_span.span import expire_mask, span_penalty
from .expire_span.state import ExpireSpanState

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
