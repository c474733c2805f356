"""How hard training pulls on the spans.

The paper charges every memory on its ramp with a constant weight.  Under Adam the size of that weight hardly matters:
as long as the task gives the spans no gradient, any penalty makes them collapse at Adam's full step size, and with them
the chance that the task ever gets to use memory.

The default here is a budget: a number of live memories at which the pull ends, so nothing can collapse.

- Spans start far longer than needed, and the pull begins at once.  What it meets first is what there is most of: the
  rent (span.py) is a sum over all live memories, so its gradient points along the features of the common ones.  Common
  observations lose their spans, rare ones keep most of theirs, before the task has said anything.
- The task is then learned with about the memory that it will have.  Taking memory from an agent that has learned with
  all of it was tried in several ways, and each cost it a good part of its success.
- After every gradient step the weights that predict spans take a small step down the gradient of the rent.  The step is
  normalised and stands outside Adam, so its length means something: the change of a typical memory's logit.

A memory that is used in the second half of its span nearly came too late, and the task itself says so only while it is
on its ramp.  On request (`late_pull`) a step up the rent lengthens such spans, whether the budget is met or not.
Without it, the spans of Portal's mistakes went on falling after the pull had ended, to less than a walk through its
rooms, and the returns with them.  It is no default because it can outweigh the pull: on Instruction a layer then held
37 memories instead of its budget of 20.

The rent is charged on every live memory, not only on those on their ramp as the paper's penalty is: a span that
outlasts the episodes is never on its ramp.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ... import processes
from ...checks import check_not_negative, check_positive
from ..core import CoreOutput, LayerTrace, Record
from .attention import Reading
from .config import ExpireSpanConfig
from .span import contrast, overdue_rent, span_rent

if TYPE_CHECKING:
    from .core import ExpireSpan


@dataclass(frozen=True, kw_only=True)
class PressureConfig:
    """The pull on spans: towards a budget by default, or the paper's constant weight."""

    memory_budget: float | None = 20.0
    """Mean live memories per layer that training aims at; None for no pull.  The ramp alone holds about as many
    memories as it has steps, so a budget below the ramp is refused."""
    budget_pull: float = 0.3
    """How far an update of the policy shortens spans while a layer holds twice its budget or more, in logits of the
    span of a typical memory: 0.3 takes about a quarter off a span that is well below its maximum."""
    late_pull: float = 0.0
    """How far, in the same unit, an update lengthens spans in the second half of which a memory was used: a little
    later it would have been missed.  Needs a budget."""
    penalty_weight: float | None = None
    """The paper's constant weight (alpha) in place of the budget, which then can't be given."""

    def __post_init__(self) -> None:
        if self.memory_budget is not None:
            check_positive("memory_budget", self.memory_budget)
        check_positive("budget_pull", self.budget_pull)
        check_not_negative("late_pull", self.late_pull)
        if self.penalty_weight is not None:
            check_not_negative("penalty_weight", self.penalty_weight)
            if self.memory_budget not in (None, type(self).memory_budget):
                raise ValueError(
                    f"Expect `memory_budget` not to be given beside `penalty_weight`, actual: {self.memory_budget}"
                )
        if self.late_pull and (self.memory_budget is None or self.penalty_weight is not None):
            raise ValueError(f"Expect `late_pull` to be 0 where no memory budget is kept, actual: {self.late_pull}")

    @property
    def has_budget(self) -> bool:
        """Whether a budget, not a constant weight or nothing, decides about the spans."""
        return self.memory_budget is not None and self.penalty_weight is None


def smallest_budget(memory: ExpireSpanConfig) -> int:
    """The fewest memories that a layer holds in a long episode: each lives for the ramp at least, span or no span.

    A capacity below the ramp evicts some of them; the present step's own is beyond the capacity.
    """
    held = math.ceil(memory.ramp)
    return held if memory.capacity is None else min(held, memory.capacity + 1)


def check_budget(pressure: PressureConfig, memory: ExpireSpanConfig) -> None:
    """Raise ValueError where no span is short enough for the budget."""
    least = smallest_budget(memory)
    if pressure.memory_budget is not None and pressure.has_budget and pressure.memory_budget < least:
        raise ValueError(
            f"Expect `memory_budget` to be at least {least}, which a layer holds with a ramp of {memory.ramp:g} steps, "
            f"actual: {pressure.memory_budget:g}"
        )


PATIENCE = 0.25
"""Share of the training over which the pull comes back in a layer that had come down to its budget and now stays above
it.  At first what it holds too much comes from passing trouble of the policy, and a pull would reach the rare memories
once the common ones are gone; trouble that does not pass is a habit.  (A layer that holds little because its episodes
are short has not come down: its spans are long.)  It is also the share of the training for which the pull waits for a
memory to be used, as `COLLAPSE_GUARD` says: the task may not need any."""
COLLAPSE_GUARD = 0.25
"""While no memory is in use, the pull stops in a layer whose longest span has fallen below this share of the longest
possible: what is rare there looks like what is common, and would go with it before the task can say anything."""
ALARMING = 0.02
"""Share of the memories in use from which on those used late are lengthened with the whole strength."""
NEEDED = 0.5
"""Memories in use for each memory written from which on a layer isn't pulled: the task needs nearly all of them, so a
budget below what they are can only take from it.  (RepeatPrevious over 32 steps ended at 0.47 with the pull on 20
memories, at 0.93 without.)"""
SMOOTHING = 0.2
"""Share of the newest count of live memories in the smoothed one: a single rollout is noisy."""


@dataclass(frozen=True, kw_only=True)
class LayerFigures:
    """What one layer kept during an update of the policy."""

    live: float
    """Mean live memories."""
    used: int
    """How many memories were in use (`memory.attention.used_memories`)."""
    late: int
    """How many of these in the second half of their span."""
    written: int
    """How many memories were written."""
    longest: float
    """Its longest span, as a share of the longest possible."""
    typical: float
    """Its median span in steps."""


class SpanPressure:
    """The pull on the spans, decided anew after every policy update."""

    def __init__(self, config: PressureConfig) -> None:
        self.config = config
        self.pulls: list[float] = []
        """For each layer, in logits of a typical memory's span per update of the policy; empty where nothing pulls."""
        self._live: list[float] = []
        self._met: list[bool] = []
        self._held: list[float] = []
        """When each layer last held no more than its budget, as a share of the training."""

    @property
    def weight(self) -> float:
        """The weight of the paper's penalty in the loss."""
        return self.config.penalty_weight or 0.0

    @property
    def has_budget(self) -> bool:
        """Whether a budget, not a constant weight or nothing, decides about the spans."""
        return self.config.has_budget

    def update(self, layers: Sequence[LayerFigures], progress: float) -> None:
        """Take note of one update of the policy, `progress` being the share of the training that has passed."""
        budget = self.config.memory_budget
        if budget is None or not self.has_budget:
            return
        live = [layer.live for layer in layers]
        before = self._live or live
        self._live = [old + SMOOTHING * (new - old) for old, new in zip(before, live, strict=True)]
        short = [now <= budget and layer.typical <= budget for now, layer in zip(self._live, layers, strict=True)]
        self._met = [old or now for old, now in zip(self._met or [False] * len(live), short, strict=True)]
        held = self._held or [0.0] * len(live)
        # A share of what was the whole training then may lie in the future of a longer one.
        self._held = [
            progress if now <= budget else min(old, progress) for old, now in zip(held, self._live, strict=True)
        ]
        waits = progress < PATIENCE and not any(layer.used for layer in layers)
        pulls = [
            0.0
            if waits and layer.longest < COLLAPSE_GUARD
            else self._pull(now / budget - 1, met, progress - held) * self._spare_share(layer)
            for now, met, held, layer in zip(self._live, self._met, self._held, layers, strict=True)
        ]
        self.pulls = pulls if any(pulls) else []

    def counterpull(self, used: float, late: float) -> float:
        """How far an update lengthens the spans of a layer's memories used late, in logits as the pulls are.

        So many memories were in use in the minibatch, `late` of them in the second half of their span.
        """
        return self.config.late_pull * min(late / max(used, 1) / ALARMING, 1.0)

    def _pull(self, excess: float, met: bool, since: float) -> float:
        """In proportion to the excess over the budget, up to twice the budget.

        `since` is the share of the training that has passed since there was none.
        """
        strength = min(since / PATIENCE, 1.0) if met else 1.0
        return self.config.budget_pull * min(max(excess, 0.0), 1.0) * strength

    @staticmethod
    def _spare_share(layer: LayerFigures) -> float:
        """1 where no memory is in use, 0 where `NEEDED` of them are."""
        return max(1 - layer.used / (NEEDED * layer.written), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as JSON knows it."""
        return {"pulls": self.pulls, "live": self._live, "met": self._met, "held": self._held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, under the present configuration."""
        self._live, self._met = list(state["live"]), list(state["met"])
        self._held = list(state.get("held", ()))  # older checkpoints have none
        self.pulls = list(state["pulls"]) if self.has_budget else []


class SpanFacts(NamedTuple):
    """What the steps of a segment made of one layer's memories."""

    idle_rent: Float[Tensor, ""]
    """The rent of memories that are not in use (`span_rent`)."""
    used_rent: Float[Tensor, ""]
    """The rent of memories in use."""
    overdue: Float[Tensor, ""]
    """Up whose gradient spans get longer in the second half of which a memory was used (`overdue_rent`)."""
    counts: Float[Tensor, " 4"]
    """Steps at which memories not in use are live, and those in use; how many memories were in use (a head gave them
    at least half of its attention when they were older than the ramp); how many of these in the second half of their
    span."""

    @staticmethod
    def of(span: Float[Tensor, "B S"], reading: Reading, ramp: float) -> "SpanFacts":
        """From the spans, with gradient to what predicts them, and from what was read."""
        idle, used = reading.seen * ~reading.used, reading.seen * reading.used
        counts = (idle.sum(), used.sum(), reading.used.sum(), (reading.late > 0).sum())
        return SpanFacts(
            idle_rent=span_rent(span, idle, ramp),
            used_rent=span_rent(span, used, ramp),
            overdue=overdue_rent(span, reading.late, ramp),
            counts=torch.stack([count.to(torch.float64) for count in counts]),
        )


class SpanController(SpanPressure):
    """The pull on the spans of a core, as the training loop calls it (`memory.core.Controller`)."""

    def __init__(self, core: "ExpireSpan", config: PressureConfig) -> None:
        super().__init__(config)
        self._core = core
        core.penalty_weight = self.weight
        self._due: list[tuple[int, float, list[Tensor]]] = []
        """Layer, pull and direction of what the present minibatch moves."""
        self._traces: list[tuple[LayerTrace, ...]] = []
        self._counts: list[list[tuple[int, int]]] = []

    @property
    def budget(self) -> float | None:
        """The budget in force; None where a constant weight or nothing decides about the spans."""
        return self.config.memory_budget if self.has_budget else None

    @property
    def needs(self) -> Record:
        """The facts where spans are pulled, the penalty where it has a weight."""
        pulls = self.has_budget and (self.pulls or self.config.late_pull)
        return (Record.FACTS if pulls else Record.NOTHING) | (Record.LOSSES if self.weight else Record.NOTHING)

    def observe(self, output: CoreOutput[Any]) -> None:
        """Directions in which the minibatch moves spans, and, of the first pass, what the layers kept."""
        facts: tuple[SpanFacts, ...] = output.facts or ()
        counts = processes.total(torch.stack([layer.counts for layer in facts])).tolist() if facts else []
        self._due = []
        if self.has_budget:
            for number, (layer, (idle_steps, used_steps, used, late)) in enumerate(zip(facts, counts, strict=True)):
                if self.pulls and self.pulls[number]:
                    rent = contrast(layer.idle_rent, layer.used_rent, idle_steps, used_steps)
                    self._due.append((number, self.pulls[number], self._gradient(number, rent)))
                if counterpull := self.counterpull(used, late):
                    self._due.append((number, counterpull, self._gradient(number, -layer.overdue)))
        if output.trace is not None:
            self._traces.append(output.trace)
            self._counts.append([(int(used), int(late)) for _, _, used, late in counts])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.  Raises ValueError where it is of another number of layers."""
        for name, values in state.items():
            if len(values) not in (0, self._core.config.layers):
                raise ValueError(f"Expect `{name}` of {self._core.config.layers} layers, actual: {len(values)}")
        super().load_state_dict(state)

    def step(self, share: float) -> None:
        """Move spans by this share of the update's pull, in the directions of the minibatch observed last."""
        directions = iter(processes.totals([part for *_, gradient in self._due for part in gradient]))
        for number, pull, gradient in self._due:
            self.move_spans(number, [next(directions) for _ in gradient], pull * share)
        self._due = []

    def _gradient(self, number: int, rent: Float[Tensor, ""]) -> list[Tensor]:
        """Of a rent with respect to a layer's span weights and bias; the graph stays usable."""
        return list(torch.autograd.grad(rent, self._parameters(number), retain_graph=True))

    def _parameters(self, number: int) -> list[Tensor]:
        span = list(self._core.stack())[number].span
        return [span.weight, span.bias]

    def move_spans(self, number: int, gradient: list[Tensor], pull: float) -> None:
        """Step down this gradient so that the logit of a typical memory's span in a layer falls by about the pull.

        Layer inputs are normalised, so a step of length pull / sqrt(D + 1) along a memory's own direction does that.
        """
        config = self._core.config
        length = torch.cat([part.flatten() for part in gradient]).norm().clamp_min(1e-12)
        with torch.no_grad():
            for parameter, part in zip(self._parameters(number), gradient, strict=True):
                parameter -= pull * config.pre_div / (config.width + 1) ** 0.5 * part / length

    def end_update(self, progress: float) -> dict[str, Any]:
        """Let the pull follow what the layers kept; what they kept, and the pull of the update, as figures to log."""
        logged: dict[str, Any] = {"spans/pull": max(self.pulls, default=0.0), "spans/penalty_weight": self.weight}
        figures = []
        for number, batches in enumerate(zip(*self._traces, strict=True)):
            spans = processes.concatenated(torch.cat([layer.span.flatten() for layer in batches]))
            lives = torch.cat([layer.live.flatten() for layer in batches]).float().mean()
            evictions = torch.stack([(layer.evicted >= 0).sum() for layer in batches]).sum()
            counts = [by_layer[number] for by_layer in self._counts if by_layer]
            kept = LayerFigures(
                live=processes.mean(lives).item(),
                used=sum(used for used, _ in counts),
                late=sum(late for _, late in counts),
                written=spans.numel(),
                longest=spans.max().item() / self._core.config.max_span,
                typical=spans.median().item(),
            )
            figures.append(kept)
            name = f"layer_{number + 1}"
            logged[f"spans/used_{name}"], logged[f"spans/used_late_{name}"] = kept.used, kept.late
            logged[f"spans/mean_{name}"], logged[f"spans/max_{name}"] = spans.mean().item(), spans.max().item()
            logged[f"spans/evictions_{name}"] = int(processes.total(evictions))
            logged[f"spans/spans_{name}"] = spans.cpu()
        self._traces, self._counts = [], []
        if figures:
            self.update(figures, progress)
        return logged
