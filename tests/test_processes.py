"""Several processes that train one agent: the same training as one process with all of their environments."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
import torch
from expirespan import MemoryA2C, MemoryPPO, processes, train_agent
from expirespan.agents.actions import LeanCategorical
from expirespan.agents.callbacks import CheckpointCallback
from expirespan.agents.checkpoint.file import read_checkpoint
from expirespan.agents.learn.on_policy import MemoryOnPolicyAlgorithm
from expirespan.cli.config import read_stages
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from torch import distributed as dist
from torch.multiprocessing.spawn import start_processes

ROWS, STEPS, TOTAL = 8, 16, 8 * 16 * 4
SETTINGS: dict[str, Any] = {
    "n_steps": STEPS,
    "batch_size": 4 * STEPS,
    "learning_rate": 0.02,
    "memory_budget": 3.0,
    "budget_pull": 1.0,
    "late_pull": 0.5,
    "policy_kwargs": {"memory": {"layers": 2, "width": 16, "heads": 2, "ff_width": 16, "max_span": 40.0, "ramp": 2.0}},
    "seed": 5,
    "device": "cpu",
}
ALGORITHMS: dict[str, Callable[..., MemoryOnPolicyAlgorithm]] = {
    "ppo": lambda env: MemoryPPO("MemoryPolicy", env, n_epochs=2, target_kl=0.004, **SETTINGS),
    "a2c": lambda env: MemoryA2C("MemoryPolicy", env, **SETTINGS),
}


class Shortened(gym.Wrapper):
    """CartPole with rewards so large that they are scaled, and episodes that are cut off now and then."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1", max_episode_steps=13))

    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, 40 * float(observation[0]) + 5, terminated, truncated, info


class Figures(BaseCallback):
    """What was logged, of each update."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, float]] = []

    def _on_rollout_start(self) -> None:
        logged = self.logger.name_to_value
        self.found.append({name: value for name, value in logged.items() if not isinstance(value, torch.Tensor)})

    def _on_step(self) -> bool:
        return True


def without_chance(patch: pytest.MonkeyPatch) -> None:
    """Let actions follow from the step and the row among all rows, and minibatches be the same rows everywhere."""
    drawn = {"steps": 0}

    def sample(self: LeanCategorical) -> torch.Tensor:
        rows = len(self.log_probs)
        row = torch.arange(rows) + processes.rank() * rows
        drawn["steps"] += 1
        return (row * 7 + drawn["steps"] * 3 + (row * drawn["steps"]) // 3) % 2

    def order(rows: int, **_: Any) -> torch.Tensor:
        if processes.count() > 1:
            return torch.arange(rows)
        # Those that two processes with half of the rows each take together: [process, minibatch, row].
        return torch.arange(rows).view(2, 2, -1).transpose(0, 1).flatten()

    patch.setattr(LeanCategorical, "sample", sample)
    patch.setattr(torch, "randperm", order)


def trained(name: str, rows: int) -> tuple[MemoryOnPolicyAlgorithm, list[dict[str, float]]]:
    """An agent trained without chance."""
    with pytest.MonkeyPatch.context() as patch:
        without_chance(patch)
        model = ALGORITHMS[name](make_vec_env(Shortened, rows))
        model.set_logger(Logger(None, []))
        figures = Figures()
        model.learn(TOTAL, callback=figures)
    return model, figures.found


def summary(model: MemoryOnPolicyAlgorithm) -> dict[str, Any]:
    """What must be the same in every process."""
    scale = model.reward_scale.state_dict()
    del scale["returns"]
    assert model.controller is not None and model.ep_info_buffer is not None
    return {
        "weights": {name: tensor.detach() for name, tensor in model.policy.state_dict().items()},
        "controller": model.controller.state_dict(),
        "scale": scale,
        "episodes": [(episode["r"], episode["l"]) for episode in model.ep_info_buffer],
        "steps": model.num_timesteps,
        "updates": model._n_updates,
    }


def one_of_two(rank: int, folder: Path) -> None:
    """A process of two: trains, and leaves what came of it in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found = {}
    for name in ALGORITHMS:
        model, figures = trained(name, ROWS // 2)
        found[name] = summary(model) | {"figures": figures}
    found["exact"] = continued(folder)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def continued(folder: Path) -> bool:
    """Whether a checkpoint of both processes goes on exactly in each."""

    def made() -> Any:
        return gym.make_vec("expirespan/CorridorShort-v0", num_envs=2, vectorization_mode="vector_entry_point")

    settings: dict[str, Any] = SETTINGS | {"batch_size": 2 * STEPS}
    model = MemoryPPO("MemoryPolicy", made(), **settings)
    saving = CheckpointCallback(folder / "checkpoint.safetensors", folder / "best.safetensors", every=STEPS * 4)
    model.set_logger(Logger(None, []))
    model.learn(STEPS * 4 * 2, callback=saving)
    saving.save()
    random = torch.get_rng_state()
    again = MemoryPPO.load(saving.path, made(), force_reset=False)
    again.set_logger(Logger(None, []))
    again.learn(STEPS * 4, reset_num_timesteps=False)
    torch.set_rng_state(random)
    model.learn(STEPS * 4, reset_num_timesteps=False)
    pairs = zip(model.policy.parameters(), again.policy.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs) and again.num_timesteps == STEPS * 4 * 3


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("two")
    subprocess.run([sys.executable, __file__, str(folder)], check=True, timeout=120)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_processes_are_the_same_training_as_one(name: str, of_two: list[dict[str, Any]]) -> None:
    model, figures = trained(name, ROWS)
    expected: dict[str, Any] = summary(model) | {"figures": figures}
    assert expected["scale"]["var"] > 4 and expected["episodes"] and max(expected["controller"]["pulls"]) > 0
    for found in of_two:
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_two_processes_goes_on_exactly(of_two: list[dict[str, Any]]) -> None:
    assert [found["exact"] for found in of_two] == [True, True]


def test_workers_train_a_run_that_one_process_goes_on_with(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    run, small = tmp_path / "run", "--env expirespan/CorridorShort-v0 --num-envs 4 --n-steps 16 --batch-size 32"
    small += " --width 16 --ff-width 16 --timeline-every 0"
    train_agent.main([*small.split(), "--workers", "2", "--total-steps", "128", "--out", str(run)])
    said = capfd.readouterr().out
    assert said.count("Trained for 128 steps") == 1
    assert read_checkpoint(run)[1]["processes"] == 2 and read_stages(run)[0].workers == 2
    train_agent.main(["--resume", str(run), "--workers", "1", "--total-steps", "192"])
    said = capfd.readouterr().out
    assert "goes on from 128 steps with new episodes: another number of processes than 2 can't go on" in said
    assert read_checkpoint(run)[1]["num_timesteps"] == 192


def test_environments_that_can_not_be_shared_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="Expect `num_envs` to be a multiple of the 2 processes, actual: 33"):
        train_agent.main(["--num-envs", "33", "--workers", "2", "--out", str(tmp_path / "run")])


if __name__ == "__main__":  # forked, so that what takes long to import is imported once
    start_processes(one_of_two, (Path(sys.argv[1]),), nprocs=2, start_method="fork")


def test_a_signal_while_processes_agree_on_a_stop_counts_at_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was forgotten, or heard by one process alone, whose next message the others took for another."""
    stop = processes.Stop()

    def gathered(own: int) -> list[int]:
        stop.interrupt(signal.SIGTERM, None)  # as its handler is called once the communication has returned
        return [own, 0]

    assert not stop.agree()
    monkeypatch.setattr(processes, "gathered", gathered)
    assert not stop.agree() and stop.signal is None
    stop.interrupt(signal.SIGHUP, None)  # the launcher's
    assert stop.agree() and stop.signal == signal.SIGTERM


def test_a_process_whose_launcher_has_ended_already_does_not_wait_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(processes.LAUNCHER, str(os.getpid()))  # who is not its own parent
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(prctl=lambda *_: 0))
    with pytest.raises(processes.OthersEnded, match="which started this one, to go on, actual: it has ended"):
        with processes.joined_by_torchrun():
            pass
