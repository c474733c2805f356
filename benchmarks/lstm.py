"""sb3-contrib's RecurrentPPO with an LSTM on this project's tasks and MiniGrid's, on as many steps as MemoryPPO takes.

It reads the same features of the same 32 environments, and plays evaluation episodes that it was not trained on, with
sampled actions, as `expirespan-evaluate --sample` does.  Sizes are MemoryPPO's, the rest are sb3-contrib's defaults.

    python benchmarks/lstm.py ENV STEPS [SEED]
"""

import sys
import time
from typing import Any

import numpy as np
import torch
from expirespan.agents.encoders import default_extractor
from expirespan.agents.observations import kinds_of
from expirespan.agents.vec_env import as_vec_env
from expirespan.cli.config import EVALUATION_SEED
from expirespan.envs import make_batched
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.evaluation import evaluate_policy

NUM_ENVS = 32


class Untransposed(RecurrentPPO):
    """RecurrentPPO that leaves MiniGrid's codes as they are, where it would take them for pixels."""

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> Any:
        return env


def recurrent_ppo(env_id: str, seed: int, **settings: Any) -> RecurrentPPO:
    """An untrained agent; `settings` are RecurrentPPO's."""
    env = as_vec_env(make_batched(env_id, NUM_ENVS))
    extractor, settings_of_it = default_extractor(env.observation_space, kinds_of(env))
    policy: dict[str, Any] = {
        "lstm_hidden_size": 64,
        "net_arch": [64],
        "features_extractor_class": extractor,
        "features_extractor_kwargs": settings_of_it,
        # SB3 would divide MiniGrid's codes by 255.
        "normalize_images": False,
    }
    sizes: dict[str, Any] = {"n_steps": 128, "batch_size": 1024, "n_epochs": 4, "gamma": 0.995}
    return Untransposed("MlpLstmPolicy", env, **sizes, seed=seed, device="cpu", policy_kwargs=policy, **settings)


def play(model: RecurrentPPO, env_id: str, episodes: int) -> np.ndarray:
    """Returns of evaluation episodes, [N]."""
    env = as_vec_env(make_batched(env_id, NUM_ENVS))
    env.seed(EVALUATION_SEED)
    returns, _ = evaluate_policy(model, env, episodes, deterministic=False, return_episode_rewards=True, warn=False)
    return np.array(returns)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(f"Expect an environment, a number of steps and perhaps a seed, actual: {' '.join(sys.argv[1:])}")
    env_id, steps, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 0
    torch.set_num_threads(1)
    model = recurrent_ppo(env_id, seed)
    begun = time.perf_counter()
    model.learn(steps)
    minutes = (time.perf_counter() - begun) / 60
    returns = play(model, env_id, 1000)
    print(f"{env_id}, seed {seed}: {model.num_timesteps:,} steps, {minutes:.1f} minutes, ", end="")
    print(f"mean return of {len(returns)} episodes {returns.mean():.3f}")
