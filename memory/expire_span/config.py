"""Shape of the Expire-Span core."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...checks import check_choice, check_fraction, check_not_negative, check_positive, check_sizes, check_whole
from ..core import CoreConfig

if TYPE_CHECKING:
    from .core import ExpireSpan


LONGEST = 1e12
"""Spans and ramps, in steps, at most: with longer ones times are not exact."""


@dataclass(frozen=True, kw_only=True)
class ExpireSpanConfig(CoreConfig):
    """Shape of the Expire-Span core."""

    name: ClassVar[str] = "expire-span"

    layers: int = 2
    """Transformer layers, each with memories and spans of its own."""
    width: int = 64
    """Width of the model (D)."""
    heads: int = 4
    """Attention heads; they divide the width.  With a position window the first half of them (1 // 2 is none) begin by
    reading the newest memories, the others by reading all alike."""
    ff_width: int = 128
    """Hidden width of the feed-forward half of a layer."""
    max_span: float = 4096.0
    """Longest span in steps that can be predicted (L)."""
    ramp: float = 16.0
    """Steps over which an expired memory fades (R)."""
    initial_span: float = 0.8
    """Spans at the start of training, as a fraction of max_span.  The paper starts at 0.1; a budget
    (memory/expire_span/budget.py) takes from common observations first, so that rare ones stay long."""
    pre_div: float = 1.0
    """Divides w . h before the sigmoid: with a large max_span, small changes of w then move spans less."""
    shorten_spans: bool = False
    """Random shortening, in training only: clamp all spans of a forward pass to u * max_span, u ~ U(0, 1)."""
    position_window: int = 64
    """Memories younger than this many steps (M) are told apart by age: each age has a learned key, and each age and
    head a learned bias of the score.  All older ones share one bias.  0 for no order in time."""
    capacity: int | None = None
    """Most memories that a layer stores beyond the present step; None for no bound, 0 for no memory at all.  The
    newest ones, as many as the ramp has steps but at most half of the capacity, are not evicted; of the older ones, the
    first to expire is."""
    dropout: float = 0.0
    """Dropout after attention and after the feed-forward half, in training only."""
    pre_norm: bool = True
    """Normalise the input of each half of a layer; False normalises its output, as the first transformers did."""

    def __post_init__(self) -> None:
        check_sizes(self, "layers", "width", "heads", "ff_width")
        if self.width % self.heads:
            raise ValueError(f"Expect `width` to be a multiple of `heads` ({self.heads}), actual: {self.width}")
        for name in ("max_span", "ramp"):
            check_positive(name, getattr(self, name), at_most=LONGEST)
        check_positive("pre_div", self.pre_div)
        check_fraction("initial_span", self.initial_span)
        check_whole("position_window", self.position_window, at_least=0)
        if self.capacity is not None:
            check_whole("capacity", self.capacity, at_least=0)
        check_not_negative("dropout", self.dropout, below=1.0)
        check_choice("shorten_spans", self.shorten_spans, (True, False))
        check_choice("pre_norm", self.pre_norm, (True, False))

    def build(self) -> "ExpireSpan":
        """A new core with these settings."""
        from .core import ExpireSpan  # which is made of these layers

        return ExpireSpan(self)

    @property
    def newest(self) -> int:
        """Places of the capacity kept for the newest memories: a ramp's length, at most half of them."""
        return 0 if self.capacity is None else min(math.ceil(self.ramp), self.capacity // 2)

    @property
    def places(self) -> int | None:
        """Places of the capacity that older memories share; None for no bound."""
        return None if self.capacity is None else self.capacity - self.newest
