"""What recording adds to playing an episode: python benchmarks/recording_cost.py RUN_DIR.

The same episodes are played in turn as an evaluation plays them, which counts memories but records nothing, with a
record, with frames, and with attention too; each record is also written to a file.  Medians over rounds of
processor seconds, which other programs disturb less than seconds on the clock.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import torch
from expirespan.agents.evaluation import record_episode
from expirespan.agents.policy import MemoryActorCriticPolicy, environment_actions
from expirespan.envs import make_viewed
from expirespan.memory import storage
from expirespan.train_agent import EVALUATION_SEED, load_model, parse_env_args, read_run

EPISODES, ROUNDS = 10, 7
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


def timed(policy: MemoryActorCriticPolicy, env: gym.Env, options: dict[str, Any] | None, folder: Path) -> float:
    """Processor seconds for all episodes, each written to a file where it is recorded."""
    begun = time.process_time()
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + EPISODES):
        if options is None:
            play(policy, env, seed)
        else:
            storage.save(record_episode(policy, env, seed, **options), folder / f"{seed}.npz")
    return time.process_time() - begun


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    run = Path(sys.argv[1])
    config, policy = read_run(run), load_model(run).policy
    policy.set_training_mode(False)
    env = make_viewed(config.env, parse_env_args(config.env_args), config.view_size)
    steps = sum(play(policy, env, seed) for seed in range(EVALUATION_SEED, EVALUATION_SEED + EPISODES))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for way, options in WAYS.items():
                seconds[way].append(timed(policy, env, options, Path(folder)))
    plain = median(seconds["evaluation"])
    print(f"{EPISODES} episodes, {steps} steps")
    for way, taken in seconds.items():
        extra = [own / base - 1 for own, base in zip(taken, seconds["evaluation"], strict=True)]
        print(f"{way:27s} {median(taken) / steps * 1e3:6.3f} ms a step  {median(extra):+7.1%}")
    print(f"(evaluation: {plain:.2f} s)")


if __name__ == "__main__":
    main()
