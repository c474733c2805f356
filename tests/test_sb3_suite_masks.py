"""What sb3-contrib's tests of MaskablePPO ask of action masks, asked of MemoryPPO and MemoryA2C."""

from copy import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan.agents import MaskedEvalCallback, MemoryA2C, MemoryPPO, WithMasks
from gymnasium import spaces
from models import SMALL, Blinker, small
from sb3_contrib.common.envs import (
    InvalidActionEnvDiscrete,
    InvalidActionEnvMultiBinary,
    InvalidActionEnvMultiDiscrete,
)
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

ALGORITHMS = [MemoryPPO, MemoryA2C]


def made(algorithm: Any, env: Any, **settings: Any) -> Any:
    return algorithm(
        "MemoryPolicy", env, **({"n_steps": 8, "seed": 1, "device": "cpu", "policy_kwargs": SMALL} | settings)
    )


class Shown(gym.ObservationWrapper):
    """The observation as a dictionary's only part."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"obs": env.observation_space})

    def observation(self, observation: Any) -> Any:
        return {"obs": observation}


MASKED: dict[str, Any] = {
    "discrete": lambda: InvalidActionEnvDiscrete(5, ep_length=6, n_invalid_actions=4),
    "multi-discrete": lambda: InvalidActionEnvMultiDiscrete([2, 3], ep_length=6, n_invalid_actions=3),
    "multi-binary": lambda: InvalidActionEnvMultiBinary(3, ep_length=6, n_invalid_actions=3),
    "dictionary": lambda: Shown(InvalidActionEnvDiscrete(5, ep_length=6, n_invalid_actions=4)),
    "truncated": lambda: gym.wrappers.TimeLimit(InvalidActionEnvDiscrete(5, n_invalid_actions=4), 6),
}


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_where_masks_leave_one_action_it_is_taken(algorithm: Any, kind: str, tmp_path: Path) -> None:
    env, other = make_vec_env(MASKED[kind], 2), make_vec_env(MASKED[kind], 2)
    model = made(algorithm, env)
    judge = MaskedEvalCallback(other, n_eval_episodes=2, eval_freq=4, verbose=0, best_model_save_path=str(tmp_path))
    model.learn(16, callback=judge)
    assert model.ep_info_buffer[0]["r"] == 6 and judge.last_mean_reward == 6
    assert evaluate_policy(WithMasks(model, env), env, 2) == (6, 0)
    assert evaluate_policy(copy(WithMasks(model, env)), env, 2) == (6, 0)
    assert np.less(evaluate_policy(model, env, 2)[0], 6)
    assert (tmp_path / "best_model.zip").is_file()


def test_what_masks_need_is_said() -> None:
    masked = MASKED["discrete"]()
    with pytest.raises(ValueError, match="`env` to be a VecEnv whose environments have `action_masks`, actual: <"):
        WithMasks(small(Blinker(), batch_size=16), DummyVecEnv([Blinker]))
    with pytest.raises(ValueError, match=r"`state` where `episode_start` says .* use expirespan\.agents\.MaskedEval"):
        evaluate_masked(made(MemoryPPO, masked), masked, 1, warn=False)
    continuous = ActionMasker(IdentityEnvBox(), lambda _: np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match="Expect actions that can be masked"):
        made(MemoryPPO, continuous).learn(8)


def test_actions_of_pictures_are_masked_by_a_function() -> None:
    env = ActionMasker(FakeImageEnv(3, 12, 12), lambda _: np.array([False, True, False]))
    model = made(MemoryPPO, env).learn(8)
    assert model.rollout_buffer.actions.unique().tolist() == [1]
