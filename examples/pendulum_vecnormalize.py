"""Pendulum without its angular velocity, with VecNormalize: continuous actions, statistics that belong to the agent.

    python examples/pendulum_vecnormalize.py --total-steps 300000 --out runs/pendulum

About two minutes on one core, to a return of about -200 (untrained: -1,200).  VecNormalize scales observations and
rewards by running statistics.  An agent is of no use without them: they are saved beside it and loaded with it, and an
evaluation neither updates them nor scales the rewards that it reports.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from expirespan import MemoryPPO
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

GAMMA = 0.95


class WithoutVelocity(gym.ObservationWrapper):
    """Keeps [cos, sin] of Pendulum's [cos, sin, angular velocity]."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Cosine and sine of the angle [2]."""
        return observation[:2]


def main(args: Sequence[str] | None = None) -> float:
    """Train, save agent and statistics, load both, and evaluate; the mean return."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-steps", type=int, default=300_000, help="environment steps over all environments")
    parser.add_argument("--episodes", type=int, default=50, help="episodes of the evaluation at the end")
    parser.add_argument("--out", type=Path, default=Path("runs/pendulum"), help="folder of the agent and the logs")
    options = parser.parse_args(args)

    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=16, seed=0, wrapper_class=WithoutVelocity), gamma=GAMMA)
    model = MemoryPPO(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        gamma=GAMMA,
        gae_lambda=0.95,
        n_epochs=10,
        ent_coef=0.0,
        seed=0,
        tensorboard_log=str(options.out),
    )
    model.learn(options.total_steps)
    model.save(options.out / "model")
    env.save(str(options.out / "vecnormalize.pkl"))

    plain = make_vec_env("Pendulum-v1", n_envs=4, seed=1_000, wrapper_class=WithoutVelocity)
    test_env = VecNormalize.load(str(options.out / "vecnormalize.pkl"), plain)
    test_env.training = False  # the statistics stay what they were
    test_env.norm_reward = False  # returns in the environment's own unit
    loaded = MemoryPPO.load(options.out / "model", env=test_env)
    mean, std = evaluate_policy(loaded, test_env, n_eval_episodes=options.episodes)
    print(f"return {mean:.0f} +/- {std:.0f} over {options.episodes} episodes of 200 steps (untrained: about -1,200)")
    return float(np.mean(mean))


if __name__ == "__main__":
    main()
