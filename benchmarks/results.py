"""The results tables: agents trained and evaluated, set between a scripted solver without memory and one with it.

Each row of a table is one agent on one task, trained with three seeds by `expirespan-train` and evaluated by
`expirespan-evaluate` as anyone would, two runs at a time, one thread each.  A table that was interrupted goes on where
its runs stopped; those that are complete are only evaluated.

    python benchmarks/results.py corridor portal instruction penalties
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from expirespan.agents.checkpoint import read_checkpoint
from expirespan.envs import SOLVERS, make_batched
from expirespan.train_agent import CHECKPOINT, CONFIGURATION, EVALUATION_SEED, TOTAL_STEPS, parse, read_run

FOLDER = Path("runs/results")
SEEDS = (0, 1, 2)
SOLVER_EPISODES = 1000
SCORES = {"Corridor": "success", "Portal": "rooms_reached", "Instruction": "carried_out", "Memory": "mean_return"}
"""What is counted in each task: success, mean return, or a number that the environment tells at an episode's end."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One agent on one task."""

    agent: str
    stages: tuple[str, ...]
    """Arguments of expirespan-train beside the seed and the folder, run after run: each goes on from the weights of the
    one before, on a harder environment.  The last one names the task."""
    evaluations: tuple[str, ...] = ("",)
    """Arguments of expirespan-evaluate, for each evaluation of the trained agent."""

    @property
    def env(self) -> str:
        """Id of the task."""
        words = self.stages[-1].split()
        return words[words.index("--env") + 1]


def row(
    agent: str,
    task: str,
    arguments: str = "",
    *,
    algo: str = "ppo",
    lessons: tuple[str, ...] = (),
    last: str = "",
    evaluations: tuple[str, ...] = ("",),
) -> Row:
    """A row of one of this project's tasks.

    Args:
        agent: What the table calls it.
        task: Name of the environment.
        arguments: Options of every stage.
        algo: As for expirespan-train.
        lessons: Environment and options of the easier stages before.
        last: Options of the last stage alone.
        evaluations: As in `Row`.
    """
    stages = [f"--env expirespan/{stage} --algo {algo} {arguments}" for stage in (*lessons, f"{task}-v0 {last}")]
    return Row(agent=agent, stages=tuple(stages), evaluations=evaluations)


CORRIDORS = ("", "--env expirespan/CorridorLong-v0 --episodes 200")
DEFAULTS = row("PPO", "Corridor", evaluations=CORRIDORS)
CONSTANT = "--penalty-weight 5e-6 --initial-span 0.1 --max-span 200"


def instruction(agent: str, lesson_steps: int, algo: str = "ppo") -> Row:
    """A row of Instruction: little chatter first."""
    return row(
        agent,
        "Instruction",
        "--ramp 4 --max-span 32768",
        algo=algo,
        lessons=(f"InstructionShort-v0 --total-steps {lesson_steps}",),
        last="--total-steps 1200000 --learning-rate 3e-4",
        evaluations=("", "--env expirespan/InstructionLong-v0 --episodes 64"),
    )


ROOMS = (
    "PortalShort-v0 --env-args num_rooms=3 max_steps=40 largest_number=50",
    "PortalShort-v0 --env-args largest_number=50",
    "Portal-v0 --env-args largest_number=50",
)
FIFTY_ROOMS = "--num-envs 64 --gae-lambda 0.5 --memory-budget 30"
GENTLY = f"{FIFTY_ROOMS} --batch-size 2048 --target-kl 0.003"
A2C_FIFTY_ROOMS = f"{FIFTY_ROOMS} --total-steps 3000000 --learning-rate 3e-4 --ent-coef 0.03"


def portal(agent: str, arguments: str, lessons: tuple[str, str, str], last: str, algo: str = "ppo") -> Row:
    """A row of Portal: few rooms with all numbers first, then all rooms with shuffled numbers."""
    return row(
        agent,
        "Portal",
        f"--position-window 4 --ramp 4 --capacity 39 --gamma 0.98 {arguments}",
        algo=algo,
        lessons=tuple(f"{rooms} {options}" for rooms, options in zip(ROOMS, lessons, strict=True)),
        last=last,
    )


MINIGRID = (
    "--view-size 3 --total-steps 800000 --memory-budget None --ent-coef 0.02 --gamma 0.997 --gae-lambda 0.95 "
    "--n-epochs 8 --batch-size 256"
)
TABLES: dict[str, tuple[Row, ...]] = {
    "corridor": (
        DEFAULTS,
        row("A2C", "Corridor", algo="a2c", evaluations=CORRIDORS),
        row("PPO, no memory", "Corridor", "--capacity 0"),
    ),
    "portal": (
        portal(
            "PPO",
            "--late-pull 0.3",
            (
                "--total-steps 400000 --ent-coef 0.02",
                "--total-steps 1300000 --ent-coef 0.02",
                f"--total-steps 1500000 --learning-rate 5e-4 {GENTLY}",
            ),
            f"--total-steps 4000000 --learning-rate 3e-4 {GENTLY}",
        ),
        portal(  # short rollouts, with a quarter as much pull in each
            "A2C",
            "--n-steps 32 --batch-size 512 --budget-pull 0.075 --late-pull 0.075",
            (
                "--num-envs 64 --total-steps 1500000 --ent-coef 0.02",
                "--num-envs 64 --total-steps 4000000 --ent-coef 0.02",
                A2C_FIFTY_ROOMS,
            ),
            A2C_FIFTY_ROOMS,
            algo="a2c",
        ),
    ),
    "instruction": (instruction("PPO", 500_000), instruction("A2C", 2_000_000, algo="a2c")),
    "minigrid": (Row(agent="PPO", stages=(f"--env MiniGrid-MemoryS9-v0 {MINIGRID}",)),),
    "penalties": (
        DEFAULTS,
        row("no pull on the spans", "Corridor", "--memory-budget None"),
        row("paper: constant weight", "Corridor", CONSTANT),
        row("constant weight, long spans", "Corridor", "--penalty-weight 5e-6"),
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


def train(stage: str, start: Sequence[str], seed: int, folder: Path) -> dict[str, float]:
    """Train one stage, or what is left of it; its minutes and steps.

    Raises RuntimeError where it was stopped before its end, or where the folder holds a run of another recipe.
    """
    minutes = folder / "minutes.json"
    spent = json.loads(minutes.read_text()) if minutes.is_file() else 0.0
    arguments = [*stage.split(), *start, "--seed", str(seed), "--out", str(folder)]
    if (folder / CONFIGURATION).is_file():
        wanted = parse(arguments)
        if read_run(folder) != replace(wanted, total_steps=wanted.total_steps or TOTAL_STEPS):
            raise RuntimeError(f"{folder} was trained with other options than {' '.join(arguments)}; remove it")
        arguments = ["--resume", str(folder)]
    begun = time.perf_counter()
    if left(folder):
        call("expirespan-train", *arguments)
        spent += (time.perf_counter() - begun) / 60
        minutes.write_text(json.dumps(spent))
    if left(folder):
        raise RuntimeError(f"{folder} was stopped before its end; the same command goes on with it")
    return {"minutes": spent, "steps": json.loads((folder / CONFIGURATION).read_text())["total_steps"]}


def left(folder: Path) -> bool:
    """Whether a stage has steps left to train."""
    if not (folder / CHECKPOINT).is_file():
        return True
    trained = read_checkpoint(folder / CHECKPOINT)[1]["num_timesteps"]
    return trained < json.loads((folder / CONFIGURATION).read_text())["total_steps"]


def run_one(row: Row, seed: int) -> list[dict[str, Any]]:
    """Train one agent and evaluate it; the figures of each evaluation, with minutes and steps of all its stages."""
    name = "-".join(word for word in re.split(r"[^a-z0-9]+", f"{row.env} {row.agent}".lower()) if word)
    run = FOLDER / f"{name}-{seed}"
    folders = [*(Path(f"{run}-lesson-{number}") for number in range(1, len(row.stages))), run]
    start, stages = [], []
    for stage, folder in zip(row.stages, folders, strict=True):
        stages.append(train(stage, start, seed, folder))
        start = ["--init-from", str(folder)]
    spent = {name: sum(stage[name] for stage in stages) for name in ("minutes", "steps")}
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
