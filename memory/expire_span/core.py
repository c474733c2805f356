"""The Expire-Span transformer (paper, section 4): a memory core whose memories decide how long they stay.

Choices that a reader would question:

- A step attends to its own memory (attention.py), so the first step of an episode is an ordinary one.
- Stored memories enter a segment as inputs, detached; their keys, values and spans are recomputed with the current
  weights (`refresh`), so that the projections learn from them while the past does not.
- `penalty` and `rent` are unweighted and summed, so that any split of a sequence into calls gives the same sum.  Who
  trains the core divides by the number of steps and applies the weight.
- Random shortening clamps the spans that attention sees; deletion and capacity go by the unclamped ones.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...checks import check_not_negative, check_whole
from ..core import CoreOutput, MemoryCore, Spared
from .layer import ExpireSpanConfig, ExpireSpanLayer, read_clock, survivors, trace_layer
from .slots import LayerMemory
from .span import contrast, overdue_rent, span_penalty, span_rent
from .state import ExpireSpanState
from .state_bytes import STORED, check_stored


class ExpireSpan(MemoryCore[ExpireSpanState]):
    """The Expire-Span transformer over features of each step."""

    def __init__(self, config: ExpireSpanConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.layers = nn.ModuleList(ExpireSpanLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width) if config.pre_norm else nn.Identity()

    def stack(self) -> Iterator[ExpireSpanLayer]:
        """The layers as what they are: torch leaves open what a ModuleList holds."""
        for layer in self.layers:
            assert isinstance(layer, ExpireSpanLayer)
            yield layer

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

    def rent_gradients(self, rent: Float[Tensor, ""]) -> list[list[Tensor]]:
        """Gradients of a rent with respect to each layer's span weights and bias; the graph stays usable."""
        parameters = [[layer.span.weight, layer.span.bias] for layer in self.stack()]
        flat = torch.autograd.grad(rent, [p for pair in parameters for p in pair], retain_graph=True)
        return [list(flat[i : i + 2]) for i in range(0, len(flat), 2)]

    def move_spans(self, gradients: list[list[Tensor]], pulls: list[float]) -> None:
        """Step down these gradients so that the logit of a typical memory's span falls by about its layer's pull.

        Layer inputs are normalised, so a step of length pull / sqrt(D + 1) along a memory's own direction does that.
        """
        with torch.no_grad():
            for layer, pair, pull in zip(self.stack(), gradients, pulls, strict=True):
                length = torch.cat([gradient.flatten() for gradient in pair]).norm().clamp_min(1e-12)
                for parameter, gradient in zip((layer.span.weight, layer.span.bias), pair, strict=True):
                    parameter -= pull * self.config.pre_div / (self.width + 1) ** 0.5 * gradient / length

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: ExpireSpanState,
        resets: Bool[Tensor, "B T"],
        *,
        charge: bool = True,
        trace: bool = False,
        spare_used: bool = False,
        attention: bool = False,
        keep: bool = True,
        keep_expired: bool = False,
    ) -> CoreOutput[ExpireSpanState]:
        """Read T steps; `keep_expired` stores expired memories too, which changes no result (law 2).

        Raises ValueError where the shapes of `x`, `state` and `resets` do not belong together.
        """
        rows, steps, width = x.shape
        if not steps or width != self.width or resets.shape != (rows, steps) or state.time.shape != (rows,):
            raise ValueError(
                f"Expect `x` of shape [B, T, {self.width}] with T > 0, `resets` of shape [B, T] and `state` of B rows, "
                f"actual: {list(x.shape)}, {list(resets.shape)} and {len(state.time)}"
            )
        kind = state.kind  # its type of numbers is left to torch, which may convert them (autocast)
        if (kind.layers, kind.width, kind.device) != (len(self.layers), self.width, x.device):
            core = f"{len(self.layers)} layers of width {self.width} on {x.device}"
            raise ValueError(f"Expect `state` to be one of this core, of {core}, actual: {kind}")
        shortens = self.config.shorten_spans and self.training
        if x.shape[1] == 1 and not (torch.is_grad_enabled() or charge or keep_expired or shortens):
            return self._step(x, state, resets, trace or attention, attention)
        clock = read_clock(state.time, resets)
        longest = None
        if shortens:
            longest = self.config.max_span * torch.rand(()).item()
        penalty, rent, overdue = x.new_zeros(()), x.new_zeros(()), x.new_zeros(())
        memories, traces, used, late = [], [], [], []
        for layer, memory in zip(self.stack(), state.layers, strict=True):
            x, new, kept = layer(x, memory, clock, longest=longest, whole=attention)
            if charge:
                # From inputs without gradient: a layer's memories are to be charged for, not what earlier layers made.
                seen, span = kept.reading, torch.cat([memory.span, layer.span(new.hidden)], 1)
                penalty = penalty + span_penalty(kept.span, seen.on_ramp, self.config.ramp)
                if not spare_used:
                    rent = rent + span_rent(span, seen.seen, self.config.ramp)
                else:
                    rent = rent + contrast(span, seen.seen, seen.used, self.config.ramp)
                    overdue = overdue + overdue_rent(span, seen.late, self.config.ramp)
                    used.append(int(seen.used.sum()))
                    late.append(int((seen.late > 0).sum()))
            if keep:
                memories.append(survivors(memory, new, kept, clock, self.config.ramp, keep_expired))
            if trace or attention:
                traces.append(trace_layer(new, kept, clock, self.config.ramp, attention))
        after = ExpireSpanState(layers=tuple(memories), time=clock.time[:, -1] + 1) if keep else state
        shown = tuple(traces) if trace or attention else None
        spared = Spared(overdue, tuple(used), tuple(late)) if used else None
        return CoreOutput(y=self.final_norm(x), state=after, penalty=penalty, rent=rent, spared=spared, trace=shown)

    def _step(
        self,
        x: Float[Tensor, "B 1 D"],
        state: ExpireSpanState,
        resets: Bool[Tensor, "B 1"],
        trace: bool,
        attention: bool,
    ) -> CoreOutput[ExpireSpanState]:
        """`forward` for acting."""
        goes_on, y, nothing = ~resets, x.squeeze(1), x.new_zeros(())
        time = state.time.unsqueeze(1) * goes_on
        memories, traces = [], []
        for layer, memory in zip(self.stack(), state.layers, strict=True):
            y, memory, shown = layer.step(y, memory, time, goes_on, trace=trace, attention=attention)
            memories.append(memory)
            traces.append(shown)
        after = ExpireSpanState(layers=tuple(memories), time=time.squeeze(1) + 1)
        shown = tuple(traces) if trace else None
        y = self.final_norm(y).unsqueeze(1)
        return CoreOutput(y=y, state=after, penalty=nothing, rent=nothing, spared=None, trace=shown)
