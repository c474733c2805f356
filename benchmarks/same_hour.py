"""MiniGrid-MemoryS13 beside sb3-contrib's RecurrentPPO: what each has learned after the same time on the clock.

Both train at once, a process and a core each, on 32 environments with this project's features extractor; MemoryPPO
by `expirespan-train`, which is interrupted when the time is up, as Ctrl-C does, if it is not done by then.  Then each
plays episodes that it was not trained on, with sampled actions.

    python benchmarks/same_hour.py [MINUTES]
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from lstm import play, recurrent_ppo
from stable_baselines3.common.callbacks import BaseCallback

ENV, FOLDER = "MiniGrid-MemoryS13-v0", Path("runs/same-hour")
EPISODES = 500
OURS = "--memory-budget None --ent-coef 0.01 --total-steps 5000000 --timeline-every 0"
"""A fast machine takes these steps in less than the hour."""


class Until(BaseCallback):
    """Ends training at a time, and tells every five minutes how far it has come."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end, self.next_line = end, time.monotonic()

    def _on_step(self) -> bool:
        if time.monotonic() >= self.next_line and self.model.ep_info_buffer:
            self.next_line += 300
            mean = np.mean([episode["r"] for episode in self.model.ep_info_buffer])
            print(f"RecurrentPPO: {self.num_timesteps} steps, mean return {mean:.3f}", flush=True)
        return time.monotonic() < self.end


def main(minutes: float) -> None:
    """Train both, evaluate both, print what came of it."""
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * minutes
    if FOLDER.exists():
        sys.exit(f"Expect no folder {FOLDER} from an earlier run, actual: there is one")
    train = ["expirespan-train", "--env", ENV, *OURS.split(), "--out", str(FOLDER)]
    model = recurrent_ppo(ENV, seed=0, ent_coef=0.01)
    with subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as memory_ppo:
        try:
            model.learn(10**9, callback=Until(end))
        finally:
            memory_ppo.send_signal(signal.SIGINT)
    print("MemoryPPO has ended, exit status", memory_ppo.returncode)
    subprocess.run(["expirespan-evaluate", str(FOLDER), "--sample", "--episodes", str(EPISODES)], check=True)
    returns = play(model, ENV, EPISODES)
    solved = np.mean(returns > 0)
    print(f"RecurrentPPO: {model.num_timesteps} steps, {EPISODES} episodes, success {solved:.1%}, ", end="")
    print(f"mean return {np.mean(returns):.3f}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
