"""The results tables: agents trained and evaluated, set between a scripted solver without memory and one with it.

Each row of a table is one agent on one task, trained with three seeds by `expirespan-train` and evaluated by
`expirespan-evaluate` as anyone would, two runs at a time, one thread each.  Recipes of several stages stand in
benchmarks/recipes/.  A table that was interrupted goes on where its runs stopped; those that are complete are only
evaluated.

    python benchmarks/results.py corridor portal instruction penalties
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote, split
from typing import Any

import numpy as np
from expirespan.cli.config import (
    CHECKPOINT,
    EVALUATION_SEED,
    parse_stages,
    read_stages,
    steps_of,
    to_json,
)
from expirespan.cli.run_folder import CONFIGURATION
from expirespan.cli.stages import position
from expirespan.envs import SOLVERS, make_batched

FOLDER = Path("runs/results")
SEEDS = (0, 1, 2)
SOLVER_EPISODES = 1000
SCORES = {"Corridor": "success", "Portal": "rooms_reached", "Instruction": "carried_out", "Memory": "mean_return"}
"""What is counted in each task: success, mean return, or a number that the environment tells at an episode's end."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One agent on one task."""

    agent: str
    arguments: str
    """Of expirespan-train, beside the seed and the folder."""
    evaluations: tuple[str, ...] = ("",)
    """Arguments of expirespan-evaluate, for each evaluation of the trained agent."""

    @property
    def env(self) -> str:
        """Id of the task."""
        return parse_stages(split(self.arguments))[-1].env


def corridor(agent: str, options: str = "", evaluations: tuple[str, ...] = ("",)) -> Row:
    """A row of Corridor."""
    return Row(agent=agent, arguments=f"--env expirespan/Corridor-v0 {options}", evaluations=evaluations)


def staged(agent: str, recipe: str, evaluations: tuple[str, ...] = ("",)) -> Row:
    """A row of a task with easier ones first."""
    file = Path(__file__).parent / "recipes" / f"{recipe}.toml"
    return Row(agent=agent, arguments=f"--stages {quote(str(file))}", evaluations=evaluations)


CORRIDORS = ("", "--env expirespan/CorridorLong-v0 --episodes 200")
DEFAULTS = corridor("PPO", evaluations=CORRIDORS)
CONSTANT = "--penalty-weight 5e-6 --initial-span 0.1 --max-span 200"
INSTRUCTIONS = ("", "--env expirespan/InstructionLong-v0 --episodes 64")
MINIGRID = (
    "--view-size 3 --total-steps 800000 --memory-budget None --ent-coef 0.02 --gamma 0.997 --gae-lambda 0.95 "
    "--n-epochs 8 --batch-size 256"
)
TABLES: dict[str, tuple[Row, ...]] = {
    "corridor": (
        DEFAULTS,
        corridor("A2C", "--algo a2c", CORRIDORS),
        corridor("PPO, no memory", "--capacity 0"),
    ),
    "portal": (staged("PPO", "portal_ppo"), staged("A2C", "portal_a2c")),
    "instruction": (staged("PPO", "instruction_ppo", INSTRUCTIONS), staged("A2C", "instruction_a2c", INSTRUCTIONS)),
    "minigrid": (Row(agent="PPO", arguments=f"--env MiniGrid-MemoryS9-v0 {MINIGRID}"),),
    "penalties": (
        DEFAULTS,
        corridor("no pull on the spans", "--memory-budget None"),
        corridor("paper: constant weight", CONSTANT),
        corridor("constant weight, long spans", "--penalty-weight 5e-6"),
    ),
}


def task_of(env_id: str) -> str:
    """The task whose variant the environment is: Corridor of expirespan/CorridorLong-v0."""
    return next(task for task in SCORES if task in env_id)


@cache
def solver_score(env_id: str, remember: bool) -> float:
    """Mean score of the scripted solver, with perfect memory or without."""
    env = make_batched(env_id, 100)
    solver = SOLVERS[task_of(env_id)](100, remember, seed=0)
    observations, _ = env.reset(seed=EVALUATION_SEED)
    starts, scores, played = np.ones(100, dtype=bool), [], np.zeros(100, dtype=np.int64)
    quota = SOLVER_EPISODES // 100
    name = SCORES[task_of(env_id)]
    while (played < quota).any():
        observations, _, terminated, truncated, infos = env.step(solver.act(observations, starts))
        starts = terminated | truncated
        for number in np.flatnonzero(starts & (played < quota)):
            final = infos["final_info"]
            scores.append(float(final["is_success" if name == "success" else name][number]))
        played += starts
    env.close()
    return float(np.mean(scores))


def call(*command: str) -> None:
    """Run a program.  Raises RuntimeError, with what it said, where it fails."""
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{ended.stderr.strip()}")


def finish(program: str, arguments: Sequence[str], folder: Path, same_recipe: bool, left: Callable[[], bool]) -> float:
    """Train into a folder, or what is left there; the minutes that it has taken.

    Raises RuntimeError where it was stopped before its end, or where the folder holds a run of another recipe.
    """
    if not same_recipe:
        raise RuntimeError(f"{folder} was trained with other options than {' '.join(arguments)}; remove it")
    minutes = folder / "minutes.json"
    spent = json.loads(minutes.read_text()) if minutes.is_file() else 0.0
    begun = time.perf_counter()
    if left():
        known = (folder / CONFIGURATION).is_file()
        call(program, *(("--resume", str(folder)) if known else (*arguments, "--out", str(folder))))
        spent += (time.perf_counter() - begun) / 60
        minutes.write_text(json.dumps(spent))
    if left():
        raise RuntimeError(f"{folder} was stopped before its end; the same command goes on with it")
    return spent


def train(row: Row, seed: int, folder: Path) -> dict[str, float]:
    """Train an agent, or what is left of its training; its minutes and steps.  Raises as `finish` does."""
    arguments = [*split(row.arguments), "--seed", str(seed)]
    wanted = parse_stages([*arguments, "--out", str(folder)])
    steps = steps_of(wanted)
    same = not (folder / CONFIGURATION).is_file() or to_json(read_stages(folder)) == to_json(wanted)
    return {
        "minutes": finish("expirespan-train", arguments, folder, same, lambda: left(folder, steps)),
        "steps": sum(steps),
    }


def left(folder: Path, steps: Sequence[int]) -> bool:
    """Whether a run with these steps in each stage has some left to train."""
    return position(folder / CHECKPOINT).next_stage(steps) <= len(steps)


def run_one(row: Row, seed: int) -> list[dict[str, Any]]:
    """Train one agent and evaluate it; the figures of each evaluation, with minutes and steps."""
    name = "-".join(word for word in re.split(r"[^a-z0-9]+", f"{row.env} {row.agent}".lower()) if word)
    run = FOLDER / f"{name}-{seed}"
    spent = train(row, seed, run)
    results = []
    for number, arguments in enumerate(row.evaluations):
        file = run / f"evaluation-{number}.json"
        call("expirespan-evaluate", str(run), "--sample", *arguments.split(), "--json", str(file))
        figures = json.loads(file.read_text())
        results.append(figures | {"agent": row.agent, "seed": seed} | spent)
    return results


def line(figures: dict[str, Any]) -> tuple[float, str]:
    """The score of one evaluation, and its row of the table."""
    env_id, layers = figures["env"], figures["layers"]
    name = SCORES[task_of(env_id)]
    score = figures[name]["mean"] if name in figures else figures["outcomes"][name]
    scale, share = "", ""
    if task_of(env_id) in SOLVERS:
        floor, ceiling = (solver_score(env_id, remember) for remember in (False, True))
        scale, share = f"{floor:.3f} to {ceiling:.3f}", f"{(score - floor) / (ceiling - floor):.1%}"
    live = ", ".join(f"{layer['live_mean']:.1f}" for layer in layers)
    most = max(layer["live_max"] for layer in layers)
    retention = max(
        (layer["retention_score"] for layer in layers if layer["retention_score"] is not None), default=None
    )
    return score, (
        f"| {figures['agent']} | {env_id.split('/')[-1]} | {figures['seed']} | {figures['steps']:,} | "
        f"{figures['minutes']:.1f} | {score:.3f} | {scale} | {share} | {live} ({most}) | "
        f"{figures['keeping_everything']:.0f} | {'' if retention is None else f'{retention:.3f}'} |"
    )


def table(rows: Sequence[Row]) -> None:
    """Run everything and print the table, with the worst seed of each row."""
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run_one, row, seed) for row in rows for seed in SEEDS]
        try:
            results = [figures for job in jobs for figures in job.result()]
        except BaseException:  # Ctrl-C as well: runs in progress save, nothing else is begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    print("| agent | task | seed | steps | minutes | score | floor to ceiling | share of the way |", end=" ")
    print("live memories (most) | everything | retention |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for key in dict.fromkeys((figures["agent"], figures["env"]) for figures in results):
        lines = [line(figures) for figures in results if (figures["agent"], figures["env"]) == key]
        worst = min(score for score, _ in lines)
        for score, text in lines:
            print(text.replace(f"| {score:.3f} |", f"| {score:.3f} (worst) |", 1) if score == worst else text)


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(TABLES)
    if unknown := set(wanted) - set(TABLES):
        sys.exit(f"Expect tables among {', '.join(TABLES)}, actual: {', '.join(sorted(unknown))}")
    for name in wanted:
        print(f"\n{name}, python benchmarks/results.py {name}\n")
        table(TABLES[name])
