"""What recording adds to playing an episode: python benchmarks/recording_cost.py RUN_DIR.

Each episode is played in turn as an evaluation plays it, which counts memories but records nothing, with a record, with
frames, and with attention too; each record is also written to a file.  Medians over the episodes of all rounds of
processor seconds, which other programs disturb less than seconds on the clock, and of their ratios.
"""

import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import torch
from expirespan.agents.actions import environment_actions
from expirespan.agents.policy import MemoryActorCriticPolicy
from expirespan.analysis import storage
from expirespan.analysis.evaluation import record_episode
from expirespan.cli.arguments import parse_env_args
from expirespan.cli.config import EVALUATION_SEED, read_run
from expirespan.envs import make_viewed
from expirespan.train_agent import load_model

EPISODES, ROUNDS = 10, 3
WAYS: dict[str, dict[str, bool] | None] = {
    "evaluation": None,
    "record": {},
    "record, frames": {"frames": True},
    "record, frames, attention": {"frames": True, "attention": True},
}


def play(policy: MemoryActorCriticPolicy, env: gym.Env, seed: int) -> int:
    """One episode as an evaluation plays it, counting memories step by step.  Returns its steps."""
    observation, _ = env.reset(seed=seed)
    state, kept, over = policy.initial_state(1), [], False
    start = torch.ones(1, dtype=torch.bool)
    while not over:
        with torch.no_grad():
            action = policy.act(policy.obs_to_tensor(observation)[0], state, start, deterministic=True, trace=True)
        assert action.trace is not None
        kept.append([(layer.span.item(), layer.live.item(), layer.evicted.item()) for layer in action.trace])
        observation, _, terminated, truncated, _ = env.step(environment_actions(policy, action.actions)[0])
        state, start, over = action.state, torch.zeros_like(start), terminated or truncated
    return len(kept)


def timed(
    policy: MemoryActorCriticPolicy, env: gym.Env, options: dict[str, Any] | None, seed: int, file: Path
) -> float:
    """Processor seconds for one episode, written to a file where it is recorded."""
    begun = time.process_time()
    if options is None:
        play(policy, env, seed)
    else:
        storage.save(record_episode(policy, env, seed, **options), file)
    return time.process_time() - begun


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    run = Path(sys.argv[1])
    config, policy = read_run(run), load_model(run).policy
    policy.set_training_mode(False)
    env = make_viewed(config.env, parse_env_args(config.env_args), config.view_size)
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + EPISODES)
    steps = [play(policy, env, seed) for seed in seeds]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _, seed in product(range(ROUNDS), seeds):
            for way, options in WAYS.items():
                seconds[way].append(timed(policy, env, options, seed, Path(folder, f"{seed}.npz")))
    print(f"{EPISODES} episodes, {sum(steps)} steps")
    for way, taken in seconds.items():
        each = [own / count * 1e3 for own, count in zip(taken, steps * ROUNDS, strict=True)]
        extra = [own / base - 1 for own, base in zip(taken, seconds["evaluation"], strict=True)]
        print(f"{way:27s} {median(each):6.3f} ms a step  {median(extra):+7.1%}")


if __name__ == "__main__":
    main()
