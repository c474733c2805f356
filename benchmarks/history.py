"""What memory by windows costs: SB3's PPO with HistoryWrapper and ExpireSpanExtractor beside MemoryPPO.

Both train on the same environments with the same sizes of network, rollout and minibatch, in turn, round after round in
one process with one thread; seconds are those of the processor, so that other work on the machine counts little.
Nothing pulls on the spans; they begin at 0.8 times the window's length, so both hold about as many memories.  Before
anything is timed, every environment has taken as many steps as the window has.

    python benchmarks/history.py [--windows 16 64 256] [--csv docs/data/history.csv]
"""

import argparse
import csv
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from expirespan.agents import ExpireSpanExtractor, HistoryWrapper, MemoryPPO
from expirespan.envs.make import make_single
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

ENV, ENVS, STEPS, ROUNDS = "expirespan/Corridor-v0", 8, 64, 3
SIZES: dict[str, Any] = {"n_steps": STEPS, "batch_size": 128, "n_epochs": 4, "seed": 0, "device": "cpu"}
SYSTEMS = ("MemoryPPO", "PPO with windows")


class Stopwatch(BaseCallback):
    """Adds up the seconds in which steps are collected, learning apart."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.collecting = 0.0, 0.0

    def _on_rollout_start(self) -> None:
        self.begun = time.process_time()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.collecting += time.process_time() - self.begun


def agents(window: int) -> dict[str, OnPolicyAlgorithm]:
    """Both agents, untrained."""
    memory = {"max_span": float(window)}
    plain = make_vec_env(lambda: make_single(ENV), ENVS, seed=0)
    windows = make_vec_env(
        lambda: make_single(ENV), ENVS, seed=0, wrapper_class=HistoryWrapper, wrapper_kwargs={"length": window}
    )
    extractor: dict[str, Any] = {
        "features_extractor_class": ExpireSpanExtractor,
        "features_extractor_kwargs": {"memory": memory},
        "net_arch": [],
    }
    ours = MemoryPPO(
        "MemoryPolicy", plain, memory_budget=None, target_kl=None, policy_kwargs={"memory": memory}, **SIZES
    )
    return dict(zip(SYSTEMS, (ours, PPO("MultiInputPolicy", windows, policy_kwargs=extractor, **SIZES)), strict=True))


def compare(window: int) -> list[dict[str, Any]]:
    """Rates of both in steps per second, over all rounds and of each part."""
    models = agents(window)
    rates: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    collecting = {name: 0.0 for name in SYSTEMS}
    for model in models.values():
        model.learn(ENVS * max(window, STEPS))
    for _ in range(ROUNDS):
        for name, model in models.items():
            watch, begun = Stopwatch(), time.process_time()
            model.learn(ENVS * STEPS, callback=watch, reset_num_timesteps=False)
            rates[name].append(ENVS * STEPS / (time.process_time() - begun))
            collecting[name] += watch.collecting
    ratios = [a / b for a, b in zip(rates["MemoryPPO"], rates["PPO with windows"], strict=True)]
    return [
        {
            "window": window,
            "system": name,
            "steps_per_second": round(median(rates[name])),
            "lowest": round(min(rates[name])),
            "highest": round(max(rates[name])),
            "collecting_steps_per_second": round(ROUNDS * ENVS * STEPS / collecting[name]),
            "times_slower": round(median(ratios), 1) if name == "PPO with windows" else 1.0,
        }
        for name in SYSTEMS
    ]


def main(windows: list[int], file: Path) -> None:
    """Measure, write the file, print the table."""
    rows = [row for window in windows for row in compare(window)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("| window | system | steps/s (lowest to highest) | collecting alone, steps/s | times slower |")
    print("|---|---|---|---|---|")
    for row in rows:
        span = f"{row['steps_per_second']} ({row['lowest']} to {row['highest']})"
        print(f"| {row['window']} | {row['system']} | {span} | {row['collecting_steps_per_second']} |", end=" ")
        print(f"{row['times_slower']} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What memory by windows costs beside MemoryPPO.")
    parser.add_argument("--windows", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--csv", type=Path, default=Path("docs/data/history.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    main(given.windows, given.csv)
