"""Expire-Span's mask and penalty (paper, section 4.1), as pure functions, and the layer that predicts spans.

A memory written at time i with span e_i is fully visible until its age passes e_i and fades to nothing over the next R
steps (the ramp):

    r_ti = e_i - (t - i),    m_ti = clamp(1 + r_ti / R, 0, 1)

The mask never rises again, so a memory with m = 0 can be deleted without changing any later output.  Attention weights
are multiplied by m and renormalised, which is the same as adding log m to the scores before the softmax.

Whether a memory is visible is decided in whole steps (`lifetime`), so that the rounding of m decides about nothing: a
segment, a step and the C agree on it in float32 too.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def unclamped_mask(end: Float[Tensor, "..."], now: Int[Tensor, "..."], ramp: float) -> Float[Tensor, "..."]:
    """1 + (end - now) / R of memories whose span ends at the time `end`; shapes are broadcast.

    Times are of one clock: `end` is the span plus the time of birth, or the span itself where `now` is the age.
    Clamped to [0, 1] it is the mask.
    """
    left = end - now.to(end.dtype)  # 0 is exactly 0 here, so that no rounding puts a memory on its ramp
    return torch.add(left.new_ones(()), left, alpha=1 / ramp)


def lifetime(span: Float[Tensor, "*shape"], ramp: float) -> Int[Tensor, "*shape"]:
    """For how many steps a memory is visible, that of its birth included: ceil(e + R), its m being above 0 before.

    At ages below it, a memory is visible; at the last of these it can be deleted.
    """
    return (span.detach() + ramp).ceil().long()


def expire_mask(span: Float[Tensor, "B S"], age: Int[Tensor, "B T S"], ramp: float) -> Float[Tensor, "B T S"]:
    """How visible each memory is to each query, in [0, 1]: clamp(1 + (e - age) / R, 0, 1).  Ages are in steps."""
    return unclamped_mask(span.unsqueeze(1), age, ramp).clamp(0, 1)


FAINTEST = 1e-20
"""The least mask of a visible memory, where rounding would make it 0."""
SMALLEST = 1e-30
"""In place of a mask of 0 under the logarithm."""


def log_mask(
    unclamped: Float[Tensor, "B *T S"], visible: Bool[Tensor, "B *T S"]
) -> tuple[Float[Tensor, "B *T S"], Float[Tensor, "B *T S"]]:
    """`expiry_bias` without a gradient."""
    mask = unclamped.clamp(FAINTEST, 1.0).masked_fill_(~visible, 0)
    # The logarithm of 0 itself takes ten times as long as that of other numbers.
    bias = mask.clamp_min(SMALLEST).log_()
    return torch.threshold_(bias, 0.999 * math.log(SMALLEST), -torch.inf), mask


class _ExpiryBias(torch.autograd.Function):
    """log clamp(x, 0, 1) with the invisible at minus infinity; also the clamped mask, which carries no gradient.

    One pass forward and one backward where composed operations need eight, and no 0 * inf at m = 0.
    """

    @staticmethod
    def forward(ctx: Any, unclamped: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        bias, mask = log_mask(unclamped, visible)
        ctx.save_for_backward(mask)
        ctx.mark_non_differentiable(mask)
        return bias, mask

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's takes any number of gradients
        ctx: Any, grad_bias: Tensor, grad_mask: Tensor
    ) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (grad_bias / mask.clamp_min(SMALLEST)).mul_(steps_on_ramp(mask)), None


def expiry_bias(
    unclamped: Float[Tensor, "B T S"], visible: Bool[Tensor, "B T S"]
) -> tuple[Float[Tensor, "B T S"], Float[Tensor, "B T S"]]:
    """The bias log m_ti for attention scores, with its gradient to the spans, and the mask m_ti itself without.

    `unclamped` is of `unclamped_mask`.  Where `visible` is false, as it must be for all ages from the lifetime on, the
    mask is 0 and the bias minus infinity, whatever `unclamped` is.
    """
    return _ExpiryBias.apply(unclamped, visible)


def steps_on_ramp(mask: Tensor) -> Tensor:
    """1 where 0 < m < 1, else 0; in floating point, which is summed several times as fast as bools are."""
    return mask.sign() - mask.floor()


def span_penalty(span: Float[Tensor, "B S"], on_ramp: Float[Tensor, "B S"], ramp: float) -> Float[Tensor, ""]:
    """The sum of e_i / R over all pairs (t, i) in which memory i is on its ramp at step t (0 < m < 1).

    `on_ramp` counts those steps for each memory.  It spends R steps on its ramp, so over its life it is charged about
    e_i.
    """
    return (span * on_ramp).sum() / ramp


def span_rent(span: Float[Tensor, "B S"], seen: Float[Tensor, "B S"], ramp: float) -> Float[Tensor, ""]:
    """The sum of log(1 + e_i / R) over all pairs (t, i) in which memory i is live at step t (m > 0).

    Not in the paper.  Its penalty never reaches a span that outlasts the episode, so such a span would stay for ever;
    and it pulls on a span in proportion to its length, so that the few memories that must stay long bear most of it.
    The logarithm pulls on all long spans alike, and on those well below the ramp, which frees no memory, hardly at all.
    `seen` counts the steps at which each memory is live.
    """
    return (torch.log1p(span / ramp) * seen).sum()


def contrast(
    idle_rent: Float[Tensor, ""], used_rent: Float[Tensor, ""], idle_steps: float, used_steps: float
) -> Float[Tensor, ""]:
    """The rent of the memories that are not in use, less that of those in use, both of the same total weight.

    Going down its gradient tells the two apart: it shortens the spans of what nobody asks for and lengthens those of
    what was asked for.  Without a memory in use it is `span_rent`.  The steps are those at which memories of each kind
    are live.  Not in the paper.
    """
    return idle_rent - used_rent * (idle_steps / max(used_steps, 1.0))


def overdue_rent(span: Float[Tensor, "B S"], late: Int[Tensor, "B S"], ramp: float) -> Float[Tensor, ""]:
    """The sum of log(1 + e_i / R) over all pairs (t, i) in which step t uses memory i in the second half of its span.

    Going up its gradient lengthens the spans that were nearly too short.  `late` counts those steps for each memory.
    Not in the paper.
    """
    return span_rent(span, late.to(span.dtype), ramp)


def initial_bias(fraction: float) -> float:
    """The bias b at which L * sigmoid(b) is `fraction` of L: -ln(1 / p - 1)."""
    return -math.log(1 / fraction - 1)


class SpanPredictor(nn.Module):
    """e_i = L * sigmoid(w . h_i / pre_div + b): one span in steps for each memory, shared by a layer's heads.

    w starts at 0 and b at `initial_bias(initial_fraction)`, so that every span starts at that fraction of L.
    """

    def __init__(self, width: int, max_span: float, initial_fraction: float, pre_div: float) -> None:
        super().__init__()
        self.max_span = max_span
        self.longest = float("inf")  # below max_span once the core was cut
        self.pre_div = pre_div
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.tensor(initial_bias(initial_fraction)))

    def forward(self, hidden: Float[Tensor, "B *S D"]) -> Float[Tensor, "B *S"]:
        """The span in steps of the memory made from each layer input; with autocast in float32, as its steps count."""
        if torch.is_autocast_enabled(hidden.device.type):
            with torch.autocast(hidden.device.type, enabled=False):
                return self(hidden.to(self.weight.dtype))
        return self.of_products(hidden @ self.weight)

    def of_products(self, products: Float[Tensor, "B *S"]) -> Float[Tensor, "B *S"]:
        """The span in steps where w . h is known."""
        logits = products / self.pre_div if self.pre_div != 1 else products
        span = self.max_span * torch.sigmoid(logits + self.bias)
        return span if self.longest >= self.max_span else span.clamp(max=self.longest)
