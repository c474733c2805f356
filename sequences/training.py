"""Training over streams: windows of a stream one after another, the memory carried from each to the next.

An update is one gradient step on one window of every row.  The state that goes into it is detached; keys, values and
spans of stored memories are computed anew with the present weights, with gradient (paper, section 4).

Under torch.distributed (`processes`) each of N processes reads B / N rows, and all take the same steps, those of one
process with B rows; figures are of all rows.  What is drawn from torch's generator in a pass, such as dropout, is drawn
in each process by itself.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import processes
from ..checks import check_bool, check_choice, check_not_negative, check_positive, check_whole
from ..memory import CoreConfig, ExpireSpan, Record, Trace
from ..memory.transformer import regularise, scale_by_depth
from .model import SequenceModel, negative_log_likelihood
from .streams import Stream, Window, own_rows

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How a model is trained on a stream."""

    segment: int = 128
    """Steps of each row in a window (T)."""
    batch_size: int = 16
    """Rows of the stream (B), of all processes together."""
    accumulate: int = 1
    """Windows whose gradients are added up before a step of the optimizer."""
    optimizer: str = "adam"
    """adam or adamw."""
    learning_rate: float = 1e-3
    """Step size, after the warm-up."""
    warmup: int = 100
    """Updates over which the step size rises from 0."""
    decay: bool = False
    """Let the step size fall as half a cosine to a tenth at the end."""
    weight_decay: float = 0.0
    """Of adamw."""
    max_grad_norm: float = 0.3
    """Longest gradient; longer ones are scaled down."""
    span_lr_scale: float = 1.0
    """Step size of the spans' weights, as a multiple of learning_rate."""
    embedding_dropout: float = 0.0
    """Dropout of the embedding; the core has its own of both halves of a layer."""
    attention_dropout: float = 0.0
    """Share of the weights of attention that are dropped; attention is then computed over all pairs."""
    activation_dropout: float = 0.0
    """Share of the output of the ReLU of feed-forward halves that is dropped."""
    layer_drop: float = 0.0
    """Share of the layers that a pass leaves out, of expire-span and cores with a window; their memories are written
    all the same."""
    depth_scaled: bool = False
    """Divide the first weights of what each half of N layers adds to the stream by sqrt(2 N)."""
    shared_positions: bool = False
    """Of the same cores: all heads and layers share keys of ages, drawn from N(0, 1), as in the paper's code."""
    tied: bool = False
    """Let the head's weights be the embedding's."""
    bf16: bool = False
    """Compute in bfloat16 where torch's autocast does; weights and memories stay as they are."""
    controller_every: int = 16
    """Updates between two decisions of the core's controller about its memories, which share out what is due in one:
    as many as MemoryPPO takes gradient steps on a rollout."""

    def __post_init__(self) -> None:
        for name in ("segment", "batch_size", "accumulate", "controller_every"):
            check_whole(name, getattr(self, name), at_least=1, at_most=2**20)
        check_whole("warmup", self.warmup, at_least=0)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("learning_rate", "max_grad_norm"):
            check_positive(name, getattr(self, name))
        check_not_negative("weight_decay", self.weight_decay)
        check_not_negative("span_lr_scale", self.span_lr_scale)
        for name in ("embedding_dropout", "attention_dropout", "activation_dropout", "layer_drop"):
            check_not_negative(name, getattr(self, name), below=1.0)
        for name in ("decay", "tied", "bf16", "depth_scaled", "shared_positions"):
            check_bool(name, getattr(self, name))
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"Expect `weight_decay` to come with adamw, actual: {self.weight_decay} with adam")


def make_model(core: CoreConfig, vocabulary: int, classes: int, config: SequenceConfig) -> SequenceModel:
    """A new model as a training asks for it.  Raises ValueError where its core has no such part."""
    model = SequenceModel(core, vocabulary, classes, tied=config.tied, dropout=config.embedding_dropout)
    own = model.core
    regularise(own, attention_dropout=config.attention_dropout, activation_dropout=config.activation_dropout)
    if config.depth_scaled:
        scale_by_depth(own)
    if isinstance(own, ExpireSpan):
        own.layer_drop = config.layer_drop
        if config.shared_positions:
            own.share_positions()
    elif asked := [name for name in ("layer_drop", "shared_positions") if getattr(config, name)]:
        raise ValueError(f"Expect `{asked[0]}` for expire-span or a core with a window, actual: {core.name}")
    return model


class SequenceTrainer:
    """A model, its optimizer and its place in a stream.

    `total` is the number of updates that the training is to have, which step size and controller go by.

    All processes make one together, of the whole stream, and call `update` together.  The model gets the weights of
    process 0 here, before anything can go by others.  Raises ValueError where N doesn't divide the stream's rows.
    """

    def __init__(self, model: SequenceModel, stream: Stream, config: SequenceConfig, settings: Any, total: int) -> None:
        self.model, self.stream, self.config, self.total = model, own_rows(stream), config, total
        processes.copy_first(model)
        self.controller = model.core.controller(settings)
        self.optimizer = OPTIMIZERS[config.optimizer](self._groups(), weight_decay=config.weight_decay)
        self.state = model.core.initial_state(self.stream.batch_size)
        self.updates = 0
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        """Of figures since they were last taken: their sum, and over how many it is; of all processes."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.head.weight.device

    def _groups(self) -> list[dict[str, Any]]:
        groups, special = [], set()
        for scale, parameters in self.model.core.parameter_groups():
            factor = self.config.span_lr_scale if isinstance(scale, str) else scale
            groups.append({"params": parameters, "lr_scale": factor})
            special |= {id(parameter) for parameter in parameters}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in special]
        return [{"params": rest, "lr_scale": 1.0}, *groups]

    def learning_rate(self) -> float:
        """Of the next update."""
        done, config = self.updates, self.config
        rate = config.learning_rate * min((done + 1) / max(config.warmup, 1), 1.0)
        if config.decay:
            rate *= 0.1 + 0.45 * (1 + math.cos(math.pi * min(done / self.total, 1.0)))
        return rate

    def update(self) -> None:
        """One step of the optimizer.  Raises FloatingPointError, before any weight changes, where it isn't finite."""
        self.model.train()
        config, last = self.config, (self.updates + 1) % self.config.controller_every == 0
        for _ in range(config.accumulate):
            self._add_gradient(last)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        processes.average_gradients(parameters)
        length = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        if not length.isfinite():
            raise FloatingPointError(f"Expect finite gradients, actual: {length.item()} after {self.updates:,} updates")
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        self._add("train/grad_norm", length.item())
        if self.controller is not None:
            self.controller.step(1 / config.controller_every)
            if last:
                for name, value in self.controller.end_update(self.updates / self.total).items():
                    if not isinstance(value, Tensor):
                        self.sums[name] = [float(value), 1.0]

    def _add_gradient(self, traced: bool) -> None:
        """Of the loss on the next window; with what the layers kept where the controller decides next."""
        config, core = self.config, self.model.core
        tokens, targets, resets = tensors(self.stream.read(config.segment), self.device)
        needs = Record.NOTHING if self.controller is None else self.controller.needs
        record = Record.STATE | Record.LOSSES | needs | (Record.TRACE if traced else Record.NOTHING)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            scores, output = self.model(tokens, core.refresh(self.state), resets, record=record)
        if self.controller is not None:
            self.controller.observe(output)
        loss, scored, wrong = negative_log_likelihood(scores, targets)
        per_step = {name: term / targets.numel() for name, term in output.losses.items()}
        lives = mean_live(output.trace)
        own = [scored, loss.item(), wrong, *(term.item() for term in per_step.values()), *lives]
        scored, loss_of_all, wrong, *sums = processes.total(torch.tensor(own, dtype=torch.float64)).tolist()
        mean = loss / (max(scored, 1) / processes.count())  # the mean over processes is then over all scored steps
        for name, term in per_step.items():
            mean = mean + core.loss_weights.get(name, 1.0) * term
        (mean / config.accumulate).backward()
        self.state = output.state.compact()  # what has expired takes no place in later windows
        self._add("train/loss", loss_of_all, scored)
        self._add("train/error", wrong, scored)
        # Of means, not of sums: of a checkpoint, the number of processes may change before they are taken.
        names = [*per_step, *(f"live_layer_{number}" for number in range(1, len(lives) + 1))]
        for name, value in zip(names, sums, strict=True):
            self._add(f"memory/{name}", value / processes.count())

    def _add(self, name: str, value: float, count: float = 1.0) -> None:
        total = self.sums[name]
        total[0] += value
        total[1] += count

    def take_figures(self) -> dict[str, float]:
        """Means of the figures since they were last taken; the loss in nats a scored step."""
        figures = {name: total / count for name, (total, count) in self.sums.items() if count}
        self.sums.clear()
        return figures | {"train/learning_rate": self.learning_rate()}


def tensors(window: Window, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets and resets of a window on a device."""
    tokens, targets, resets = (torch.from_numpy(part).to(device) for part in window)
    return tokens, targets, resets


def mean_live(trace: Trace | None) -> list[float]:
    """Mean live memories of each layer."""
    return [layer.live.float().mean().item() for layer in trace or ()]


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a stream."""

    loss: float
    """Mean negative log-likelihood in nats a scored step; NaN where none is."""
    error: float
    """Share of scored steps at which the likeliest class was another; NaN where none is."""
    scored: int
    steps: int
    """Steps read, all rows together."""
    live: list[float]
    """Mean live memories of each layer."""

    @property
    def bits(self) -> float:
        """The loss in bits: bits per character of text."""
        return self.loss / math.log(2)


class Evaluator:
    """Reads on in a stream that isn't trained on, the memory carried from one evaluation to the next.

    A beginning with an empty memory in the midst of an episode would be an error of the evaluation, not of the model.

    All processes make one together, of the whole stream, and call `read` together.  Raises ValueError where N doesn't
    divide the stream's rows.
    """

    def __init__(self, model: SequenceModel, stream: Any, segment: int) -> None:
        self.model, self.stream, self.segment = model, own_rows(stream), segment
        self.state = model.core.initial_state(self.stream.batch_size)

    @torch.no_grad()
    def read(self, windows: int | None = None) -> Evaluation:
        """What the model makes of the next windows, or of all that is left of a stream that ends (`Text` as a whole).

        Dropout and random shortening are off.
        """
        model, stream, segment = self.model, self.stream, self.segment
        training, device = model.training, model.head.weight.device
        model.eval()
        state, done = model.core.refresh(self.state), 0
        loss, scored, wrong, steps, live = 0.0, 0, 0, 0, []
        while done < windows if windows is not None else not stream.ended:
            tokens, targets, resets = tensors(stream.read(segment), device)
            scores, output = model(tokens, state, resets, record=Record.STATE | Record.TRACE)
            state, done = output.state.compact(), done + 1
            found = negative_log_likelihood(scores, targets)
            loss, scored, wrong, steps = loss + found[0].item(), scored + found[1], wrong + found[2], steps + segment
            kept = mean_live(output.trace)
            live = [total + segment * now for total, now in zip(live or [0.0] * len(kept), kept, strict=True)]
        self.state = state
        model.train(training)
        own = torch.tensor([loss, scored, wrong, *live], dtype=torch.float64)
        loss, scored, wrong, *live = processes.total(own).tolist()
        kept = [total / max(steps, 1) / processes.count() for total in live]
        count = scored or math.nan
        return Evaluation(loss / count, wrong / count, int(scored), steps * stream.batch_size * processes.count(), kept)


def evaluate(model: SequenceModel, stream: Any, segment: int, windows: int | None = None) -> Evaluation:
    """What a model with an empty memory makes of the next windows of a stream (`Evaluator.read`)."""
    return Evaluator(model, stream, segment).read(windows)
