"""Sequence models in training that hold as many live memories as asked for, spread over a context of any length.

A window holds its last steps.  Expire-Span, ours and the dense one, holds the tokens `MARK` that come at even distances
for the whole context, and of all others only the ramp; where the context is as long as what is held, every step.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from core_cost import FIXED, STEPS, settings
from dense_expire_span import DenseConfig, DenseExpireSpan, DenseState, Stored
from expirespan.memory import CoreConfig, ExpireSpan, MemoryCore, PressureConfig, Record, core_config
from expirespan.sequences import Window
from expirespan.sequences.model import SequenceModel
from expirespan.sequences.training import SequenceConfig, SequenceTrainer, tensors
from torch import nn

VOCABULARY, MARK, RAMP = 256, 0, 16
LONG_AGO = 2**20
SPREAD = ("expire-span", "dense")
"""Cores whose memories can be further apart than a step."""


class Size(NamedTuple):
    """What is measured."""

    core: str
    width: int
    live: int
    """Memories that a step sees in each layer; 0 where a core keeps none of single steps."""
    context: int
    """Age of the oldest one; 0 as well."""

    @property
    def marks(self) -> int:
        """Marks among the last `context` tokens; 0 where all steps are kept alike."""
        return self.live - self.ramp if self.core in SPREAD and self.context > self.live else 0

    @property
    def ramp(self) -> int:
        """Steps of the ramp, which are live in any case."""
        return min(RAMP, self.live // 4)


def size(core: str, width: int, live: int, context: int | None = None) -> Size:
    """What a core of this many live memories can be measured with: only Expire-Span has a context of its own."""
    if core in FIXED:
        return Size(core, width, 0, 0)
    reach = live // 2 - 1 + 4 * (live // 2) if core == "compressive" else live
    return Size(core, width, live, context if core in SPREAD and context else reach)


def shape(of: Size, layers: int) -> CoreConfig:
    """The core's settings."""
    if of.core not in SPREAD:
        return core_config(of.core, settings(of.core, of.width, max(of.live, 2)) | {"layers": layers})
    spans = {"max_span": of.context - of.ramp, "ramp": of.ramp, "initial_span": 0.999, "position_window": STEPS}
    own = {"layers": layers, "width": of.width, "ff_width": 2 * of.width} | spans
    return DenseConfig(**own) if of.core == "dense" else core_config(of.core, own)


class Marked:
    """Random tokens without end; in every row the same ones are marks."""

    vocabulary = classes = VOCABULARY

    def __init__(self, batch_size: int, marks: int, context: int) -> None:
        self.batch_size, self.marks, self.context = batch_size, marks, max(context, 1)
        self.time, self.random = 0, np.random.default_rng(0)

    def read(self, steps: int) -> Window:
        """The next steps."""
        tokens = self.random.integers(MARK + 1, VOCABULARY, (self.batch_size, steps))
        times = np.arange(self.time, self.time + steps)
        tokens[:, times * self.marks % self.context < self.marks] = MARK
        self.time += steps
        return Window(tokens, np.roll(tokens, -1, 1), np.zeros(tokens.shape, dtype=bool))

    def state_dict(self) -> dict[str, np.ndarray]:
        """The clock."""
        return {"time": np.array(self.time)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Set the clock."""
        self.time = int(state["time"])


def predictors(core: MemoryCore[Any]) -> list[nn.Module]:
    """What predicts the spans of each layer."""
    return [layer.get_submodule("span") for layer in core.get_submodule("layers").children()]


@torch.no_grad()
def tell_apart(model: SequenceModel) -> torch.Tensor:
    """Let every layer's spans be long at marks and 0 elsewhere; the input of a mark.

    The embedding of a mark is a direction which those of other tokens lack, and all predictors look along it.
    """
    width = model.core.width
    direction = nn.functional.normalize(torch.linspace(1, -1, width), dim=0)  # its mean is 0, so a norm keeps it
    vectors = model.embedding.weight
    vectors -= (vectors @ direction).unsqueeze(1) * direction
    vectors[MARK] = direction
    for predictor in predictors(model.core):
        predictor.get_parameter("weight").copy_(20 * direction)
        predictor.get_parameter("bias").fill_(-20 * 0.3 * width**0.5)
    return model.scale * direction


def full_state(core: MemoryCore[Any], of: Size, rows: int, mark: torch.Tensor | None) -> Any:
    """The state of a core that has held so much for long; what the memories hold is random but for marks."""
    if not isinstance(core, ExpireSpan | DenseExpireSpan):
        tensors = core.initial_state(rows).tensors()
        return core.restore_state(
            {
                name: torch.randn_like(tensor) if tensor.is_floating_point() else torch.full_like(tensor, LONG_AGO)
                for name, tensor in tensors.items()
            }
        )
    held = of.marks or of.live
    hidden = torch.randn(rows, held, of.width) if mark is None else mark.repeat(rows, held, 1)
    birth, count = torch.arange(held) * of.context // held, core.config.layers
    if isinstance(core, DenseExpireSpan):
        return DenseState((Stored(hidden, of.context - birth),) * count)
    birth = birth.repeat(rows, 1)
    stored = {"hidden": hidden, "birth": birth, "live": torch.ones_like(birth, dtype=torch.bool)}
    named = {f"{number}.{name}": tensor for number in range(count) for name, tensor in stored.items()}
    return core.restore_state({"time": torch.full((rows,), of.context), **named})


def in_training(of: Size, rows: int, layers: int, device: str = "cpu") -> tuple[SequenceTrainer, float]:
    """A trainer with a full memory that neither grows nor shrinks, and the live memories that its steps see.

    Its updates are whole ones, with a step size of next to nothing, so that spans stay what they are.
    """
    torch.manual_seed(0)
    stream = Marked(rows, of.marks, of.context)
    model = SequenceModel(shape(of, layers), VOCABULARY, VOCABULARY)
    mark = tell_apart(model) if of.marks else None
    state = full_state(model.core, of, rows, mark)
    config = SequenceConfig(segment=STEPS, batch_size=rows, learning_rate=1e-12)
    trainer = SequenceTrainer(model.to(device), stream, config, PressureConfig(penalty_weight=1e-6), total=1000)
    window = tensors(stream.read(STEPS), trainer.device)
    with torch.no_grad():
        output = model(window[0], state, window[2], record=Record.STATE | Record.TRACE)[1]
    trainer.state = output.state.compact()
    live = [layer.live.float().mean().item() for layer in output.trace or ()]
    return trainer, sum(live) / len(live) if live else 0.0
