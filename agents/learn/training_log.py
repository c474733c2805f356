"""What is learned about a policy update while it runs, and how it is logged."""

from collections import defaultdict

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from ...memory import LayerTrace, Spared
from ...memory.expire_span.budget import LayerFigures
from ..policy import SequenceEvaluation


class TrainingLog:
    """Collects the figures of one policy update."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._traces: list[tuple[LayerTrace, ...]] = []
        self._spared: list[Spared] = []

    def add(self, **values: float) -> None:
        """Figures of one minibatch; a double underscore stands for the slash of a tag, as in spans__penalty."""
        for name, value in values.items():
            self._values[name.replace("__", "/")].append(value)

    def add_losses(self, policy: Tensor, value: Tensor, entropy: Tensor, loss: Tensor) -> None:
        """The terms of one gradient step's loss, the memory penalty apart, and the loss itself."""
        self.add(policy_gradient_loss=policy.item(), value_loss=value.item(), entropy_loss=-entropy.item())
        self.add(loss=loss.item())

    def add_memory(self, now: SequenceEvaluation) -> None:
        """What the layers kept in one minibatch, its penalty, and which memories were in use, where traced."""
        if now.trace is not None:
            self._traces.append(now.trace)
            self.add(spans__penalty=now.penalty.item() / now.values.numel())
            if now.spared is not None:
                self._spared.append(now.spared)

    def figures(self, max_span: float) -> list[LayerFigures]:
        """What each layer kept over the recorded steps."""
        used = self._counts([spared.used for spared in self._spared])
        late = self._counts([spared.late for spared in self._spared])
        layers = []
        for number, batches in enumerate(zip(*self._traces, strict=True)):
            spans = torch.cat([layer.span.flatten() for layer in batches])
            layers.append(
                LayerFigures(
                    live=torch.cat([layer.live.flatten() for layer in batches]).float().mean().item(),
                    used=used[number],
                    late=late[number],
                    written=spans.numel(),
                    longest=spans.max().item() / max_span,
                    typical=spans.median().item(),
                )
            )
        return layers

    def _counts(self, batches: list[tuple[int, ...]]) -> list[int]:
        """Sums by layer."""
        return [sum(counts) for counts in zip(*batches, strict=True)] or [0] * len(self._traces[0])

    def record(self, logger: Logger, figures: list[LayerFigures]) -> None:
        """Write means of the figures, and for each layer live and used memories, spans and evictions."""
        for name, values in self._values.items():
            logger.record(name if "/" in name else f"train/{name}", float(np.mean(values)))
        layers = zip(zip(*self._traces, strict=True), figures, strict=True)
        for number, (batches, kept) in enumerate(layers, 1):
            spans = torch.cat([layer.span.flatten() for layer in batches])
            evictions = sum(int((layer.evicted >= 0).sum()) for layer in batches)
            logger.record(f"memory/live_layer_{number}", kept.live)
            if self._spared:  # counted only where a budget is kept
                logger.record(f"spans/used_layer_{number}", kept.used)
                logger.record(f"spans/used_late_layer_{number}", kept.late)
            logger.record(f"spans/mean_layer_{number}", spans.mean().item())
            logger.record(f"spans/max_layer_{number}", spans.max().item())
            logger.record(f"spans/evictions_layer_{number}", evictions)
            logger.record(f"spans/spans_layer_{number}", spans.cpu(), exclude=("stdout", "log", "json", "csv"))
