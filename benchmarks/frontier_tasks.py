"""What benchmarks/memory_frontier.py compares cores on: how a run is trained, scored and timed, and at which sizes."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import split
from statistics import mean, median
from typing import Any, Protocol

import torch
from expirespan.agents.vec_env import as_vec_env
from expirespan.cli.config import EVALUATION_SEED, read_run
from expirespan.cli.evaluate_sequence import load as load_sequence_model
from expirespan.cli.run_folder import CONFIGURATION
from expirespan.cli.sequence_config import CHECKPOINT, make_stream, parse, to_json
from expirespan.cli.sequence_config import read_run as read_sequence_run
from expirespan.envs import make_batched
from expirespan.memory import State
from expirespan.sequences.checkpoint import read as read_checkpoint
from expirespan.sequences.training import tensors
from expirespan.train_agent import load_model
from results import SCORES, Row, call, finish, task_of, train

ACTED = 300
"""Steps acted to measure an agent's state and its cost."""
WINDOWS = 20
"""Windows read to measure a sequence model's."""
Sizes = Mapping[str, tuple[str, ...]]
"""The options of each core that are compared."""


class Task(Protocol):
    """A task, and how a core is trained and measured on it."""

    @property
    def sizes(self) -> Sizes:
        """Options of the cores."""
        ...

    @property
    def least_is_best(self) -> bool:
        """Whether the worst score is the highest."""
        ...

    def train(self, core: str, setting: str, seed: int, run: Path) -> dict[str, float]:
        """Train, or what is left of it: `minutes` and `steps`."""
        ...

    def evaluate(self, run: Path) -> dict[str, Any]:
        """`score`, `beyond` (the score on a longer task, where there is one), `live`, the mean over layers, `most`."""
        ...

    def acted(self, run: Path) -> tuple[float, float]:
        """Mean bytes of one row's state, and the median of the milliseconds of a step."""
        ...


def state_bytes(state: State) -> int:
    """Bytes of what a state's tensors hold."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.compact().tensors().values())


@dataclass(frozen=True, kw_only=True)
class AgentTask:
    """An environment; agents by `expirespan-train`, evaluated with sampled actions."""

    arguments: str
    sizes: Sizes
    least_is_best: bool = False

    def train(self, core: str, setting: str, seed: int, run: Path) -> dict[str, float]:
        """See `Task`."""
        row = Row(agent=core, arguments=f"{self.arguments} --core {core} {setting} --timeline-every 0")
        return train(row, seed, run)

    def evaluate(self, run: Path) -> dict[str, Any]:
        """See `Task`."""
        file = run / "evaluation.json"
        call("expirespan-evaluate", str(run), "--sample", "--json", str(file))
        figures = json.loads(file.read_text())
        name, layers = SCORES[task_of(figures["env"])], figures["layers"]
        return {
            "score": figures[name]["mean"] if name in figures else figures["outcomes"][name],
            "beyond": "",
            "live": mean(layer["live_mean"] for layer in layers) if layers else "",
            "most": max(layer["live_max"] for layer in layers) if layers else "",
        }

    def acted(self, run: Path) -> tuple[float, float]:
        """See `Task`; steps of one environment."""
        torch.set_num_threads(1)
        policy = load_model(run).policy
        policy.set_training_mode(False)
        env = as_vec_env(make_batched(read_run(run).env, 1))
        env.seed(EVALUATION_SEED)
        torch.manual_seed(EVALUATION_SEED)
        obs, state, start = torch.as_tensor(env.reset()), policy.initial_state(1), torch.tensor([True])
        sizes, spent = [], []
        with torch.no_grad():
            for _ in range(ACTED):
                begun = time.perf_counter()
                actions, _, _, state = policy(obs, state, start)
                spent.append((time.perf_counter() - begun) * 1e3)
                sizes.append(state_bytes(state))
                obs, _, done, _ = env.step(actions.numpy())
                obs, start = torch.as_tensor(obs), torch.as_tensor(done)
        env.close()
        return mean(sizes), median(spent)


@dataclass(frozen=True, kw_only=True)
class SequenceTask:
    """A stream of tokens; models by `expirespan-train-sequence`, evaluated on its test split with carried memory."""

    arguments: str
    sizes: Sizes
    evaluation: str = ""
    """Arguments of expirespan-evaluate."""
    beyond: str = ""
    """The same of a second evaluation, on a longer task than that of the training."""
    least_is_best: bool = False
    """The score is bits a character; otherwise it is the share of right answers."""

    def train(self, core: str, setting: str, seed: int, run: Path) -> dict[str, float]:
        """See `Task`."""
        arguments = f"{self.arguments} --core {core} {setting} --seed {seed} --evaluate-every 0".split()
        wanted = parse([*arguments, "--out", str(run)])

        def left() -> bool:
            file = run / CHECKPOINT
            return not file.is_file() or read_checkpoint(file)[1].updates < wanted.updates

        same = not (run / CONFIGURATION).is_file() or to_json(read_sequence_run(run)) == to_json(wanted)
        minutes = finish("expirespan-train-sequence", arguments, run, same, left)
        learning = wanted.learning
        steps = wanted.updates * learning.accumulate * learning.batch_size * learning.segment
        return {"minutes": minutes, "steps": steps}

    def evaluate(self, run: Path) -> dict[str, Any]:
        """See `Task`."""
        found = self._figures(run, self.evaluation)
        return {
            "score": self._score(found),
            "beyond": self._score(self._figures(run, self.beyond)) if self.beyond else "",
            "live": mean(found["live"]) if found["live"] else "",
            "most": "",
        }

    def _figures(self, run: Path, arguments: str) -> dict[str, Any]:
        file = run / "evaluation.json"
        call("expirespan-evaluate", str(run), *split(arguments), "--json", str(file))
        return json.loads(file.read_text())

    def _score(self, figures: dict[str, Any]) -> float:
        return figures["loss"] / math.log(2) if self.least_is_best else 1 - figures["error"]

    def acted(self, run: Path) -> tuple[float, float]:
        """See `Task`; the share of a step in a window of one row."""
        torch.set_num_threads(1)
        config = read_sequence_run(run)
        model, *_ = load_sequence_model(run, config, "cpu")
        segment = config.learning.segment
        stream = make_stream(replace(config, learning=replace(config.learning, batch_size=1)), "test")
        state, sizes, spent = model.core.initial_state(1), [], []
        with torch.no_grad():
            for _ in range(WINDOWS):
                tokens, _, resets = tensors(stream.read(segment), torch.device("cpu"))
                begun = time.perf_counter()
                _, output = model(tokens, state, resets)
                spent.append((time.perf_counter() - begun) * 1e3 / segment)
                assert output.state is not None  # it was asked for
                state = output.state.compact()
                sizes.append(state_bytes(state))
        return mean(sizes), median(spent)


FIXED = ("lstm", "gru", "min-gru", "gated-delta-net")


def windows(*sizes: int) -> dict[str, tuple[str, ...]]:
    """The cores with a window, at these sizes; of the Compressive Transformer half of it in blocks of 4 steps."""
    blocks = tuple(f"--window {size // 2} --compressed {max(size // 8, 1)} --rate 4" for size in sizes)
    plain = tuple(f"--window {size}" for size in sizes)
    return {"transformer-xl": plain, "gtrxl": plain, "adaptive-span": plain, "compressive": blocks}


def options(name: str, *values: float, rest: str = "") -> tuple[str, ...]:
    """One option at several values, and others."""
    return tuple(f"--{name} {value:g}{rest}" for value in values)


CORRIDOR: Sizes = {
    "expire-span": ("--memory-budget 8 --ramp 4", "--memory-budget 20", "--memory-budget 40"),
    "transformer-xl": ("--window 20", "--window 40", "--window 200"),
    "compressive": ("--window 10 --compressed 10 --rate 4", "--window 20 --compressed 45 --rate 4"),
    "adaptive-span": ("--window 200 --span-penalty 1e-3", "--window 200 --span-penalty 1e-4"),
    "gtrxl": ("--window 40", "--window 200"),
    **dict.fromkeys((*FIXED, "none"), ("--width 64",)),
}
"""20 memories is the default budget, 200 steps the longest corridor."""
EPISODES: Sizes = {
    "expire-span": options("memory-budget", 8, 16, 32, 64, rest=" --ramp 4"),
    **windows(16, 64, 128, 256),
    **dict.fromkeys(FIXED, options("width", 32, 64, 128, 256)),
    "none": ("--width 64",),
}
"""Of recall and copying, whose episodes have 256 and 212 steps."""
TEXT_SIZE = " --layers 5 --width 128 --ff-width 512"
"""About a million parameters."""
TEXT: Sizes = {
    "expire-span": options("memory-budget", 64, 200, 680, rest=TEXT_SIZE),
    **{core: tuple(size + TEXT_SIZE for size in sizes) for core, sizes in windows(128, 512, 2048).items()},
    "lstm": ("--layers 2 --width 256",),
    "gated-delta-net": ("--layers 9 --width 128",),
}
TASKS: dict[str, Task] = {
    "corridor": AgentTask(arguments="--env expirespan/Corridor-v0", sizes=CORRIDOR),
    "memory-s13": AgentTask(
        arguments="--env MiniGrid-MemoryS13-v0",
        sizes={
            "expire-span": ("--memory-budget 20",),
            **windows(128),
            **dict.fromkeys((*FIXED, "none"), ("--width 64",)),
        },
    ),
    "recall": SequenceTask(arguments="--task recall --task-args steps=256 --updates 3000", sizes=EPISODES),
    "copy": SequenceTask(
        arguments="--task copy --task-args length=5 distractors=200 --updates 4000",
        sizes=EPISODES,
        beyond="--task-args length=5 distractors=500",
    ),
    "dictionary": SequenceTask(
        arguments="--task text --data runs/gcide.txt --updates 2000", sizes=TEXT, least_is_best=True
    ),
}
