"""Sequence training by two processes: the same as by one with all rows; checkpoints go on in either."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expirespan import processes
from expirespan.agents.checkpoint.file import prefixed
from expirespan.memory import ExpireSpanConfig, PressureConfig
from expirespan.memory.recurrent import LSTMConfig
from expirespan.sequences import Copy, CopyConfig, Text, TextConfig
from expirespan.sequences.checkpoint import of_process, own_state, restore, write
from expirespan.sequences.streams import OwnRows, own_rows
from expirespan.sequences.training import Evaluator, SequenceConfig, SequenceTrainer, make_model
from torch import distributed, nn
from torch.multiprocessing.spawn import start_processes

ROWS = 4
MEMORIES = ExpireSpanConfig(width=8, heads=2, ff_width=8, max_span=20.0, ramp=3.0)
PENALTY, NO_PULL = PressureConfig(penalty_weight=0.1), PressureConfig(memory_budget=None)
CASES: dict[str, tuple[Any, PressureConfig, dict[str, Any]]] = {
    "text": (MEMORIES, PENALTY, {}),
    "copy": (MEMORIES, PENALTY, {"accumulate": 2}),
    "lstm": (LSTMConfig(width=8), NO_PULL, {"accumulate": 2}),
    "budget": (MEMORIES, PressureConfig(memory_budget=4.0), {"controller_every": 1}),
    "drawn": (MEMORIES, PENALTY, {"embedding_dropout": 0.2, "attention_dropout": 0.2, "layer_drop": 0.5, "bf16": True}),
}
"""Core, pull and learning; "text" is of text, the others copy, where rows differ in scored steps."""
SAME = ["text", "copy", "lstm", "budget"]


def made(case: str, folder: Path) -> tuple[SequenceTrainer, Evaluator]:
    """A training whose weights are drawn anew in each process.

    It is of float64, as Adam enlarges what differs by rounding, unless bfloat16 is asked for.
    """
    core, pressure, options = CASES[case]
    torch.manual_seed(processes.rank())
    if case == "text":
        config = TextConfig(path=str(folder / "text"), separator=ord("."))
        learned = Text(config, batch_size=ROWS)
        read = Text(config, batch_size=ROWS, split="valid", whole=True)
    else:
        config = CopyConfig(length=2, distractors=9, symbols=4)
        learned, read = (Copy(config, batch_size=ROWS, seed=seed) for seed in (0, 1))
    learning = SequenceConfig(segment=7, batch_size=ROWS, learning_rate=1e-2, warmup=1, **options)
    model = make_model(core, learned.vocabulary, learned.classes, learning).to(
        torch.float32 if learning.bf16 else torch.float64
    )
    trainer = SequenceTrainer(model, learned, learning, pressure, 4)
    return trainer, Evaluator(model, read, 7)


def outcome(case: str, folder: Path, go_on_from: Path | None = None) -> dict[str, Any]:
    """What four updates and two evaluations end with; of the first two and one, a checkpoint is written or read."""
    trainer, evaluator = made(case, folder)
    if go_on_from is None:
        for _ in range(2):
            trainer.update()
        evaluator.read(2)
        write(folder / f"{case}-{processes.count()}", trainer, evaluator)
    else:
        restore(go_on_from, trainer, evaluator)
    for _ in range(2):
        trainer.update()
    found = asdict(evaluator.read(None if case == "text" else 3))
    return {
        "weights": trainer.model.state_dict(),
        "figures": trainer.take_figures() | {"live": found.pop("live")} | found,
        "state": trainer.state.tensors(),
        "stream": {name: array.tolist() for name, array in trainer.stream.state_dict().items()},
    }


def train_in_one_of_two(rank: int, folder: Path) -> None:
    """A process: all cases from the beginning, and on from its checkpoint and from that of one process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for case in CASES:
        found[case] = outcome(case, folder)
        for count in (1, 2):
            found[f"{case} from {count}"] = outcome(case, folder, folder / f"{case}-{count}")
    try:
        write(folder / "nowhere" / "checkpoint", *made("lstm", folder))
    except OSError as error:
        found["refused"] = str(error)
    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    weights[0].grad = torch.tensor([1.0, 3.0]) * (rank + 1)
    weights[1].grad = torch.tensor([5.0, 7.0]) if rank else None
    processes.average_gradients(weights)
    found["gradients"] = [weight.grad for weight in weights]
    torch.save(found, folder / f"found-{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what one process and each of two found."""
    made = tmp_path_factory.mktemp("processes")
    (made / "text").write_bytes(b"the quick brown fox. jumps over the lazy dog. " * 50)
    torch.save({case: outcome(case, made) for case in CASES}, made / "found")
    command = [sys.executable, __file__, str(made)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr
    return made


@pytest.fixture
def one(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "found")


@pytest.fixture
def two(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"found-{rank}") for rank in range(2)]


def check_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found["figures"], expected["figures"], rtol=1e-6, atol=1e-9)  # they are of float32
    assert found["stream"] == expected["stream"]


@pytest.mark.parametrize("case", SAME)
def test_two_processes_train_as_one_with_all_rows(case: str, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for found in two:
        check_same(found[case], one[case])
    rows = len(next(iter(two[0][case]["state"].values())))
    assert 2 * rows == len(next(iter(one[case]["state"].values()))) == ROWS


@pytest.mark.parametrize("case", [*SAME, "drawn"])
def test_as_many_processes_go_on_to_the_bit(case: str, two: list[dict[str, Any]]) -> None:
    for found in two:
        torch.testing.assert_close(found[f"{case} from 2"], found[case], rtol=0, atol=0)
        for name in ("weights", "figures"):
            torch.testing.assert_close(found[case][name], two[0][case][name], rtol=0, atol=0)


@pytest.mark.parametrize("case", SAME)
def test_another_number_of_processes_goes_on(
    case: str, folder: Path, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    check_same(outcome(case, folder, folder / f"{case}-2"), one[case])
    for found in two:
        check_same(found[f"{case} from 1"], one[case])


def test_a_checkpoint_that_cannot_be_written_is_told_in_every_process(two: list[dict[str, Any]]) -> None:
    assert "could not be written" in two[0]["refused"]
    assert two[0]["refused"] == two[1]["refused"]


def test_a_gradient_that_one_process_lacks_counts_as_0(two: list[dict[str, Any]]) -> None:
    for found in two:
        first, second, third = found["gradients"]
        assert (first.tolist(), second.tolist(), third) == ([1.5, 4.5], [2.5, 3.5], None)


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Let this be a process of this number among so many."""

    def set_number(rank: int, count: int) -> None:
        monkeypatch.setattr(processes, "rank", lambda: rank)
        monkeypatch.setattr(processes, "count", lambda: count)

    return set_number


def test_processes_share_out_the_rows_of_a_stream(as_process: Callable[[int, int], None]) -> None:
    whole = Copy(CopyConfig(length=2, distractors=9, symbols=4), batch_size=6)
    assert own_rows(whole) is whole
    parts = []
    for rank in range(3):
        as_process(rank, 3)
        part = own_rows(Copy(CopyConfig(length=2, distractors=9, symbols=4), batch_size=6))
        assert (part.batch_size, part.vocabulary, part.classes) == (2, whole.vocabulary, whole.classes)
        parts.append(part.read(29))
    for own, every in zip(zip(*parts, strict=True), whole.read(29), strict=True):
        assert np.array_equal(np.concatenate(own), every)
    with pytest.raises(ValueError, match="Expect `batch_size` to be a multiple of the 3 processes, actual: 4"):
        OwnRows(Copy(CopyConfig(), batch_size=4))


def test_a_process_finds_its_memories_in_their_slots(as_process: Callable[[int, int], None]) -> None:
    core, tensors, parts = MEMORIES.build(), {"random": torch.zeros(1), "random 1": torch.zeros(1)}, []
    for number, rows in enumerate(([[1, 0, 1], [1, 1, 1]], [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])):
        live = torch.tensor(rows).bool()
        part = {"time": torch.full((2,), 9)}
        for layer in range(MEMORIES.layers):
            part |= {
                f"{layer}.hidden": torch.rand(*live.shape, 8),
                f"{layer}.birth": live.cumsum(1),
                f"{layer}.live": live,
            }
        parts.append(part)
        tensors |= prefixed(of_process("memory", number), part)
    for rank in range(2):
        as_process(rank, 2)
        torch.testing.assert_close(own_state(core, "memory", tensors, 2).tensors(), parts[rank], rtol=0, atol=0)
    for rank, slots in enumerate((2, 3, 5, 3)):
        as_process(rank, 4)
        state = own_state(core, "memory", tensors, 1)
        assert state.layers[0].hidden.shape == (1, slots, 8) and state.layers[0].live.all()
    with pytest.raises(ValueError, match="Expect memories of 8 rows, actual: 4"):
        own_state(core, "memory", tensors, 2)


if __name__ == "__main__":  # forked, so that what takes long to import is imported once, for an optimizer too
    torch.optim.Adam([nn.Parameter(torch.ones(1))])
    start_processes(train_in_one_of_two, (Path(sys.argv[1]),), nprocs=2, start_method="fork")
