"""Transformers over a window of the last steps: Transformer-XL (Dai et al., 2019) and, with gates, GTrXL (2020).

They are the Expire-Span transformer with one difference: a memory stays for as many steps as the window has, whatever
it holds.  Queries, keys, values, ages and counts are computed alike (attention.py).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..checks import check_whole
from .attention import AGE_STEP, Positions, attend, initial_age_bias, position_scores, split_heads
from .core import (
    AttentionTrace,
    CoreConfig,
    CoreOutput,
    LayerTrace,
    MemoryCore,
    Record,
    TensorState,
    check_segment,
    segment_starts,
)
from .transformer import GatedResidual, Residual, feed_forward, initialise_attention


@dataclass(frozen=True, kw_only=True)
class TransformerXLConfig(CoreConfig):
    """Shape of the Transformer-XL."""

    name: ClassVar[str] = "transformer-xl"
    gated: ClassVar[bool] = False
    layers: int = 2
    """Transformer layers, each with memories of its own."""
    width: int = 64
    """Width of the model (D)."""
    heads: int = 4
    """Attention heads; they divide the width."""
    ff_width: int = 128
    """Hidden width of the feed-forward half of a layer."""
    window: int = 64
    """Steps before the present one that each layer sees (N); 0 for no memory."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "ff_width"):
            check_whole(name, getattr(self, name), at_least=1)
        check_whole("window", self.window, at_least=0)
        if self.width % self.heads:
            raise ValueError(f"Expect `width` to be a multiple of `heads` ({self.heads}), actual: {self.width}")

    def build(self) -> "TransformerXL":
        """A new core with these settings."""
        return TransformerXL(self)


@dataclass(frozen=True, kw_only=True)
class GTrXLConfig(TransformerXLConfig):
    """Shape of the GTrXL: a Transformer-XL with a GRU's gates in place of residuals."""

    name: ClassVar[str] = "gtrxl"
    gated: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class WindowState(TensorState):
    """The last inputs of every layer, the newest last, and the clock of every row."""

    hidden: Float[Tensor, "B layers N D"]
    """Before the norm, so that keys and values always follow from the present weights."""
    time: Int[Tensor, " B"]
    """Steps since the episode began, by which it is known how many of the inputs belong to it."""


class _Layer(nn.Module):
    """Attention over the window, then a feed-forward half."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        width, ages = config.width, config.window + 1
        self.heads = config.heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width + config.heads, width)
        self.feed_forward = feed_forward(width, config.ff_width)
        self.join_attention, self.join_feed_forward = (
            GatedResidual(width) if config.gated else Residual() for _ in range(2)
        )
        self.position = nn.Parameter(torch.zeros(config.heads, width // config.heads, ages))
        self.age_weight = nn.Parameter(initial_age_bias(config.heads, ages) / AGE_STEP)
        initialise_attention(self.query_key_value, self.output)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        stored: Float[Tensor, "B N D"],
        age: Int[Tensor, "B T S"],
        visible: Bool[Tensor, "B T S"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"]]:
        """The layer's output, and how each step's attention was shared out over the S = N + T inputs."""
        rows = self.query_key_value(self.attention_norm(torch.cat([stored, x], 1)))
        query, key, value = (split_heads(part, self.heads) for part in rows.chunk(3, 2))
        query = query[:, :, stored.shape[1] :]
        bias = torch.zeros_like(age, dtype=x.dtype).masked_fill(~visible, -torch.inf).unsqueeze(1)
        bias = bias + position_scores(query, Positions(self.position, AGE_STEP * self.age_weight), age)
        read, weights = attend(query, key, value, bias)
        x = self.join_attention(x, self.output(read))
        return self.join_feed_forward(x, self.feed_forward(self.feed_forward_norm(x))), weights


class TransformerXL(MemoryCore[WindowState]):
    """A transformer whose layers see the last N steps of the episode."""

    keeps_memories = True

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)

    def initial_state(self, batch_size: int) -> WindowState:
        """No memories."""
        check_whole("batch_size", batch_size, at_least=1)
        like, config = self.final_norm.weight, self.config
        time = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        return WindowState(hidden=like.new_zeros(batch_size, config.layers, config.window, config.width), time=time)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: WindowState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[WindowState]:
        """Read T steps."""
        check_segment(self, x, state.time, resets)
        window, steps = self.config.window, torch.arange(resets.shape[1], device=x.device)
        start = segment_starts(resets)
        since = torch.where(start < 0, -state.time.unsqueeze(1), start)
        time = steps - since
        written = torch.arange(-window, resets.shape[1], device=x.device)
        age = (steps.unsqueeze(1) - written).expand(len(x), -1, -1)
        visible = (age >= 0) & (age <= window) & (written >= since.unsqueeze(2))
        hidden, trace = [], []
        for number, layer in enumerate(self.layers):
            stored = state.hidden[:, number]
            if record & Record.STATE:
                hidden.append(torch.cat([stored, x.detach()], 1)[:, len(steps) :])
            x, weights = layer(x, stored, age.clamp(min=0), visible)
            if record & (Record.TRACE | Record.ATTENTION):
                shown = None
                if record & Record.ATTENTION:
                    birth = torch.cat([written[:window] + state.time.unsqueeze(1), time], 1)
                    shown = AttentionTrace(weight=weights.detach().mean(1), birth=birth)
                trace.append(self._traced(x, time, shown))
        return CoreOutput(
            y=self.final_norm(x),
            state=WindowState(hidden=torch.stack(hidden, 1), time=time[:, -1] + 1) if hidden else None,
            trace=tuple(trace) if record & (Record.TRACE | Record.ATTENTION) else None,
        )

    def _traced(self, x: Tensor, time: Int[Tensor, "B T"], attention: Any) -> LayerTrace:
        return LayerTrace(
            span=x.new_full(time.shape, self.config.window),
            lifetime=torch.full_like(time, self.config.window + 1),
            live=time.clamp(max=self.config.window) + 1,
            evicted=torch.full_like(time, -1),
            attention=attention,
        )
