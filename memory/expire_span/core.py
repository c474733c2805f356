"""The Expire-Span transformer (paper, section 4): a memory core whose memories decide how long they stay.

Choices that a reader would question:

- A step attends to its own memory (attention.py), so the first step of an episode is an ordinary one.
- Stored memories enter a segment as the layer's inputs of then, before the norm and detached; their keys, values and
  spans are recomputed with the current weights (`refresh`), so that norm and projections learn from them while the
  past does not.
- Random shortening clamps the spans that attention sees; deletion and capacity go by the unclamped ones.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...checks import check_not_negative, check_whole
from ..core import CoreOutput, MemoryCore, Record, check_segment
from .budget import PressureConfig, SpanController, SpanFacts, check_budget
from .config import ExpireSpanConfig
from .layer import ExpireSpanLayer, read_clock, survivors, trace_layer
from .slots import LayerMemory
from .span import span_penalty
from .state import ExpireSpanState
from .state_bytes import STORED, check_stored


class ExpireSpan(MemoryCore[ExpireSpanState]):
    """The Expire-Span transformer over features of each step."""

    keeps_memories = True

    def __init__(self, config: ExpireSpanConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.layers = nn.ModuleList(self.make_layer() for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width) if config.pre_norm else nn.Identity()
        self.penalty_weight = 0.0
        self.layer_drop = 0.0
        """Share of the layers that a pass in training leaves out (LayerDrop; Fan et al., 2020); their memories are
        written and their spans charged all the same."""

    def make_layer(self) -> ExpireSpanLayer:
        """A new layer."""
        return ExpireSpanLayer(self.config)

    def stack(self) -> Iterator[ExpireSpanLayer]:
        """The layers as what they are: torch leaves open what a ModuleList holds."""
        for layer in self.layers:
            assert isinstance(layer, ExpireSpanLayer)
            yield layer

    def share_positions(self) -> None:
        """Give all heads and layers the same keys of ages, drawn anew from N(0, 1), as the paper's code has them.

        Raises ValueError where there are none.
        """
        first = next(self.stack())
        if first.position is None:
            raise ValueError("Expect `shared_positions` with a position_window above 0, actual: 0")
        shared = nn.Parameter(torch.randn_like(first.position[:1]))
        for layer in self.stack():
            layer.position = shared

    def cut(self, longest: float) -> "ExpireSpan":
        """A copy whose spans are clamped to `longest` steps, for attention, deletion and trace alike.

        The paper's own test of what a span is good for: a memory is then gone `longest` + R steps after it was written.
        """
        check_not_negative("longest", longest)
        copied = deepcopy(self)
        for layer in copied.stack():
            layer.span.longest = min(longest, layer.span.longest)
        return copied

    def initial_state(self, batch_size: int) -> ExpireSpanState:
        """No memories."""
        check_whole("batch_size", batch_size, at_least=1)
        like = next(self.stack()).query_key_value.weight
        hidden, span = like.new_zeros(batch_size, 0, self.width), like.new_zeros(batch_size, 0)
        birth = torch.zeros(batch_size, 0, dtype=torch.int64, device=like.device)
        key_value = like.new_zeros(batch_size, 0, 2 * self.width)
        memory = LayerMemory(hidden=hidden, key_value=key_value, span=span, birth=birth, live=birth.bool())
        time = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        return ExpireSpanState(layers=(memory,) * self.config.layers, time=time)

    def restore_state(self, tensors: dict[str, Tensor]) -> ExpireSpanState:
        """The state whose `tensors()` these are, refreshed.

        Raises ValueError that names the entry whose type, shape or value is not that of a state of this core.
        """
        check_stored(tensors, self.config.layers, self.width)
        like = next(self.stack()).query_key_value.weight
        layers = []
        for number in range(self.config.layers):
            hidden, birth, live = (tensors[f"{number}.{name}"].to(like.device) for name in STORED)
            hidden = hidden.to(like.dtype)
            # Placeholders, which refresh replaces.
            layers.append(LayerMemory(hidden=hidden, key_value=hidden, span=hidden[..., 0], birth=birth, live=live))
        return self.refresh(ExpireSpanState(layers=tuple(layers), time=tensors["time"].to(like.device)))

    def refresh(self, state: ExpireSpanState) -> ExpireSpanState:
        """Keys, values and spans of stored memories from the current weights."""
        return replace(
            state, layers=tuple(layer.refresh(memory) for layer, memory in zip(self.stack(), state.layers, strict=True))
        )

    @property
    def loss_weights(self) -> dict[str, float]:
        """The paper's penalty counts with a weight of 0 until a controller gives it one."""
        return {"penalty": self.penalty_weight}

    def parameter_groups(self) -> list[tuple[str | float, list[nn.Parameter]]]:
        """What predicts spans: `span_lr_scale` multiplies its learning rate."""
        return [("span_lr_scale", [parameter for layer in self.stack() for parameter in layer.span.parameters()])]

    def controller(self, settings: PressureConfig) -> SpanController:
        """What pulls on the spans during training."""
        return SpanController(self, settings)

    def check_settings(self, settings: PressureConfig) -> None:
        """Raise ValueError where no span is short enough for the budget."""
        check_budget(settings, self.config)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: ExpireSpanState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
        keep_expired: bool = False,
    ) -> CoreOutput[ExpireSpanState]:
        """Read T steps; `keep_expired` stores expired memories too, which changes no result (law 2).

        `losses` holds "penalty", the paper's; `facts` are `SpanFacts`.

        Raises ValueError where the shapes of `x`, `state` and `resets` do not belong together.
        """
        check_segment(self, x, state.time, resets)
        kind = state.kind  # its type of numbers is left to torch, which may convert them (autocast)
        if (kind.layers, kind.width, kind.device) != (len(self.layers), self.width, x.device):
            core = f"{len(self.layers)} layers of width {self.width} on {x.device}"
            raise ValueError(f"Expect `state` to be one of this core, of {core}, actual: {kind}")
        if not state.has_keys:
            state = self.refresh(state)
        shortens = self.config.shorten_spans and self.training
        charges, tells = bool(record & Record.LOSSES), bool(record & Record.FACTS)
        traces, shows = bool(record & (Record.TRACE | Record.ATTENTION)), bool(record & Record.ATTENTION)
        if x.shape[1] == 1 and not (torch.is_grad_enabled() or charges or tells or keep_expired or shortens):
            return self._step(x, state, resets, traces, shows)
        clock = read_clock(state.time, resets)
        longest = None
        if shortens:
            longest = self.config.max_span * torch.rand(()).item()
        penalty, facts = x.new_zeros(()), []
        memories, trace = [], []
        for layer, memory in zip(self.stack(), state.layers, strict=True):
            y, new, kept = layer(x, memory, clock, longest=longest, need_weights=shows)
            dropped = self.training and self.layer_drop and torch.rand(()).item() < self.layer_drop
            x = x if dropped else y
            if charges:
                penalty = penalty + span_penalty(kept.span, kept.reading.on_ramp, self.config.ramp)
            if tells:
                # From inputs without gradient: a layer's memories are to be charged for, not what earlier layers made.
                span = torch.cat([memory.span, layer.span(layer.normed(new.hidden))], 1)
                facts.append(SpanFacts.of(span, kept.reading, self.config.ramp))
            if record & Record.STATE:
                memories.append(survivors(memory, new, kept, clock, self.config.ramp, keep_expired))
            if traces:
                trace.append(trace_layer(new, kept, clock, self.config.ramp, shows))
        return CoreOutput(
            y=self.final_norm(x),
            state=ExpireSpanState(layers=tuple(memories), time=clock.time[:, -1] + 1) if memories else None,
            losses={"penalty": penalty} if charges else {},
            facts=tuple(facts) if tells else None,
            trace=tuple(trace) if traces else None,
        )

    def _step(
        self,
        x: Float[Tensor, "B 1 D"],
        state: ExpireSpanState,
        resets: Bool[Tensor, "B 1"],
        trace: bool,
        attention: bool,
    ) -> CoreOutput[ExpireSpanState]:
        """`forward` for acting."""
        y = x.squeeze(1)
        time = state.time.unsqueeze(1) * ~resets
        memories, traces = [], []
        for layer, memory in zip(self.stack(), state.layers, strict=True):
            y, memory, shown = layer.step(y, memory, time, resets, trace=trace, attention=attention)
            memories.append(memory)
            traces.append(shown)
        after = ExpireSpanState(layers=tuple(memories), time=time.squeeze(1) + 1)
        shown = tuple(traces) if trace else None
        y = self.final_norm(y).unsqueeze(1)
        return CoreOutput(y=y, state=after, losses={}, trace=shown)
