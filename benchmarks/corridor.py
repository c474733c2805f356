"""Corridor over several seeds: success, live memories and retention, beside the same agent without memory.

Runs `expirespan-train` and `expirespan-evaluate` as anyone would, two at a time, one thread each.  Runs that exist in
the folder are only evaluated.

    python benchmarks/corridor.py
"""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
FOLDER = Path("runs/benchmarks")
AGENTS: dict[str, tuple[str, ...]] = {"memory": (), "no memory": ("--capacity", "0", "--total-steps", "500000")}
EVALUATIONS: dict[str, tuple[str, ...]] = {
    "Corridor": ("--timeline",),
    "CorridorLong": ("--env", "expirespan/CorridorLong-v0", "--episodes", "200"),
}


def run_one(name: str, seed: int) -> list[dict[str, Any]]:
    """Train one agent and evaluate it; the figures of each evaluation, with the minutes of training."""
    run = FOLDER / f"{name.replace(' ', '-')}-{seed}"
    minutes = run / "minutes.json"
    if not minutes.is_file():
        begun = time.perf_counter()
        train = ["expirespan-train", *AGENTS[name], "--seed", str(seed), "--out", str(run)]
        subprocess.run(train, check=True, capture_output=True)
        minutes.write_text(json.dumps((time.perf_counter() - begun) / 60))
    results = []
    for task, arguments in EVALUATIONS.items():
        if name == "no memory":
            if task != "Corridor":
                continue
            arguments = ("--sample",)  # without memory the greedy policy goes round in circles
        file = run / f"{task}.json"
        evaluate = ["expirespan-evaluate", str(run), *arguments, "--json", str(file)]
        subprocess.run(evaluate, check=True, capture_output=True)
        figures = json.loads(file.read_text())
        results.append(figures | {"name": f"{name}, {task}", "seed": seed, "minutes": json.loads(minutes.read_text())})
    return results


def row(figures: dict[str, Any]) -> str:
    """One line of the table."""
    layers = figures["layers"]
    live = ", ".join(f"{layer['live_mean']:.1f}" for layer in layers)
    score = max(layer["retention_score"] for layer in layers)
    by_length = ", ".join(f"{b['from']}-{b['to']}: {b['success']:.1%}" for b in figures["success_by_length"])
    return (
        f"{figures['name']:30} {figures['seed']:>4} {figures['minutes']:7.1f} {figures['success']['mean']:8.1%} "
        f"{live:>13} {figures['keeping_everything']:10.1f} {score:9.3f}   {by_length}"
    )


def main() -> None:
    """Run everything and print the table, with the worst seed of each kind."""
    jobs = [(name, seed) for name in AGENTS for seed in SEEDS]
    with ThreadPoolExecutor(2) as pool:
        results = [figures for found in pool.map(lambda job: run_one(*job), jobs) for figures in found]
    print(f"{'agent and task':30} seed minutes  success   live memories everything retention   success by length")
    for name in dict.fromkeys(figures["name"] for figures in results):
        group = [figures for figures in results if figures["name"] == name]
        for figures in group:
            print(row(figures))
        worst = min(group, key=lambda figures: figures["success"]["mean"])
        print(f"  worst of {len(group)} seeds: {worst['success']['mean']:.1%} (seed {worst['seed']})")


if __name__ == "__main__":
    main()
