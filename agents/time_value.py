"""What the critic knows of time: the value of a step depends on how much of its episode has passed."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

KNOTS, OCTAVES = 4, 16
"""Knots for each doubling of the time, and doublings: from 65,535 steps on nothing changes."""
TIME_STEP = 10.0
"""How much faster than other weights the value at a knot moves."""


class TimeValue(nn.Module):
    """A function of the steps since the episode began, piecewise linear in their logarithm; 0 at first.

    Where an episode is cut off after some steps, as most tasks are, what can still be earned depends on them (Pardo et
    al., 2018, "Time Limits in Reinforcement Learning").  A critic that has to find the time in its memory takes long to
    learn it, and until then its errors are the policy's noise.  The actor doesn't see the time, so that acting needs
    nothing else than before.
    """

    def __init__(self) -> None:
        super().__init__()
        # A tenth of the values, as gradients of ten times the size make ten times as large a step of any optimizer.
        self.weight = nn.Parameter(torch.zeros(KNOTS * OCTAVES + 1))

    def forward(self, time: Int[Tensor, "*steps"]) -> Float[Tensor, "*steps"]:
        """What is added to the value of steps that are so many steps from the beginning of their episode."""
        place = ((time + 1).log2() * KNOTS).clamp_max(KNOTS * OCTAVES)
        knots = torch.arange(len(self.weight), device=place.device)
        near = (1 - (place.unsqueeze(-1) - knots).abs()).clamp_min(0)
        return near @ (TIME_STEP * self.weight)
