"""What is learned about a policy update while it runs, and how it is logged."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from ... import processes
from ...memory import CoreOutput, LayerTrace


class TrainingLog:
    """Collects the figures of one policy update."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._traces: list[tuple[LayerTrace, ...]] = []

    def add(self, **values: float) -> None:
        """Figures of one minibatch; a double underscore stands for the slash of a tag, as in memory__penalty."""
        for name, value in values.items():
            self._values[name.replace("__", "/")].append(value)

    def add_losses(self, policy: Tensor, value: Tensor, entropy: Tensor, loss: Tensor) -> None:
        """The terms of one gradient step's loss, those of the core apart, and the loss itself."""
        self.add(policy_gradient_loss=policy.item(), value_loss=value.item(), entropy_loss=-entropy.item())
        self.add(loss=loss.item())

    def add_core(self, output: CoreOutput[Any]) -> None:
        """What the layers kept in one minibatch, and the core's own losses, where they were recorded."""
        if output.trace is not None:
            self._traces.append(output.trace)
            for name, loss in output.losses.items():
                self._values[f"memory/{name}"].append(loss.item() / output.y[..., 0].numel())

    def record(self, logger: Logger, of_core: Mapping[str, Any]) -> None:
        """Write means of the figures over minibatches and processes, and what the core's controller says."""
        figures = {
            name if "/" in name else f"train/{name}": float(np.mean(values)) for name, values in self._values.items()
        }
        for number, batches in enumerate(zip(*self._traces, strict=True), 1):
            live = torch.cat([layer.live.flatten() for layer in batches]).float().mean().item()
            figures[f"memory/live_layer_{number}"] = live
        for name, value in processes.mean_figures(figures).items():
            logger.record(name, value)
        for name, value in of_core.items():
            histogram = isinstance(value, Tensor)
            logger.record(name, value, exclude=("stdout", "log", "json", "csv") if histogram else None)
