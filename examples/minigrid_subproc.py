"""A MiniGrid memory task with SubprocVecEnv: environments that are slow in Python get a process each.

    python examples/minigrid_subproc.py --total-steps 200000 --out runs/minigrid

About two minutes on two cores.  In MiniGrid-MemoryS7-v0 the agent sees an object in a room at the start and has to
choose the same one at the far end of a corridor: without memory it earns about 0.5, with memory up to 0.97.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from expirespan import MemoryPPO
from minigrid.wrappers import ImgObsWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

ENV = "MiniGrid-MemoryS7-v0"


def make_env(num_envs: int, seed: int) -> VecEnv:
    """MiniGrid in processes of their own.

    ImgObsWrapper keeps the image of each observation; MemoryPPO reads its codes of objects, colours and states.
    """
    return make_vec_env(ENV, n_envs=num_envs, seed=seed, wrapper_class=ImgObsWrapper, vec_env_cls=SubprocVecEnv)


def main(args: Sequence[str] | None = None) -> float:
    """Train, save, load, and evaluate what was loaded; its mean return."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-steps", type=int, default=200_000, help="environment steps over all environments")
    parser.add_argument("--num-envs", type=int, default=8, help="processes; about as many as the machine has cores")
    parser.add_argument("--episodes", type=int, default=100, help="episodes of the evaluation at the end")
    parser.add_argument("--out", type=Path, default=Path("runs/minigrid"), help="folder of the agent and the logs")
    options = parser.parse_args(args)

    env = make_env(options.num_envs, seed=0)
    model = MemoryPPO("CnnPolicy", env, ent_coef=0.01, seed=0, tensorboard_log=str(options.out))
    model.learn(options.total_steps)
    env.close()
    model.save(options.out / "model")

    test_env = make_env(options.num_envs, seed=1_000)
    loaded = MemoryPPO.load(options.out / "model")
    # An agent that does nothing where it is unsure would do so for ever with its likeliest actions: they are drawn.
    mean, std = evaluate_policy(loaded, test_env, n_eval_episodes=options.episodes, deterministic=False)
    test_env.close()
    print(f"return {mean:.2f} +/- {std:.2f} over {options.episodes} episodes (without memory about 0.5)")
    return float(np.mean(mean))


if __name__ == "__main__":  # the processes import this file, and must not run it
    main()
