"""An agent as a file and back."""

import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import MemoryPPO
from expirespan.agents.checkpoint.file import optimizer_tensors, read_checkpoint, under, write_checkpoint
from expirespan.agents.checkpoint.values import plain, rebuilt
from expirespan.agents.numbers_extractor import NumbersExtractor
from expirespan.agents.policy import MemoryActorCriticPolicy
from expirespan.agents.vec_env import as_vec_env
from expirespan.memory import ExpireSpanConfig
from gymnasium import spaces
from models import SMALL, corridor, rows_of, small, span_config, span_core, weights
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecFrameStack
from torch import Tensor, nn


def test_a_saved_policy_keeps_its_memory_options(tmp_path: Path) -> None:
    policy = small().policy
    policy.save(str(tmp_path / "policy.pt"))
    assert MemoryActorCriticPolicy.load(str(tmp_path / "policy.pt")).core_config == policy.core_config


def test_a_loaded_model_begins_with_other_episodes_than_training_did(tmp_path: Path) -> None:
    model = small(corridor(min_length=3, max_length=200))
    first = rows_of(model).reset()
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", env=corridor(min_length=3, max_length=200), device="cpu")
    again = rows_of(loaded).reset()
    assert isinstance(first, np.ndarray) and isinstance(again, np.ndarray) and (first != again).any()


def test_saved_model_acts_the_same_and_its_file_executes_nothing(tmp_path: Path) -> None:
    model = small(tensorboard_log=tmp_path / "events")
    model.learn(128)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert archive.namelist() == ["checkpoint.safetensors"]
    loaded = MemoryPPO.load(tmp_path / "model", device="cpu")
    obs = corridor().reset(seed=1)[0]
    for mine, theirs in zip(weights(model), weights(loaded), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert model.predict(obs, deterministic=True)[0].tolist() == loaded.predict(obs, deterministic=True)[0].tolist()
    assert loaded.num_timesteps == 128 and loaded.config == model.config
    assert loaded.policy.core_config == ExpireSpanConfig(**SMALL["memory"])


def test_training_continues_exactly_from_a_file(tmp_path: Path) -> None:
    whole = small(anneal=False)  # an annealed step size depends on the total
    whole.learn(16 * 4 * 6)
    half = small(anneal=False)
    half.learn(16 * 4 * 3)
    half.save(tmp_path / "half")
    rest = MemoryPPO.load(tmp_path / "half", env=corridor(), device="cpu", force_reset=False)
    rest.learn(16 * 4 * 3, reset_num_timesteps=False)
    for mine, theirs in zip(weights(whole), weights(rest), strict=True):
        assert torch.equal(mine, theirs)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model = small()
    model.save(tmp_path / "model")
    model.save(tmp_path / "plain.safetensors")
    data = (tmp_path / "plain.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a readable checkpoint"):
        MemoryPPO.load(tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        MemoryPPO.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="spaces do not match"):
        MemoryPPO.load(tmp_path / "model", env=corridor(view_size=5))


@pytest.mark.parametrize(
    ("entry", "change", "message"),
    [
        ("time", Tensor.float, r"`time` to be int64 \[B\] with B > 0, actual: float32 \[4\]"),
        ("time", lambda time: time - 9999, r"`time` to be from 0 to 2\^53, actual: -"),
        (
            "1.live",
            lambda live: live[:, :1].repeat(1, 9999),
            r"`1\.live` to be bool \[4, \d+\], actual: bool \[4, 9999\]",
        ),
        ("0.birth", Tensor.int, r"`0\.birth` to be int64 \[4, \d+\], actual: int32"),
        ("0.hidden", lambda hidden: hidden[..., :5], r"`1.hidden` to be .*, of one type and D > 0 in all layers"),
        ("0.hidden", lambda hidden: hidden * torch.nan, r"`memory/0\.hidden` to be finite, actual: nan"),
        ("1.hidden", None, r"entries time, 0\.hidden, 0\.birth, 0\.live, 1\.hidden, .*, actual: 0\.birth, "),
    ],
)
def test_memories_that_no_core_could_have_stored_are_refused(
    entry: str, change: Any, message: str, tmp_path: Path
) -> None:
    """C would take them as they are: a file must not decide what memory is read."""
    model = small()
    model.learn(64)
    model.save(tmp_path / "model")
    tensors, document = read_checkpoint(tmp_path / "model")
    stored = tensors.pop(f"memory/{entry}")
    if change is not None:
        tensors[f"memory/{entry}"] = change(stored).contiguous()
    write_checkpoint(tmp_path / "crafted", tensors, document)
    with pytest.raises(ValueError, match=message):
        MemoryPPO.load(tmp_path / "crafted", env=corridor(), device="cpu", force_reset=False)


@pytest.mark.parametrize(
    ("entry", "change", "message"),
    [
        ("last_obs/", lambda obs: obs[:, :-1], r"Expect the entry `last_obs` to be \{'': \(dtype\('.*\), \(4, 3, 3"),
        ("last_obs/", lambda obs: obs[:2], r"Expect the entry `last_obs` to be .*, actual: .*\(2, 3"),
        ("last_obs/", Tensor.double, r"Expect the entry `last_obs` to be .*, actual: .*float64"),
        ("last_episode_starts", Tensor.float, r"`last_episode_starts` to be bool \[4\], actual: torch.float32 \[4\]"),
        ("last_episode_starts", lambda starts: starts[:3], r"`last_episode_starts` to be bool \[4\], actual: .* \[3\]"),
    ],
)
def test_last_observations_of_another_kind_are_refused(entry: str, change: Any, message: str, tmp_path: Path) -> None:
    model = small()
    model.learn(64)
    model.save(tmp_path / "model")
    tensors, document = read_checkpoint(tmp_path / "model")
    tensors[entry] = change(tensors[entry]).contiguous()
    write_checkpoint(tmp_path / "crafted", tensors, document)
    with pytest.raises(ValueError, match=message):
        MemoryPPO.load(tmp_path / "crafted", env=corridor(), device="cpu", force_reset=False)


class Doubled(FlattenExtractor):
    """A features extractor that no file may name."""


def test_what_a_file_cannot_hold_must_be_given_again(tmp_path: Path) -> None:
    kwargs = SMALL | {"features_extractor_class": Doubled}
    small(policy_kwargs=kwargs).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"`policy_kwargs` to be given: .* policy_kwargs\.features_extractor_class"):
        MemoryPPO.load(tmp_path / "model")
    assert MemoryPPO.load(tmp_path / "model", policy_kwargs=kwargs).policy_kwargs["features_extractor_class"]


FILES = Path(__file__).parent / "files"
"""Checkpoints that version 0.1.0 wrote at commit 300aae9, before the format said what observations are."""


@pytest.mark.parametrize(
    ("name", "observation", "values", "actions"),
    [
        (
            "checkpoint-1-dictionary",
            {"velocity": np.array([[0.9], [-0.3]], np.float32), "angle": np.array([[-0.4], [0.7]], np.float32)},
            [0.0273543, 0.0362822],
            [[1, 1], [1, 1]],
        ),
        (
            "checkpoint-1-codes",
            corridor(2, min_length=3, max_length=7).reset(seed=1)[0],
            [0.0103772, 0.0150577],
            [0, 0],
        ),
    ],
)
def test_files_of_the_first_format_are_read_as_they_were_meant(
    name: str, observation: Any, values: list[float], actions: list[Any]
) -> None:
    model = MemoryPPO.load(FILES / name, device="cpu")
    assert not model.normalize_observations  # as it was then, however long training goes on
    seen, starts = model.policy.obs_to_tensor(observation)[0], torch.ones(2, dtype=torch.bool)
    with torch.no_grad():
        action = model.policy.act(seen, model.policy.initial_state(2), starts, deterministic=True)
    assert action.values.tolist() == pytest.approx(values, abs=1e-6) and action.actions.tolist() == actions


def values_of_five_steps(model: MemoryPPO) -> list[float]:
    """The values of the last of five steps of an episode, in two environments."""
    state, starts, last = model.policy.initial_state(2), torch.ones(2, dtype=torch.bool), []
    for step in range(5):
        seen = torch.tensor([[0.1 * step, -0.2, 0.05, 0.3], [-0.3, 0.1 * step, 0.02 * step, -1.0]])
        with torch.no_grad():
            action = model.policy.act(seen, state, starts, deterministic=True)
        state, starts, last = action.state, torch.zeros(2, dtype=torch.bool), action.values.tolist()
    return last


@pytest.mark.parametrize(
    ("name", "values", "window"),
    [
        ("checkpoint-2-window", [0.2572736, 0.2607765], 3),
        ("checkpoint-2-defaults", [0.0261446, 0.0271988], 0),  # those of then: two heads, and no order in time
    ],
)
def test_files_of_the_second_format_are_read_as_they_were_meant(name: str, values: list[float], window: int) -> None:
    """Written at commit 3e7be74, before memories had a bias for their age."""
    model = MemoryPPO.load(FILES / name, env=make_vec_env("CartPole-v1", 4), device="cpu")
    assert (span_config(model).heads, span_config(model).position_window) == (2, window)
    assert not model.normalize_observations
    assert values_of_five_steps(model) == pytest.approx(values, abs=1e-6)
    model.learn(64)
    assert model.num_timesteps >= 64
    longer = MemoryPPO.load(FILES / name, policy_kwargs={"memory": {"max_span": 100.0}})
    assert (span_config(longer).heads, span_config(longer).position_window) == (2, window)
    # The first is below the ramp of 4, which was no error then.
    assert model.pressure_config.memory_budget in (2.0, 20.0)


def test_files_of_the_third_format_are_read_as_they_were_meant() -> None:
    """Written at commit 5689c31, with the bias of each age as it is."""
    model = MemoryPPO.load(FILES / "checkpoint-3", env=make_vec_env("CartPole-v1", 4), device="cpu")
    assert model.normalize_observations and not model.policy.optimizer.state
    assert values_of_five_steps(model) == pytest.approx([0.2190802, 0.2658209], abs=1e-6)
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps >= 256 + 64


def test_files_of_the_fourth_format_are_read_as_they_were_meant() -> None:
    """Written at commit 66d9dc2, before attention told its counts."""
    model = MemoryPPO.load(FILES / "checkpoint-4", env=make_vec_env("CartPole-v1", 4), device="cpu")
    assert next(span_core(model).stack()).output.weight[:, 16:].count_nonzero() == 0
    assert not model.policy.optimizer.state
    assert values_of_five_steps(model) == pytest.approx([0.0823915, 0.0394697], abs=1e-6)
    model.learn(64, reset_num_timesteps=False)
    assert next(span_core(model).stack()).output.weight[:, 16:].count_nonzero() > 0


def test_files_of_the_fifth_format_are_read_as_they_were_meant() -> None:
    """Written at commit 6c12072, with stored memories as the norm made them instead of the layer's inputs."""
    model = MemoryPPO.load(FILES / "checkpoint-5", env=make_vec_env("CartPole-v1", 4), device="cpu")
    assert model.policy.optimizer.state
    assert values_of_five_steps(model) == pytest.approx([1.7062653, 0.4531472], abs=1e-6)
    tensors, _ = read_checkpoint(FILES / "checkpoint-5")
    state = span_core(model).restore_state(under("memory", tensors)).compact()
    keys_values = [(layer.key_value * layer.live.unsqueeze(2)).square().sum().item() for layer in state.layers]
    spans = [(layer.span * layer.live).sum().item() for layer in state.layers]
    # Those written before the last updates came from an earlier norm.
    assert keys_values == pytest.approx([4073.763, 3774.452], rel=0.01)
    assert spans == pytest.approx([3813.046, 3778.244], rel=0.01)
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps >= 320 + 64


@pytest.mark.parametrize(
    ("core", "values"), [("transformer-xl", [0.7650153, 1.6488681]), ("gtrxl", [-0.0977212, 0.6437255])]
)
def test_windows_of_the_fifth_format_are_read_as_they_were_meant(core: str, values: list[float]) -> None:
    """Written at commit 6c12072, when Transformer-XL was no Expire-Span with fixed spans."""
    env = make_vec_env("CartPole-v1", 4)
    model = MemoryPPO.load(FILES / f"checkpoint-5-{core}", env=env, device="cpu", force_reset=False)
    assert values_of_five_steps(model) == pytest.approx(values, abs=1e-6)
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 192


def test_files_of_the_sixth_format_are_read_as_they_were_meant() -> None:
    """Written at commit 1afe5f5, without a digest."""
    model = MemoryPPO.load(FILES / "checkpoint-6", env=make_vec_env("CartPole-v1", 4), device="cpu")
    assert model.policy.optimizer.state
    assert values_of_five_steps(model) == pytest.approx([0.9138024, -0.1486436], abs=1e-6)
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps >= 192


@pytest.mark.parametrize(
    ("core", "values", "whole"),
    [
        ("expire-span", [0.8444349, 1.5461970], True),
        ("gtrxl", [0.2146922, 0.9427859], False),
        ("adaptive-span", [0.3666243, 0.8084217], False),
        ("compressive", [1.3797855, 0.6724816], False),
    ],
)
def test_files_of_the_seventh_format_are_read_as_they_were_meant(core: str, values: list[float], whole: bool) -> None:
    """Written at commit b9610d8, when the first norm had another name, and windows were no Expire-Span's."""
    env = make_vec_env("CartPole-v1", 4)
    model = MemoryPPO.load(FILES / f"checkpoint-7-{core}", env=env, device="cpu", force_reset=False)
    assert bool(model.policy.optimizer.state) == whole
    assert bool(under("memory", read_checkpoint(FILES / f"checkpoint-7-{core}")[0])) == (whole or core == "compressive")
    assert values_of_five_steps(model) == pytest.approx(values, abs=1e-6)
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 192


def test_files_of_the_ninth_format_go_on_without_a_normalised_value_loss() -> None:
    """Written at commit d48e4de, which had no such setting."""
    env = make_vec_env("CartPole-v1", 4)
    model = MemoryPPO.load(FILES / "checkpoint-9", env=env, device="cpu", force_reset=False)
    assert values_of_five_steps(model) == pytest.approx([0.0248485, 0.0322140], abs=1e-6)
    assert model.normalize_value_loss is False
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 192
    asked = MemoryPPO.load(FILES / "checkpoint-9", env=env, device="cpu", normalize_value_loss=True)
    assert asked.normalize_value_loss is True


@pytest.mark.parametrize(
    ("core", "values"),
    [("lstm", [0.01578080, 0.01235057]), ("none", [0.01566700, 0.03674324])],
)
def test_files_of_the_tenth_format_go_on_with_a_critic_that_does_not_know_the_time(
    core: str, values: list[float]
) -> None:
    """Written at commit 16d0317, when the states of these cores had no clock."""
    env = make_vec_env("CartPole-v1", 4)
    model = MemoryPPO.load(FILES / f"checkpoint-10-{core}", env=env, device="cpu", force_reset=False)
    assert values_of_five_steps(model) == pytest.approx(values, abs=1e-6)
    assert model.policy.time_value is None
    stored = under("memory", read_checkpoint(FILES / f"checkpoint-10-{core}")[0])
    assert model.policy.core.restore_state(stored).time.tolist() == [0] * 4
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 256


def test_extractors_of_this_package_are_stored_by_name(tmp_path: Path) -> None:
    model = small(make_vec_env("CartPole-v1", 4), policy_kwargs=SMALL | {"features_extractor_class": NumbersExtractor})
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", device="cpu")
    assert type(loaded.policy.features_extractor) is NumbersExtractor


def test_wrappers_that_keep_something_begin_new_episodes(tmp_path: Path) -> None:
    def stacked() -> VecFrameStack:
        return VecFrameStack(as_vec_env(corridor(), "numbers"), 3)

    model = small(stacked(), policy_kwargs=SMALL | {"observations": "numbers"})
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", env=stacked(), device="cpu", force_reset=False)
    assert loaded._last_obs is None  # the frames of the stack are lost
    loaded.learn(64, reset_num_timesteps=False)


def test_a_folder_does_not_hide_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    with pytest.raises(ValueError, match=r"Expect a checkpoint, or a run folder .* actual: the folder"):
        MemoryPPO.load(tmp_path / "best")
    model = small()
    model.save(tmp_path / "best")
    assert MemoryPPO.load(tmp_path / "best", device="cpu").config == model.config


def test_parts_of_observations_may_have_any_name(tmp_path: Path) -> None:
    for names in ("class",), ("schedule", "other"):
        kinds = dict.fromkeys(names, "numbers")
        model = small(Rooms(names), batch_size=16, policy_kwargs=SMALL | {"observations": kinds})
        model.save(tmp_path / "model")
        assert MemoryPPO.load(tmp_path / "model").policy.observations == kinds


class Rooms(gym.Env):
    action_space = spaces.Discrete(2)

    def __init__(self, names: tuple[str, ...]) -> None:
        self.observation_space = spaces.Dict([(name, spaces.Box(-1, 1, (2,))) for name in names])


def test_numpys_numbers_are_stored_as_pythons(tmp_path: Path) -> None:
    small(seed=np.int64(5), stats_window_size=np.int64(7)).learn(64).save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", device="cpu").arguments()
    assert loaded["seed"] == 5 and loaded["stats_window_size"] == 7


def test_arguments_are_checked_when_a_model_is_loaded(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Expect `batch_size` to be a multiple of `n_steps` \(16\), .* actual: 20"):
        MemoryPPO.load(tmp_path / "model", batch_size=20)
    with pytest.raises(ValueError, match=r"Expect `batch_size` to be a multiple of `n_steps` \(10\), .* actual: 32"):
        MemoryPPO.load(tmp_path / "model", n_steps=10)
    with pytest.raises(ValueError, match="Expect `memory_budget` to be at least 4"):
        MemoryPPO.load(tmp_path / "model", memory_budget=1.0)
    loaded = MemoryPPO.load(tmp_path / "model", env=corridor(1), device="cpu")
    assert loaded.batch_size == 16  # of 32, for which there are too few environments now
    loaded.save(tmp_path / "fewer")
    assert MemoryPPO.load(tmp_path / "fewer", env=corridor(4), device="cpu").batch_size == 32


def test_a_size_of_minibatches_that_was_changed_is_stored(tmp_path: Path) -> None:
    model = small(batch_size=None)
    model.save(tmp_path / "model")
    assert MemoryPPO.load(tmp_path / "model", env=corridor(2), device="cpu").arguments()["batch_size"] is None
    model.batch_size = 64
    model.save(tmp_path / "model")
    assert MemoryPPO.load(tmp_path / "model", env=corridor(), device="cpu").batch_size == 64


OUT_OF_RANGE = [
    ("ent_coef", -0.001, "`ent_coef` to be at least 0, actual: -0.001"),
    ("vf_coef", -1.0, r"`vf_coef` to be at least 0, actual: -1\.0"),
    ("clip_range", 0.0, r"`clip_range` to be positive, actual: 0\.0"),
    ("max_grad_norm", 0.0, r"`max_grad_norm` to be positive, actual: 0\.0"),
    ("target_kl", 0.0, r"`target_kl` to be positive, actual: 0\.0"),
    ("n_epochs", 0, "`n_epochs` to be at least 1, actual: 0"),
]
"""Settings after construction, and what the constructor says of such a value."""


@pytest.mark.parametrize(("name", "value", "message"), OUT_OF_RANGE)
def test_a_setting_changed_to_one_out_of_range_is_refused_where_it_is_used(
    name: str, value: float, message: str, tmp_path: Path
) -> None:
    model = small()
    model.save(tmp_path / "model")
    before, written = weights(model), (tmp_path / "model.zip").read_bytes()
    setattr(model, name, value)
    with pytest.raises(ValueError, match=f"^Expect {message}"):
        model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"^Expect {message}"):
        model.learn(64)
    assert (tmp_path / "model.zip").read_bytes() == written
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


@pytest.mark.parametrize(("name", "value", "message"), [*OUT_OF_RANGE, ("seed", -1, "`int` >= 0 at `seed`")])
def test_a_file_with_a_setting_out_of_range_can_be_read_with_another(
    name: str, value: float, message: str, tmp_path: Path
) -> None:
    """Version 0.1.0 wrote such files."""
    small(seed=3).save(tmp_path / "model.safetensors")
    tensors, document = read_checkpoint(tmp_path / "model.safetensors")
    document["arguments"][name] = value
    write_checkpoint(tmp_path / "old", tensors, document)
    with pytest.raises(ValueError, match=message):
        MemoryPPO.load(tmp_path / "old", device="cpu")
    other: dict[str, Any] = {name: 1 if name in ("n_epochs", "seed") else 0.5}
    ways: list[dict[str, Any]] = [other, {"custom_objects": other}]
    for given in ways:
        assert MemoryPPO.load(tmp_path / "old", device="cpu", **given).arguments()[name] == other[name]


def test_gradients_may_be_as_long_as_they_are(tmp_path: Path) -> None:
    model = small(max_grad_norm=float("inf")).learn(64)
    model.save(tmp_path / "model")
    assert MemoryPPO.load(tmp_path / "model", device="cpu").max_grad_norm == float("inf")


def test_a_clip_range_may_fall_to_0(tmp_path: Path) -> None:
    settings: dict[str, Any] = {name: lambda left: max(left - 0.5, 0.0) for name in ("clip_range", "clip_range_vf")}
    model = small(**settings).learn(16 * 4 * 4)
    assert model.logger.name_to_value["train/clip_range"] == model.logger.name_to_value["train/clip_range_vf"] == 0
    model.save(tmp_path / "model")
    player = MemoryPPO.load(tmp_path / "model", device="cpu")
    player.save(tmp_path / "player")
    again = MemoryPPO.load(tmp_path / "player", env=corridor(), device="cpu", **settings)
    assert again.clip_range(1.0) == 0.5
    again.learn(64)


def test_what_a_monitor_records_is_left_out_where_no_file_can_hold_it(tmp_path: Path) -> None:
    model = small()
    cycle: list[Any] = [1]
    cycle += [cycle, cycle]
    deep: Any = 0
    for _ in range(2000):
        deep = [deep]
    kept = {"r": 1.0, "l": 2, "goal": (np.int64(3), {"at": [np.float32(0.5)]}), "map": "forest"}
    lost = {"pair": {(0, 1): 2}, "number": {np.int64(1): 2}, "cycle": cycle, "deep": deep, "large": 10**5000}
    model.restore_statistics([kept | lost | {"part": {"cycle": cycle, "kept": 1}}], [])
    model.save(tmp_path / "model")
    episodes = MemoryPPO.load(tmp_path / "model", device="cpu").ep_info_buffer
    assert episodes is not None
    assert episodes[0] == kept | {"goal": [3, {"at": [0.5]}], "part": {"kept": 1}}


def test_numpys_numbers_in_policy_kwargs_are_stored_as_pythons(tmp_path: Path) -> None:
    memory = {name: np.int64(value) for name, value in {"width": 16, "layers": 1, "heads": 2, "ff_width": 16}.items()}
    model = small(policy_kwargs={"memory": memory | {"ramp": np.float32(4)}}).learn(64)
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", env=corridor(), device="cpu").learn(64)
    assert span_config(loaded) == span_config(model) and type(span_config(model).width) is int
    layers = {"pi": [np.int64(5), 7], "vf": (np.int64(3),)}
    lost: list[str] = []
    assert plain(layers, "net_arch", lost) == {"pi": [5, 7], "vf": [3]} and not lost
    assert plain({"a": [nn.ReLU, [1]]}, "layers", lost) == {"a": [{"class": ANY}, [1]]} and not lost
    assert rebuilt(plain([{"act": nn.ReLU}], "layers", lost)) == [{"act": nn.ReLU}]
    assert plain({"a": [1, object()], "b": 2}, "layers", lost) == {"b": 2} and lost == ["layers.a"]


@pytest.mark.parametrize("as_stream", [False, True])
def test_the_optimizers_state_is_set_with_the_parameters(as_stream: bool, tmp_path: Path) -> None:
    model, other, another = small().learn(64), small(seed=4), small(seed=4)
    model.save(tmp_path / "model")
    if as_stream:
        with (tmp_path / "model.zip").open("rb") as file:
            other.set_parameters(file)
    else:
        other.set_parameters(tmp_path / "model")
    another.set_parameters(model.get_parameters())
    expected = optimizer_tensors(model.policy.optimizer)
    for same in (other, another):
        found = optimizer_tensors(same.policy.optimizer)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    rms = small(policy_kwargs=SMALL | {"optimizer_class": torch.optim.RMSprop})
    rms.set_parameters(tmp_path / "model")
    larger = small(policy_kwargs=SMALL | {"share_features_extractor": False})
    larger.set_parameters(tmp_path / "model", exact_match=False)
    assert not rms.policy.optimizer.state and not larger.policy.optimizer.state


@pytest.mark.parametrize("part", ["", "core", "action_net"])
def test_parameters_of_compiled_parts_are_those_of_others(part: str, tmp_path: Path) -> None:
    model, plain = small().learn(64), small(seed=4)
    owner: Any = model.policy if part else model
    setattr(owner, part or "policy", torch.compile(getattr(owner, part or "policy"), backend="eager"))
    plain.set_parameters(model.get_parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(plain), strict=True))
    other = small(seed=5)
    for given in (other.get_parameters(), tmp_path / "other"):
        other.save(tmp_path / "other")
        model.set_parameters(given)
        assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))
