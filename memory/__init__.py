"""Memory cores, which know only torch: the Expire-Span transformer and its rivals behind one contract (core.py)."""

from .core import (
    AttentionTrace,
    Controller,
    CoreConfig,
    CoreOutput,
    Cuttable,
    Editable,
    LayerTrace,
    MemoryCore,
    Record,
    State,
    TensorState,
    Trace,
)
from .expire_span import (
    ExpireSpan,
    ExpireSpanConfig,
    ExpireSpanState,
    LayerMemory,
    PressureConfig,
    expire_mask,
    span_penalty,
)
from .none import NoMemoryConfig
from .recurrent import GRUConfig, LSTMConfig
from .registry import CORES, core_config, register
from .transformer_xl import GTrXLConfig, TransformerXLConfig

__all__ = [
    "CORES",
    "AttentionTrace",
    "Controller",
    "CoreConfig",
    "CoreOutput",
    "Cuttable",
    "Editable",
    "ExpireSpan",
    "ExpireSpanConfig",
    "ExpireSpanState",
    "GRUConfig",
    "GTrXLConfig",
    "LSTMConfig",
    "LayerMemory",
    "LayerTrace",
    "MemoryCore",
    "NoMemoryConfig",
    "PressureConfig",
    "Record",
    "State",
    "TensorState",
    "Trace",
    "TransformerXLConfig",
    "core_config",
    "expire_mask",
    "register",
    "span_penalty",
]
