"""Tasks that others wrote, by the defaults: MemoryPPO beside an LSTM and beside no memory.

Agents:
- memory: MemoryPPO("MemoryPolicy", env), nothing else.
- lstm: sb3-contrib's RecurrentPPO with MemoryPPO's sizes, features, rollout, minibatches, epochs, discount and lambda,
  numbers and rewards in units of running standard deviations (VecNormalize).  The rest are its own defaults: a constant
  step size of 3e-4, no entropy bonus.
- lstm-defaults: RecurrentPPO("MlpLstmPolicy", env), with MemoryPPO's features extractor.
- none: SB3's PPO("MlpPolicy", env), with MemoryPPO's features extractor and rollouts of 128 steps.

All learn from the same 16 environments and as many steps.  What counts are the returns of the last 100 training
episodes, sampled actions; the agent that comes out is also evaluated on 32 episodes of environments that training never
sees, with sampled and with greedy actions.  A run that has ended is a line of the CSV and isn't run again.  In the
table, intervals are bootstrap ones over seeds and episodes.

    pip install popgym==1.0.7
    python benchmarks/public_tasks.py --agents memory lstm --tasks RepeatPreviousEasy CartPole --seeds 0 1 2
    python benchmarks/public_tasks.py --table

With `--settings`, MemoryPPO departs from its defaults, for a CSV of its own:

    python benchmarks/public_tasks.py --agents memory --settings '{"gae_lambda": 0.8}' --results docs/data/defaults.csv
"""

import argparse
import csv
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from expirespan import MemoryPPO
from expirespan.agents.encoders import default_extractor
from expirespan.agents.observations import kinds_of
from expirespan.agents.vec_env import as_vec_env
from gymnasium import spaces
from public_environments import Task, tasks
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

RESULTS = Path(__file__).parents[1] / "docs" / "data" / "public_tasks.csv"
NUM_ENVS, LAST = 16, 100
EVALUATION_SEED, EPISODES = 10_000, 32
AGENTS = ("memory", "lstm", "lstm-defaults", "none")


class Returns(BaseCallback):
    """The return and the step of each training episode."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.ended.append((self.num_timesteps, float(info["episode"]["r"])))
        return True

    def reached(self, threshold: float) -> int | None:
        """The step at which the mean of the last 100 episodes first reached this threshold; None where it never did."""
        returns = np.array([value for _, value in self.ended])
        if len(returns) < LAST:
            return None
        means = np.convolve(returns, np.full(LAST, 1 / LAST), "valid")
        first = np.flatnonzero(means >= threshold)
        return self.ended[first[0] + LAST - 1][0] if len(first) else None


class Plain:
    """SB3's algorithms with the environment as it is: they would take MiniGrid's codes for pixels."""

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> Any:
        return env


class PlainPPO(Plain, PPO):
    """As Plain."""


class PlainRecurrentPPO(Plain, RecurrentPPO):
    """As Plain."""


def agent(name: str, task: Task, seed: int, settings: dict[str, Any]) -> BaseAlgorithm:
    """An untrained agent by its name; `settings` are of MemoryPPO alone."""
    env = make_vec_env(task.make, NUM_ENVS, seed=seed)
    env = as_vec_env(env)
    kinds = kinds_of(env)
    extractor, of_it = default_extractor(env.observation_space, kinds)
    features = {"features_extractor_class": extractor, "features_extractor_kwargs": of_it}
    if kinds == "minigrid":
        features["normalize_images"] = False
    given: dict[str, Any] = {"seed": seed, "device": "cpu"}
    if name == "memory":
        return MemoryPPO("MemoryPolicy", env, **given, **settings)
    if name == "none":
        return PlainPPO("MlpPolicy", env, n_steps=128, policy_kwargs=features, **given)
    if name == "lstm-defaults":
        return PlainRecurrentPPO("MlpLstmPolicy", env, policy_kwargs=features, **given)
    env = VecNormalize(env, norm_obs=isinstance(env.observation_space, spaces.Box) and kinds == "numbers", gamma=0.995)
    sizes: dict[str, Any] = {"n_steps": 64, "batch_size": 256, "n_epochs": 4, "gamma": 0.995, "gae_lambda": 0.9}
    policy = features | {"lstm_hidden_size": 64, "net_arch": [64]}
    return PlainRecurrentPPO("MlpLstmPolicy", env, **sizes, policy_kwargs=policy, **given)


def evaluated(model: BaseAlgorithm, task: Task, seed: int, deterministic: bool) -> float:
    """The mean return of a trained agent on environments that it has never seen."""
    env: VecEnv = as_vec_env(make_vec_env(task.make, NUM_ENVS, seed=EVALUATION_SEED + seed))
    trained_on = model.get_vec_normalize_env()
    if trained_on is not None and trained_on.norm_obs:
        env = VecNormalize(env, training=False, norm_reward=False)
        env.obs_rms = trained_on.obs_rms
    set_random_seed(EVALUATION_SEED + seed)
    mean, _ = evaluate_policy(model, env, EPISODES, deterministic=deterministic)
    assert isinstance(mean, float)
    return mean


FIGURES = ("task", "agent", "seed", "steps", "seconds", "reached", "mean", "sampled", "greedy")
FIELDS: tuple[str, ...] = (*FIGURES, "returns")


def run(task_name: str, agent_name: str, seed: int) -> dict[str, Any]:
    """One agent trained on one task: a line of the CSV.  An agent's name may be followed by its settings as JSON."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    task = tasks()[task_name]
    name, _, settings = agent_name.partition(" ")
    model, heard = agent(name, task, seed, json.loads(settings or "{}")), Returns()
    begun = time.process_time()
    model.learn(task.steps, callback=heard)
    seconds = time.process_time() - begun
    last = [value for _, value in heard.ended[-LAST:]]
    return {
        "task": task_name,
        "agent": agent_name,
        "seed": seed,
        "steps": model.num_timesteps,
        "seconds": round(seconds, 1),
        "reached": heard.reached(task.threshold),
        "mean": round(float(np.mean(last)), 4),
        "sampled": round(evaluated(model, task, seed, deterministic=False), 4),
        "greedy": round(evaluated(model, task, seed, deterministic=True), 4),
        "returns": " ".join(f"{value:.4g}" for value in last),
    }


def finished(results: Path) -> list[dict[str, str]]:
    """The lines of the CSV."""
    if not results.is_file():
        return []
    with results.open(newline="") as file:
        return list(csv.DictReader(file))


def append(results: Path, line: dict[str, Any]) -> None:
    """Add a run to the CSV."""
    results.parent.mkdir(parents=True, exist_ok=True)
    new = not results.is_file()
    with results.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(line)


RESAMPLES = 2000


def resampled(runs: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Means [R] of bootstrap samples: of the seeds, and then of the episodes of each."""
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = generator.integers(len(runs), size=len(runs))
        means[number] = np.mean([generator.choice(runs[run], len(runs[run])).mean() for run in drawn])
    return means


def told(value: float) -> str:
    """With two digits after the point, or none where there are three before."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def returns_of(lines: list[dict[str, str]]) -> list[np.ndarray]:
    """The returns of each run."""
    return [np.array(line["returns"].split(), dtype=float) for line in lines]


def cell(lines: list[dict[str, str]], means: np.ndarray) -> str:
    """One agent on one task; `means` are those of bootstrap samples, [R]."""
    low, high = np.quantile(means, (0.025, 0.975))
    runs = [float(line["mean"]) for line in lines]
    reached = [int(line["reached"]) for line in lines if line["reached"]]
    after = f"; {len(reached)} of {len(lines)} there after {max(reached):,}" if reached else ""
    return f"{told(float(np.mean(runs)))} ({told(low)} to {told(high)}), worst of {len(runs)}: {told(min(runs))}{after}"


def compared(differences: np.ndarray) -> str:
    """What the bootstrap differences [R] say of the first of two agents."""
    low, high = np.quantile(differences, (0.025, 0.975))
    return f"{told(low)} to {told(high)}, {'better' if low > 0 else 'worse' if high < 0 else 'no difference'}"


def table(results: Path) -> Iterator[str]:
    """The CSV as a Markdown table: mean returns, 95 % intervals, the worst seed, and how MemoryPPO compares."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for line in finished(results):
        found.setdefault(line["task"], {}).setdefault(line["agent"], []).append(line)
    agents = [name for name in AGENTS if any(name in by_agent for by_agent in found.values())]
    yield f"| task | steps | {' | '.join(agents)} | MemoryPPO less LSTM |"
    yield f"|---|---|{'---|' * len(agents)}---|"
    for name in (name for name in tasks() if name in found):
        generator = np.random.default_rng(0)
        means = {agent_name: resampled(returns_of(lines), generator) for agent_name, lines in found[name].items()}
        cells = [cell(found[name][known], means[known]) if known in means else "" for known in agents]
        verdict = compared(means["memory"] - means["lstm"]) if {"memory", "lstm"} <= means.keys() else ""
        steps = next(iter(found[name].values()))[0]["steps"]
        yield f"| {name} | {int(steps):,} | {' | '.join(cells)} | {verdict} |"


def evaluations(results: Path) -> Iterator[str]:
    """Mean returns of 32 evaluation episodes, sampled / greedy actions, of each seed."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for line in finished(results):
        value = f"{told(float(line['sampled']))} / {told(float(line['greedy']))}"
        found.setdefault((line["task"], line["agent"]), {})[int(line["seed"])] = value
    seeds = sorted({seed for by_seed in found.values() for seed in by_seed})
    yield f"| task | agent | {' | '.join(f'seed {seed}' for seed in seeds)} |"
    yield "|---|---|" + "---|" * len(seeds)
    for (task, name), by_seed in sorted(found.items(), key=lambda item: list(tasks()).index(item[0][0])):
        yield f"| {task} | {name} | {' | '.join(by_seed.get(seed, '') for seed in seeds)} |"


def missing(results: Path, names: Sequence[str], agents: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple]:
    """The runs that the CSV doesn't have, the first seed of everything first."""
    done = {(line["task"], line["agent"], int(line["seed"])) for line in finished(results)}
    for seed in seeds:
        for name in names:
            yield from ((name, agent, seed) for agent in agents if (name, agent, seed) not in done)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(tasks()), choices=list(tasks()), metavar="TASK")
    parser.add_argument("--agents", nargs="+", default=["memory", "lstm", "none"], choices=AGENTS)
    parser.add_argument("--settings", help="of MemoryPPO, as JSON, in place of its defaults")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what the CSV holds, and run nothing")
    options = parser.parse_args()
    if options.table:
        print(*table(options.results), "", *evaluations(options.results), sep="\n")
        return
    agents = [f"memory {options.settings}"] if options.settings else options.agents
    with ProcessPoolExecutor(options.jobs, max_tasks_per_child=1) as pool:
        todo = list(missing(options.results, options.tasks, agents, options.seeds))
        for ended in as_completed([pool.submit(run, *one) for one in todo]):
            line = ended.result()
            append(options.results, line)
            print(*(line[name] for name in FIGURES), flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
