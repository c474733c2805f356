"""CartPole without its velocities: where cart and pole stand is seen, how fast they move has to be remembered.

    python examples/cartpole_without_velocity.py --total-steps 150000 --out runs/cartpole

About a minute on one core; the agent then keeps the pole up for nearly all of the 500 steps.  EvalCallback plays
evaluation episodes during training and keeps the best agent so far, as with any Stable-Baselines3 algorithm.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from expirespan import MemoryPPO
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

NUM_ENVS = 8


class WithoutVelocity(gym.ObservationWrapper):
    """Keeps [position, angle] of CartPole's [position, velocity, angle, angular velocity]."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Box)
        low, high = env.observation_space.low[[0, 2]], env.observation_space.high[[0, 2]]
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The positions [2]."""
        return observation[[0, 2]]


def main(args: Sequence[str] | None = None) -> float:
    """Train, save, load, and evaluate what was loaded; its mean return."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-steps", type=int, default=150_000, help="environment steps over all environments")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of each evaluation")
    parser.add_argument("--out", type=Path, default=Path("runs/cartpole"), help="folder of the agents and the logs")
    options = parser.parse_args(args)

    env = make_vec_env("CartPole-v1", n_envs=NUM_ENVS, seed=0, wrapper_class=WithoutVelocity)
    test_env = make_vec_env("CartPole-v1", n_envs=4, seed=1_000, wrapper_class=WithoutVelocity)
    model = MemoryPPO(
        "MlpPolicy",
        env,
        gamma=0.99,
        gae_lambda=0.95,
        seed=0,
        tensorboard_log=str(options.out),
    )
    evaluation = EvalCallback(
        test_env,
        n_eval_episodes=options.episodes,
        eval_freq=max(options.total_steps // (5 * NUM_ENVS), 1),  # in steps of one environment: five times in all
        best_model_save_path=str(options.out),
        log_path=str(options.out),
    )
    model.learn(options.total_steps, callback=evaluation)

    model.save(options.out / "model")
    loaded = MemoryPPO.load(options.out / "model")
    mean, std = evaluate_policy(loaded, test_env, n_eval_episodes=options.episodes)
    print(f"return {mean:.1f} +/- {std:.1f} of 500 over {options.episodes} episodes, seeing positions alone")
    return float(np.mean(mean))


if __name__ == "__main__":
    main()
