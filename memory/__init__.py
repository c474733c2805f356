"""Memory cores, which know only torch: the Expire-Span transformer and its rivals behind one contract (core.py)."""

from .adaptive_span import AdaptiveSpanConfig
from .compressive import CompressiveConfig
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
from .gated_delta_net import GatedDeltaNetConfig
from .gtrxl import GTrXLConfig
from .min_gru import MinGRUConfig
from .none import NoMemoryConfig
from .recurrent import GRUConfig, LSTMConfig
from .registry import CORES, core_config, register
from .transformer_xl import TransformerXLConfig

__all__ = [
    "CORES",
    "AdaptiveSpanConfig",
    "AttentionTrace",
    "CompressiveConfig",
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
    "GatedDeltaNetConfig",
    "LSTMConfig",
    "LayerMemory",
    "LayerTrace",
    "MemoryCore",
    "MinGRUConfig",
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
