"""Training by one process and by two: environment steps per second, and what the processes tell each other.

Every measurement is made in processes of its own, one kind after the other, round after round, so that a noisy machine
disturbs all alike.  The same 32 environments x 128 steps, 4 epochs and minibatches of 1,024 as in throughput.py, or
what is asked for, shared out over the processes; RecurrentPPO, which has no such form, with one thread and with two.
The environments alone are 32 in each process.  Communication is counted in
process 0: how often it waits for the others, for how long (which includes waiting for a slower one), and the bytes that
it hands in.

    python benchmarks/scaling.py RUN_DIR [--envs 128 --batch-size 4096] [--only MemoryPPO] [--results FILE]
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from expirespan import processes
from expirespan.agents import MemoryPPO
from expirespan.agents.vec_env import as_vec_env
from expirespan.cli.config import CHECKPOINT
from expirespan.envs import make_batched
from throughput import ENVS, ROLLOUTS, STEPS, Led, Quiet, stepping_rate, theirs, timed
from torch import distributed as dist

KINDS = {
    "MemoryPPO, 1 process": ("ours", 1, 1),
    "MemoryPPO, 2 processes": ("ours", 2, 1),
    "RecurrentPPO, 1 thread": ("theirs", 1, 1),
    "RecurrentPPO, 2 threads": ("theirs", 1, 2),
    "environments alone, 1 process": ("alone", 1, 1),
    "environments alone, 2 processes": ("alone", 2, 1),
}
"""What is measured: by which function, in how many processes, with how many threads each."""
SIZES = ("env", "envs", "batch_size")
FOUND = ("kind", "round", "steps_per_second", "collecting", "learning", "calls", "waited_ms", "bytes")


def counted(spent: dict[str, float]) -> None:
    """Count the calls, the bytes and the seconds of all communication."""
    for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast", "broadcast_object_list"):
        method: Callable[..., Any] = getattr(dist, name)

        def wrapper(*args: Any, method: Callable[..., Any] = method, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            result = method(*args, **kwargs)
            spent["waited"] += time.perf_counter() - begun
            spent["calls"] += 1
            spent["bytes"] += args[0].nbytes if isinstance(args[0], torch.Tensor) else 0
            return result

        setattr(dist, name, wrapper)


def measured(given: argparse.Namespace) -> dict[str, float]:
    """Of this process, as one of several."""
    if given.measure == "alone":
        return {"steps_per_second": stepping_rate(given.env) * processes.count()}
    env = as_vec_env(make_batched(given.env, given.envs // processes.count()))
    env = Led(env) if given.env.startswith("expirespan/Corridor") else env
    sizes: dict[str, Any] = {"target_kl": None, "n_steps": STEPS, "batch_size": given.batch_size, "n_epochs": 4}
    if given.measure == "theirs":
        model: Any = theirs(env, "cpu")
    elif given.run is None:
        model = MemoryPPO("MemoryPolicy", env, seed=0, **sizes)
    else:
        model = MemoryPPO.load(given.run / CHECKPOINT, env=env, learning_rate=1e-12, **sizes)
    rollout = given.envs * STEPS
    model.learn(rollout)  # warm up
    spent: dict[str, float] = defaultdict(float)
    counted(spent)
    timed(model, "collect_rollouts", spent, "collecting")
    timed(model, "train", spent, "learning")
    begun = time.perf_counter()
    model.learn(rollout * ROLLOUTS, callback=Quiet(), reset_num_timesteps=False)
    seconds = time.perf_counter() - begun
    return {
        "steps_per_second": rollout * ROLLOUTS / seconds,
        "collecting": spent["collecting"] / seconds,
        "learning": spent["learning"] / seconds,
        "calls": spent["calls"] / ROLLOUTS,
        "waited_ms": 1000 * spent["waited"] / ROLLOUTS,
        "bytes": spent["bytes"] / ROLLOUTS,
    }


def one(kind: str) -> dict[str, float]:
    """A measurement in new processes, started by torchrun, with the arguments of this one."""
    what, count, threads = KINDS[kind]
    program = [__file__, *sys.argv[1:], "--measure", what]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    ended = subprocess.run(
        [*start, *program], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    return json.loads(ended.stdout.strip().splitlines()[-1])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run folder whose agent is trained on; else a new agent")
    parser.add_argument("--env", default="expirespan/Corridor-v0", help="Corridor is led by a script")
    parser.add_argument("--envs", type=int, default=ENVS)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="what the name of a row begins with")
    parser.add_argument("--results", type=Path, help="a CSV to add the measurements to")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        with processes.joined_by_torchrun():
            found = measured(given)
            if processes.rank() == 0:
                print(json.dumps(found))
        return
    kinds = [kind for kind in KINDS if kind.startswith(given.only)]
    sizes = {name: getattr(given, name) for name in SIZES}
    lines: list[dict[str, Any]] = []
    for number in range(given.rounds):
        for kind in kinds:
            lines.append(sizes | {"kind": kind, "round": number} | one(kind))
            print(lines[-1], flush=True)
    if given.results:
        new = not given.results.is_file()
        with given.results.open("a", newline="") as file:
            writer = csv.DictWriter(file, [*SIZES, *FOUND], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(lines)
    print("| | steps/s (range) | collecting, learning | communication an update: calls, ms, MB |\n|---|---|---|---|")
    for kind in kinds:
        own = [line for line in lines if line["kind"] == kind]
        rates = [line["steps_per_second"] for line in own]
        split = [f"{median(line[part] for line in own):.0%}" for part in ("collecting", "learning") if part in own[0]]
        told = ""
        if own[0].get("calls"):
            calls, waited, size = (median(line[name] for line in own) for name in ("calls", "waited_ms", "bytes"))
            told = f"{calls:.0f}, {waited:.0f}, {size / 1e6:.1f}"
        print(
            f"| {kind} | {median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {', '.join(split)} | {told} |"
        )


if __name__ == "__main__":
    main()
