"""What SB3's and sb3-contrib's own tests ask of callbacks, loggers, wrappers and masks, asked of these algorithms."""

import csv
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
from expirespan.agents import MemoryA2C, MemoryPPO
from gymnasium import spaces
from models import SMALL, Blinker
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3 import A2C, PPO
from stable_baselines3.common import callbacks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HParam,
    HumanOutputFormat,
    TensorBoardOutputFormat,
    configure,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

ALGORITHMS = [MemoryPPO, MemoryA2C]


class Won(Blinker):
    """Says that every episode was a success."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, info | ({"is_success": True} if truncated else {})


class Shown(gym.ObservationWrapper):
    """The observation as a dictionary's only part."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"obs": env.observation_space})

    def observation(self, observation: Any) -> Any:
        return {"obs": observation}


def made(algorithm: Any, env: Any, policy: str = "MemoryPolicy", **settings: Any) -> Any:
    return algorithm(policy, env, **({"n_steps": 8, "seed": 1, "device": "cpu", "policy_kwargs": SMALL} | settings))


@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sb3s_callbacks_work_together(algorithm: Any, tmp_path: Path) -> None:
    env = make_vec_env(Won, 2)
    best, after = callbacks.StopTrainingOnRewardThreshold(99.0), callbacks.StopTrainingOnNoModelImprovement(9)
    judge = callbacks.EvalCallback(
        Monitor(Won()), best, after, n_eval_episodes=3, eval_freq=4, log_path=str(tmp_path), verbose=0
    )
    every = callbacks.EveryNTimesteps(16, callbacks.CheckpointCallback(1, str(tmp_path), "every"))
    others = [callbacks.LogEveryNTimesteps(8), callbacks.ProgressBarCallback()]
    made(algorithm, env).learn(32, callback=[judge, every, *others])
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [8, 16, 24, 32]
    assert results["results"].tolist() == [[3.0] * 3] * 4 and results["successes"].all()
    assert sorted(path.name for path in tmp_path.glob("every*")) == ["every_16_steps.zip", "every_32_steps.zip"]
    assert (best.n_calls, after.n_calls) == (1, 4)


def stop_after_success() -> callbacks.BaseCallback:
    return callbacks.EvalCallback(
        Monitor(Won()), callbacks.StopTrainingOnRewardThreshold(3.0, verbose=0), eval_freq=5, verbose=0
    )


@pytest.mark.parametrize(
    ("stop", "steps"),
    [
        (lambda: callbacks.StopTrainingOnMaxEpisodes(2), 6),
        (stop_after_success, 5),
        (lambda: lambda locals_, globals_: locals_["self"].num_timesteps < 7, 7),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_callbacks_stop_training_and_it_can_go_on(algorithm: Any, stop: Any, steps: int) -> None:
    model = made(algorithm, Blinker()).learn(64, callback=stop())
    assert model.num_timesteps == steps
    assert model.learn(8, reset_num_timesteps=False).num_timesteps == steps + 8


class Tags(callbacks.BaseCallback):
    """Collects the names of what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.seen |= set(self.logger.name_to_value)


@pytest.mark.parametrize(("ours", "theirs"), [(MemoryPPO, PPO), (MemoryA2C, A2C)])
def test_what_sb3s_algorithm_logs_is_logged_by_the_same_names(ours: Any, theirs: Any) -> None:
    env, other = make_vec_env("Pendulum-v1", 1), make_vec_env("Pendulum-v1", 1)
    tags, wanted = Tags(), Tags()
    clipped: dict[str, Any] = {"batch_size": 8, "clip_range_vf": 0.2} if theirs is PPO else {}
    made(ours, env, **clipped).learn(24, callback=tags, log_interval=10**6)
    theirs("MlpPolicy", other, n_steps=8, device="cpu", **clipped).learn(24, callback=wanted, log_interval=10**6)
    assert wanted.seen <= tags.seen and len(wanted.seen) > 5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rewards_lengths_and_successes_of_episodes_are_logged(algorithm: Any, tmp_path: Path) -> None:
    model = made(algorithm, Won())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(8)
    model.logger.close()
    row = next(csv.DictReader((tmp_path / "progress.csv").read_text().splitlines()))
    assert {name: float(row[f"rollout/{name}"]) for name in ("ep_rew_mean", "ep_len_mean", "success_rate")} == {
        "ep_rew_mean": 3,
        "ep_len_mean": 3,
        "success_rate": 1,
    }
    assert float(row["time/fps"]) > 0 and row["time/iterations"] == "1"


def means(env: VecNormalize) -> np.ndarray:
    assert not isinstance(env.obs_rms, dict)
    return env.obs_rms.mean


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")  # the last one
def test_statistics_of_vecnormalize_are_handed_to_the_evaluation_and_stored(tmp_path: Path) -> None:
    env, other = (VecNormalize(make_vec_env("Pendulum-v1", 1), training=training) for training in (True, False))
    keep = callbacks.CheckpointCallback(8, str(tmp_path), save_vecnormalize=True)
    model = made(MemoryPPO, env)
    model.learn(8, callback=[callbacks.EvalCallback(other, n_eval_episodes=1, eval_freq=8, verbose=0), keep])
    assert model.get_vec_normalize_env() is env
    np.testing.assert_array_equal(means(other), means(env))
    loaded = VecNormalize.load(str(tmp_path / "rl_model_vecnormalize_8_steps.pkl"), make_vec_env("Pendulum-v1", 1))
    np.testing.assert_array_equal(means(loaded), means(env))
    with pytest.raises(AssertionError, match=r"expected the eval env to be a VecEnvWrapper|not wrapped the same way"):
        model.learn(8, callback=callbacks.EvalCallback(DummyVecEnv([Blinker]), eval_freq=1, verbose=0))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_loggers_are_sb3s(algorithm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(algorithm, Blinker()).learn(8).logger.output_formats == []
    model = made(algorithm, Blinker(), verbose=1, tensorboard_log=str(tmp_path)).learn(8)
    assert [type(out) for out in model.logger.output_formats] == [HumanOutputFormat, TensorBoardOutputFormat]
    assert "ep_rew_mean" in capsys.readouterr().out
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(16)
    assert [type(out) for out in model.logger.output_formats] == [CSVOutputFormat]
    model.logger.close()
    rows = list(csv.DictReader((tmp_path / "progress.csv").read_text().splitlines()))
    assert [row["time/total_timesteps"] for row in rows] == ["8", "16"]


def test_hyperparameters_are_logged_and_a_run_goes_on_in_its_folder(tmp_path: Path) -> None:
    class Report(callbacks.BaseCallback):
        def _on_training_start(self) -> None:
            param = HParam({"seed": self.model.seed or 0}, {"rollout/ep_len_mean": 0.0})
            self.logger.record("hparams", param, exclude=("stdout", "log", "json", "csv"))

        def _on_step(self) -> bool:
            return True

    model = made(MemoryPPO, Blinker(), tensorboard_log=str(tmp_path)).learn(8, callback=Report())
    model.learn(8, reset_num_timesteps=False)
    assert [folder.name for folder in tmp_path.iterdir()] == ["MemoryPPO_1"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_clock_that_stands_still_divides_nothing_by_zero(algorithm: Any) -> None:
    with mock.patch("time.time_ns", lambda: 42):
        model = made(algorithm, Blinker()).learn(8)
        model.dump_logs(1)


class Custom(VecEnv):
    """A VecEnv of one's own that steps two rows itself."""

    def __init__(self) -> None:
        super().__init__(2, Blinker.observation_space, Blinker.action_space)

    def reset(self) -> Any:
        return np.zeros((2, 2), np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        assert actions.shape == (2,)

    def step_wait(self) -> Any:
        return self.reset(), np.ones(2, np.float32), np.zeros(2, dtype=bool), [{}, {}]

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> Any:
        if attr_name == "render_mode":
            return [None, None]
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        raise NotImplementedError


VEC_ENVS: dict[str, Any] = {
    "processes": lambda: SubprocVecEnv([Blinker, Blinker]),
    "stack": lambda: VecFrameStack(DummyVecEnv([Blinker, Blinker]), 3),
    "normalised": lambda: VecNormalize(DummyVecEnv([Blinker, Blinker])),
    "monitored": lambda: VecMonitor(DummyVecEnv([Blinker, Blinker])),
    "checked": lambda: VecCheckNan(DummyVecEnv([Blinker, Blinker]), raise_exception=True),
    "one part": lambda: VecExtractDictObs(DummyVecEnv([lambda: Shown(Blinker())] * 2), "obs"),
    "one's own": Custom,
    "time": lambda: make_vec_env(lambda: TimeFeatureWrapper(Blinker(), max_steps=3), 2),
    "wrapped": lambda: make_vec_env(Blinker, 2, wrapper_class=Shown),
}


@pytest.mark.parametrize("kind", VEC_ENVS)
def test_vecenvs_and_wrappers_are_trained_in(kind: str) -> None:
    env = VEC_ENVS[kind]()
    model = made(MemoryPPO, env).learn(16)
    actions, memory = model.predict(env.reset(), episode_start=np.ones(2, dtype=bool))
    assert actions.shape == (2,) and model.predict(env.reset(), memory)[1].time.tolist() == [2, 2]
    model.env.close()


def test_evaluation_hands_on_the_memory_and_tells_what_it_saw() -> None:
    model, env = made(MemoryPPO, Blinker()), make_vec_env(Blinker, 2)
    times: list[list[int]] = []

    def watch(locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        times.append(locals_["states"].time.tolist())

    rewards, lengths = evaluate_policy(model, env, 4, callback=watch, return_episode_rewards=True)
    assert (rewards, lengths) == ([3.0] * 4, [3] * 4)
    assert times[::2] == [[1, 1], [2, 2], [3, 3]] * 2
    with pytest.raises(AssertionError, match="below threshold"):
        evaluate_policy(model, env, 1, reward_threshold=4.0)


def test_monitor_files_hold_every_episode(tmp_path: Path) -> None:
    env = make_vec_env(Blinker, 2, monitor_dir=str(tmp_path))
    made(MemoryPPO, env).learn(24)
    env.close()
    for file in tmp_path.glob("*.monitor.csv"):
        assert len(file.read_text().splitlines()) == 2 + 5  # 16 steps each in episodes of 3
    assert len(list(tmp_path.iterdir())) == 2
