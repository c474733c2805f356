"""The laws of every core, and that each is broken by a core that breaks it."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from expirespan.memory import (
    CORES,
    AdaptiveSpanConfig,
    CompressiveConfig,
    CoreConfig,
    CoreOutput,
    ExpireSpanConfig,
    GatedDeltaNetConfig,
    GTrXLConfig,
    LayerTrace,
    LSTMConfig,
    MemoryCore,
    MinGRUConfig,
    Record,
    TensorState,
    TransformerXLConfig,
    core_config,
    laws,
    register,
)
from expirespan.memory.core import next_time
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
SMALL: dict[str, CoreConfig] = {
    "expire-span": ExpireSpanConfig(width=8, heads=2, ff_width=9, max_span=12.0, ramp=3.0, position_window=5),
    "transformer-xl": TransformerXLConfig(width=8, heads=2, ff_width=9, window=5),
    "transformer-xl without memory": TransformerXLConfig(width=8, heads=2, ff_width=9, window=0),
    "transformer-xl with a window beyond the segment": TransformerXLConfig(width=8, heads=2, ff_width=9, window=40),
    "gtrxl": GTrXLConfig(width=8, heads=2, ff_width=9, window=5),
    "adaptive-span": AdaptiveSpanConfig(width=8, heads=2, ff_width=9, window=9, ramp=3.0, initial_span=0.4),
    "adaptive-span that sees the whole window": AdaptiveSpanConfig(width=8, heads=2, ff_width=9, window=5),
    "compressive": CompressiveConfig(width=8, heads=2, ff_width=9, window=3, compressed=2, rate=3),
    "compressive that never forgets": CompressiveConfig(width=8, heads=2, ff_width=9, window=0, compressed=40, rate=2),
    "compressive by single steps": CompressiveConfig(width=8, heads=2, ff_width=9, window=2, compressed=3, rate=1),
    "lstm": LSTMConfig(width=8),
    "lstm of two layers": LSTMConfig(width=8, layers=2),
    "gru": core_config("gru", {"width": 8}),
    "min-gru": MinGRUConfig(width=8, ff_width=9),
    "gated-delta-net": GatedDeltaNetConfig(width=8, heads=2, ff_width=9),
    "gated-delta-net without a convolution": GatedDeltaNetConfig(width=8, heads=2, ff_width=9, convolution=1),
    "none": core_config("none", {"width": 8, "ff_width": 9}),
}


@pytest.mark.parametrize("config", SMALL.values(), ids=list(SMALL))
def test_every_core_obeys_the_laws(config: CoreConfig) -> None:
    torch.manual_seed(0)
    laws.check_core(config.build())


def test_every_core_is_among_those_tested() -> None:
    assert set(CORES) <= {*SMALL}


@dataclass(frozen=True, kw_only=True)
class Mean(TensorState):
    """The sum of what was seen, and how much it was."""

    total: Tensor
    count: Tensor


class MeanCore(MemoryCore[Mean]):
    """A user's core: the mean of all inputs of the episode; faults can be put in by name."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.width, self.fault = 6, fault
        self.mix = nn.Linear(12, 6)

    def initial_state(self, batch_size: int) -> Mean:
        like = self.mix.weight
        return Mean(total=like.new_zeros(batch_size, 6), count=like.new_zeros(batch_size, 1))

    def forward(self, x: Tensor, state: Mean, resets: Tensor, *, record: Record = Record.STATE) -> CoreOutput[Mean]:
        total, count, read = state.total, state.count, []
        for step in range(x.shape[1]):
            reset = resets[:, max(step - 1, 0) if self.fault == "reset late" else step, None]
            total = total.masked_fill(reset, 0) + x[:, step]
            count = count.masked_fill(reset, 0) + 1
            if self.fault == "rows mixed":
                total = total + 0.1 * total.roll(1, 0)
            read.append(total / count)
        mean = torch.stack(read, 1)
        if self.fault == "segment average":
            mean = mean - mean.mean(1, keepdim=True)
        y = x + self.mix(torch.cat([x, mean], -1))
        if self.fault == "another with a trace" and Record.TRACE in record:
            y = y + 0.1
        after = Mean(total=total if self.fault == "no detach" else total.detach(), count=count)
        if self.fault == "clock lost":
            after = replace(after, count=torch.ones_like(count))
        if self.fault == "stale state" and Record.STATE not in record:
            after = state
        return CoreOutput(y=y, state=after)


FAULTS = {
    "reset late": "reset|at once",
    "rows mixed": "company|split|acting",
    "segment average": "at once|acting",
    "another with a trace": "whatever is recorded|acting",
    "stale state": "the state after the segment where none was asked for",
    "no detach": "no gradient to go back",
    "clock lost": "at once|acting",
}


def test_a_users_core_obeys_the_laws() -> None:
    laws.check_core(MeanCore())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_core_with_a_fault_is_found(fault: str) -> None:
    with pytest.raises(laws.BrokenLaw, match=FAULTS[fault]):
        laws.check_core(MeanCore(fault))


@dataclass(frozen=True, kw_only=True)
class Timed(Mean):
    """With a clock."""

    time: Tensor


class TimedCore(MeanCore):
    """Counts the steps of a segment, whatever is reset in it, or what `fault` doesn't spoil."""

    def initial_state(self, batch_size: int) -> Mean:
        mean = super().initial_state(batch_size)
        return Timed(total=mean.total, count=mean.count, time=torch.zeros(batch_size, dtype=torch.int64))

    def forward(self, x: Tensor, state: Mean, resets: Tensor, *, record: Record = Record.STATE) -> CoreOutput[Mean]:
        output = super().forward(x, state, resets, record=record)
        assert isinstance(state, Timed) and output.state is not None
        time = next_time(state.time, resets) if not self.fault else state.time + x.shape[1]
        return replace(output, state=Timed(total=output.state.total, count=output.state.count, time=time))


def test_a_clock_that_goes_on_after_a_reset_is_found() -> None:
    laws.check_core(TimedCore())
    with pytest.raises(laws.BrokenLaw, match=r"Expect `time` to count the steps of the episode, actual: \["):
        laws.check_core(TimedCore("no resets"))


class StaleKeys(MeanCore):
    """Makes something else of a state than what is restored."""

    def refresh(self, state: Mean) -> Mean:
        return replace(state, total=state.total * self.mix.weight.sum())


def test_a_refresh_that_is_not_what_is_restored_is_found() -> None:
    with pytest.raises(laws.BrokenLaw, match="`refresh`"):
        laws.a_refreshed_state_follows_the_weights(StaleKeys())


@pytest.mark.parametrize("fault", ["reset late", "rows mixed", "segment average", "no detach"])
def test_each_fault_breaks_the_law_that_names_it(fault: str) -> None:
    law = {
        "reset late": laws.nothing_is_seen_past_a_reset,
        "rows mixed": laws.rows_are_independent,
        "segment average": laws.any_split_is_the_same,
        "no detach": laws.gradients_are_finite_and_end_at_the_segment,
    }[fault]
    core = MeanCore(fault).double()
    with pytest.raises(laws.BrokenLaw):
        law(core)


class Traced(MeanCore):
    """Tells of memories that live for three steps, while the mean is of all."""

    keeps_memories = True
    kept = 3

    def forward(self, x: Tensor, state: Mean, resets: Tensor, *, record: Record = Record.STATE) -> CoreOutput[Mean]:
        output = super().forward(x, state, resets, record=record)
        like = torch.zeros(x.shape[:2], dtype=torch.int64)
        layer = LayerTrace(
            span=like.double(), lifetime=like + self.kept, live=like + self.kept, evicted=like - 1, attention=None
        )
        return replace(output, trace=(layer,) if Record.TRACE in record else None)


def test_a_memory_that_is_seen_after_its_lifetime_is_found() -> None:
    with pytest.raises(laws.BrokenLaw, match="an input of step 3 not to matter from step 9 on"):
        laws.what_has_expired_is_not_seen(Traced().double())


@dataclass(frozen=True, kw_only=True)
class Hoard(Mean):
    """Everything that was ever seen, as well."""

    seen: Tensor


class Hoarding(Traced):
    """Stores all inputs of the episode, whatever it tells."""

    def initial_state(self, batch_size: int) -> Hoard:
        mean = super().initial_state(batch_size)
        return Hoard(total=mean.total, count=mean.count, seen=mean.total.new_zeros(batch_size, 0, 6))

    def forward(self, x: Tensor, state: Mean, resets: Tensor, *, record: Record = Record.STATE) -> CoreOutput[Mean]:
        assert isinstance(state, Hoard)
        output = super().forward(x, state, resets, record=record)
        assert output.state is not None
        seen = torch.cat([state.seen, x.detach()], 1)
        return replace(output, state=Hoard(total=output.state.total, count=output.state.count, seen=seen))


def test_a_state_that_grows_with_the_episode_is_found() -> None:
    with pytest.raises(laws.BrokenLaw, match="no more numbers stored for each live memory late in an episode"):
        laws.what_is_stored_follows_what_is_live(Hoarding().double())


def test_unknown_cores_and_settings_are_named_with_what_may_have_been_meant() -> None:
    with pytest.raises(ValueError, match=r"Expect `core` to be one of .*actual: 'lsmt'; did you mean 'lstm'"):
        core_config("lsmt")
    with pytest.raises(TypeError, match="`memory` for lstm, actual: `widht`; did you mean `width`"):
        core_config("lstm", {"widht": 3})
    with pytest.raises(ValueError, match="Expect `memory` to be settings of gru"):
        core_config("gru", LSTMConfig())
    with pytest.raises(ValueError, match="Expect `window` to be at least 0, actual: -1"):
        TransformerXLConfig(window=-1)


def test_a_name_is_given_once() -> None:
    class Other(CoreConfig):
        name: ClassVar[str] = "lstm"

        def build(self) -> MemoryCore[Any]:
            raise NotImplementedError

    with pytest.raises(ValueError, match="Expect `name` to be that of no other core, actual: lstm"):
        register(Other)


def test_the_example_of_the_docs_is_a_core_and_trains() -> None:
    """Docs/cores.md: a user's core in under 60 lines."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "cores.md").read_text(), re.DOTALL)
    assert len(block.splitlines()) < 60 and "learn(2_000)" in block
    try:
        exec(block.replace("learn(2_000)", "learn(200)"), {"__name__": "example"})
    finally:
        CORES.pop("averages", None)
