"""Does a step cost what is kept, or what has passed?  Milliseconds per step early and late in one very long corridor.

Of an agent that `expirespan-train` has left in a folder:

    python benchmarks/step_cost.py RUN_DIR
"""

import sys
import time
from pathlib import Path
from statistics import median

import torch
from expirespan.agents.vec_env import as_vec_env
from expirespan.envs import CorridorVectorEnv
from expirespan.train_agent import load_model

MARKS, WINDOW, ROUNDS = (100, 1_000, 4_000, 10_000), 20, 60


def main(run: Path) -> None:
    """Walk 10,000 steps, remember where the memory stood, and time steps from there, in turn."""
    torch.set_num_threads(1)
    policy = load_model(run).policy
    env = as_vec_env(CorridorVectorEnv(1, 12_000, 12_000, max_steps=20_000))
    policy.set_training_mode(False)
    obs, state = torch.as_tensor(env.reset()), policy.initial_state(1)
    right, kept = torch.zeros(1, dtype=torch.int64), {}
    with torch.no_grad():
        for step in range(max(MARKS) + 1):
            state = policy(obs, state, torch.tensor([step == 0]))[3]
            obs = torch.as_tensor(env.step(right.numpy())[0])
            if step in MARKS:
                kept[step] = state
        spent: dict[int, list[float]] = {mark: [] for mark in MARKS}
        live = {}
        for _ in range(ROUNDS):
            for mark, state in kept.items():
                begun = time.perf_counter()
                for _ in range(WINDOW):
                    state = policy(obs, state, torch.tensor([False]))[3]
                spent[mark].append((time.perf_counter() - begun) / WINDOW * 1e3)
                live[mark] = [int(layer.live.sum()) for layer in state.layers]
    fastest = min(median(times) for times in spent.values())
    print("step of the episode   live memories per layer   ms per step   over the fastest")
    for mark, times in spent.items():
        counts = ", ".join(map(str, live[mark]))
        print(f"{mark:19,} {counts:>25} {median(times):13.3f} {median(times) / fastest - 1:18.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
