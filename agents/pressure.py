"""How hard training pulls on the spans.

The paper charges every memory on its ramp with a constant weight.  Under Adam the size of that weight hardly matters:
as long as the task gives the spans no gradient, any penalty makes them collapse at Adam's full step size, and with them
the chance that the task ever gets to use memory.  So the default here is a budget: a number of live memories to arrive
at, approached only as fast as the return allows.

The budget charges a rent on every live memory rather than the paper's penalty on those that are on their ramp: a span
that outlasts the episodes is never on its ramp.

1. Wait: no pull until the return has stopped improving, and none any more once it improves again.
2. Tighten: while the return holds, a target falls by a few per cent an update from what is live towards the budget.
   Where the return falls away from its best, the target rises again and the penalty rests.
3. The weight follows the target: it grows geometrically while more is live than the target and shrinks while less is.

Everything is relative (to the best and worst return seen, to what is live), so nothing is tuned to a task.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..memory.checks import check_not_negative, check_positive, check_share, check_whole


@dataclass(frozen=True, kw_only=True)
class PressureConfig:
    """The penalty on spans: a budget by default, or the paper's constant weight."""

    memory_budget: float | None = 20.0
    """Mean live memories per layer that training aims at; None for no penalty.  The ramp alone holds about as many
    memories as it has steps, so a budget below max_span's ramp cannot be met."""
    penalty_weight: float | None = None
    """The paper's constant weight (alpha) in place of the budget."""
    budget_patience: int = 40
    """Updates without a better return after which tightening begins."""
    budget_tolerance: float = 0.05
    """How far the return may fall below its best before the pressure rests, as a share of best minus worst."""
    budget_rate: float = 0.015
    """Share by which the target falls in an update while the return holds."""

    def __post_init__(self) -> None:
        if self.memory_budget is not None:
            check_positive("memory_budget", self.memory_budget)
        if self.penalty_weight is not None:
            check_not_negative("penalty_weight", self.penalty_weight)
        check_whole("budget_patience", self.budget_patience, at_least=0)
        check_share("budget_tolerance", self.budget_tolerance)
        check_not_negative("budget_rate", self.budget_rate, below=1.0)


SMOOTHING = 0.2
"""Share of the newest mean return in the smoothed one."""
IMPROVEMENT = 0.05
"""How much better the return must get, as a share of best minus worst, to count as improving."""
GAIN = 0.3
"""How fast the weight follows: d log(weight) per update and unit of log(live / target)."""
WEIGHTS = (1e-6, 1e-2)
FIRST_WEIGHT = 1e-4


class SpanPressure:
    """The weight of the span penalty, updated once after every policy update."""

    def __init__(self, config: PressureConfig) -> None:
        self.config = config
        constant = config.penalty_weight
        self.weight = 0.0 if constant is None else constant
        self.target: float | None = None
        self._log_weight = math.log(FIRST_WEIGHT)
        self._smoothed: float | None = None
        self._best = -math.inf
        self._worst = math.inf
        self._waited = 0

    @property
    def charges_rent(self) -> bool:
        """Whether the weight is that of the rent rather than of the paper's penalty."""
        return self.config.penalty_weight is None

    def update(self, live: float, mean_return: float | None) -> None:
        """Take note of the mean live memories per layer and of the mean return of recent episodes (None: no episode)."""
        budget = self.config.memory_budget
        if self.config.penalty_weight is not None or budget is None or mean_return is None:
            return
        holds = self._observe(mean_return)
        if self._waited == 0:  # better than ever: learning goes before forgetting
            self.target, self.weight = None, 0.0
        if self.target is None:
            if self._waited < self.config.budget_patience:
                return
            self.target = live
        if holds:
            self.target = max(budget, self.target * (1 - self.config.budget_rate))
        else:
            self.target = min(self.target * (1 + self.config.budget_rate), max(1.5 * live, budget))
        excess = math.log(max(live, 1.0) / self.target)
        low, high = (math.log(limit) for limit in WEIGHTS)
        self._log_weight = min(max(self._log_weight + GAIN * min(max(excess, -1), 1), low), high)
        self.weight = math.exp(self._log_weight) if holds and excess > -0.1 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as JSON knows it."""
        return {name: value for name, value in vars(self).items() if name != "config"} | {"config": asdict(self.config)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, under the present configuration."""
        for name, value in state.items():
            if name != "config":
                setattr(self, name, value)
        if self.config.penalty_weight is not None:
            self.weight = self.config.penalty_weight

    def _observe(self, mean_return: float) -> bool:
        """Whether the smoothed return holds its best; counts the updates since it last got better."""
        before = mean_return if self._smoothed is None else self._smoothed
        self._smoothed = before + SMOOTHING * (mean_return - before)
        self._worst = min(self._worst, self._smoothed)
        if self._smoothed > self._best + IMPROVEMENT * max(self._best - self._worst, 0.0):
            self._best, self._waited = self._smoothed, 0
        else:
            self._best, self._waited = max(self._best, self._smoothed), self._waited + 1
        return self._smoothed >= self._best - self.config.budget_tolerance * (self._best - self._worst)
