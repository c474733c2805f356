"""Training throughput beside sb3-contrib's RecurrentPPO: environment steps per second, training included.

Both train on the same batched environment with the same sizes (32 environments x 128 steps, 4 epochs, batches of 1,024,
width 64), in turn, round after round in one process with one thread, so that a noisy machine disturbs both alike.  What
MemoryPPO costs depends on what it keeps: everything at the start, about the budget afterwards.  Given a run
folder of Corridor, the trained agent is timed too.

What RecurrentPPO costs depends on the episodes: it loops over time in Python as soon as one begins inside a batch, and
an untrained policy that never leaves the corridor avoids that.  So Corridor is timed twice: with the agents' own
actions, and led to a door by a script, so that all have the short episodes of an agent that has learned the task.

    python benchmarks/throughput.py [RUN_DIR] [--device cuda]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from expirespan.agents import MemoryPPO
from expirespan.agents.vec_env import as_vec_env
from expirespan.cli.config import CHECKPOINT
from expirespan.envs import make_batched
from expirespan.envs.world import DOOR, Move
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

ENVS, STEPS, ROUNDS, ROLLOUTS = 32, 128, 3, 3
SIZES: dict[str, Any] = {"n_steps": STEPS, "batch_size": 1024, "n_epochs": 4, "seed": 0}


def timed(owner: Any, name: str, spent: dict[str, float], part: str) -> None:
    """Add the seconds that a method takes to `spent[part]`."""
    method: Callable[..., Any] = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        result = method(*args, **kwargs)
        spent[part] += time.perf_counter() - begun
        return result

    setattr(owner, name, wrapper)


class Led(VecEnvWrapper):
    """Corridor walked by a script, whatever the agent does: to the right, and out by the first door."""

    seen: np.ndarray

    def reset(self) -> np.ndarray:
        """Begin new episodes."""
        self.seen = np.asarray(self.venv.reset())
        return self.seen

    def step_async(self, actions: np.ndarray) -> None:
        """Take the script's step instead."""
        middle = self.seen.shape[1] // 2
        up, down = (self.seen[:, middle, middle + side, 0] == DOOR for side in (-1, 1))
        self.venv.step_async(np.where(up, Move.UP, np.where(down, Move.DOWN, Move.RIGHT)))

    def step_wait(self) -> Any:
        """Remember what the script has to see."""
        seen, *rest = self.venv.step_wait()
        self.seen = np.asarray(seen)
        return self.seen, *rest


class Quiet(BaseCallback):
    """A callback that does nothing."""

    def _on_step(self) -> bool:
        return True


def ours(env: VecEnv, device: str) -> MemoryPPO:
    """MemoryPPO as it comes, but for the early stop, so that every epoch is computed."""
    return MemoryPPO("MemoryPolicy", env, target_kl=None, device=device, **SIZES)


def theirs(env: VecEnv, device: str) -> RecurrentPPO:
    """RecurrentPPO with an LSTM of the same width."""
    lstm = {"lstm_hidden_size": 64, "net_arch": [64]}
    return RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=lstm, device=device, **SIZES)


def stepping_rate(env_id: str) -> float:
    """Steps per second of the environment alone, with random actions."""
    env = make_batched(env_id, ENVS)
    env.reset(seed=0)
    assert isinstance(env.single_action_space, spaces.Discrete)
    actions = np.random.default_rng(0).integers(env.single_action_space.n, size=(200, ENVS))
    begun = time.perf_counter()
    for action in actions:
        env.step(action)
    return actions.size / (time.perf_counter() - begun)


def compare(env_id: str, run: Path | None, device: str, led: bool = False) -> None:
    """Print the table for one environment."""

    def make() -> VecEnv:
        env = as_vec_env(make_batched(env_id, ENVS))
        return Led(env) if led else env

    models: dict[str, OnPolicyAlgorithm] = {"MemoryPPO": ours(make(), device), "RecurrentPPO": theirs(make(), device)}
    if run is not None:
        still: dict[str, Any] = {"target_kl": None, "learning_rate": 1e-12}  # all the work, and it stays what it is
        models["  trained"] = MemoryPPO.load(run / CHECKPOINT, env=make(), device=device, **still)
    rates: dict[str, list[float]] = defaultdict(list)
    spent: dict[str, dict[str, float]] = {}
    alone = []
    for name, model in models.items():
        model.learn(ENVS * STEPS)  # warm up
        spent[name] = defaultdict(float)
        timed(model.env, "step", spent[name], "environment")
        timed(model, "collect_rollouts", spent[name], "collecting")
        timed(model, "train", spent[name], "learning")
    for _ in range(ROUNDS):
        alone.append(stepping_rate(env_id))
        for name, model in models.items():
            begun = time.perf_counter()
            model.learn(ENVS * STEPS * ROLLOUTS, callback=Quiet(), reset_num_timesteps=False)
            rates[name].append(ENVS * STEPS * ROLLOUTS / (time.perf_counter() - begun))
    rounds = f"{ROUNDS} rounds of {ENVS * STEPS * ROLLOUTS} steps"
    print(
        f"\n{env_id}{', led by a script' if led else ''}: {rounds}; the environment alone: {median(alone):.0f} steps/s"
    )
    print("system        steps/s  (range)         environment  acting  learning  share of the environment's rate")
    for name, measured in rates.items():
        parts = spent[name]
        total = parts["collecting"] + parts["learning"]
        shares = [parts["environment"], parts["collecting"] - parts["environment"], parts["learning"]]
        split = "  ".join(f"{share / total:8.0%}" for share in shares)
        span = f"({min(measured):.0f} to {max(measured):.0f})"
        print(f"{name:13} {median(measured):7.0f}  {span:15} {split}  {median(measured) / median(alone):10.0%}")
    for name in set(rates) - {"RecurrentPPO"}:
        ratios = [a / b for a, b in zip(rates[name], rates["RecurrentPPO"], strict=True)]
        rounds = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"{name.strip()} / RecurrentPPO: {median(ratios):.1f}  (rounds: {rounds})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Training throughput beside sb3-contrib's RecurrentPPO.")
    parser.add_argument("run", nargs="?", type=Path, help="a run folder of Corridor")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for led in (False, True):
        compare("expirespan/Corridor-v0", given.run, given.device, led)
    compare("MiniGrid-MemoryS13-v0", None, given.device)
