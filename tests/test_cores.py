"""Agents with any core: they train, are stored and go on, act, and are evaluated; what a core can't do is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expirespan import RecordEpisodes, evaluate, train_agent
from expirespan.agents import MemoryA2C, MemoryPPO
from expirespan.analysis.evaluation import evaluate_policy
from expirespan.cli.config import from_json, parse, to_json
from expirespan.envs import CorridorVectorEnv
from expirespan.memory import CORES, GRUConfig, LSTMConfig
from expirespan.memory.recurrent import Recurrent
from models import corridor, rows_of

SETTINGS: dict[str, dict[str, Any]] = {
    "expire-span": {"width": 16, "heads": 2, "ff_width": 16, "max_span": 40.0, "ramp": 4.0},
    "transformer-xl": {"width": 16, "heads": 2, "ff_width": 16, "window": 5},
    "gtrxl": {"width": 16, "heads": 2, "ff_width": 16, "window": 5},
    "adaptive-span": {"width": 16, "heads": 2, "ff_width": 16, "window": 9, "ramp": 3.0},
    "compressive": {"width": 16, "heads": 2, "ff_width": 16, "window": 4, "compressed": 3, "rate": 2},
    "lstm": {"width": 16},
    "gru": {"width": 16},
    "min-gru": {"width": 16, "ff_width": 16},
    "gated-delta-net": {"width": 16, "heads": 2, "ff_width": 16},
    "none": {"width": 16, "ff_width": 16},
}
OF_FIXED_SIZE = ("lstm", "gru", "min-gru", "gated-delta-net", "none")


def made(core: str, algorithm: type[MemoryPPO | MemoryA2C] = MemoryPPO, **more: Any) -> Any:
    settings = {"n_steps": 16, "batch_size": 32, "seed": 3, "device": "cpu"} | more
    kwargs = {"core": core, "memory": SETTINGS[core]}
    return algorithm("MemoryPolicy", corridor(), policy_kwargs=kwargs, **settings)


def test_all_cores_are_tried() -> None:
    assert set(SETTINGS) == set(CORES)


@pytest.mark.parametrize("core", SETTINGS)
def test_acting_equals_training(core: str) -> None:
    model = made(core)
    model.learn(128)
    _, callback = model._setup_learn(64)
    model.collect_rollouts(rows_of(model), callback, model.rollout_buffer, 16)
    for batch in model.rollout_buffer.get(32):
        now = model._evaluate(batch, first=False)
        torch.testing.assert_close(now.log_prob, batch.old_log_prob, atol=1e-4, rtol=0)
        torch.testing.assert_close(now.values, batch.old_values, atol=1e-4, rtol=0)


@pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C])
@pytest.mark.parametrize("core", [core for core in SETTINGS if core != "expire-span"])
def test_training_goes_on_exactly_where_it_stood(
    core: str, algorithm: type[MemoryPPO | MemoryA2C], tmp_path: Path
) -> None:
    model = made(core, algorithm, anneal=False)
    model.learn(128)
    model.save(tmp_path / "model")
    model.learn(128, reset_num_timesteps=False)
    again = algorithm.load(tmp_path / "model", env=corridor(), device="cpu", force_reset=False)
    assert again.policy.core_config == model.policy.core_config
    again.learn(128, reset_num_timesteps=False)
    for one, other in zip(model.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("core", SETTINGS)
def test_agents_predict_and_are_evaluated(core: str) -> None:
    model = made(core)
    observations, state, starts = rows_of(model).reset(), None, np.ones(4, dtype=bool)
    for _ in range(5):
        actions, state = model.predict(observations, state, starts)
        observations, _, starts, _ = rows_of(model).step(actions)
    found = evaluate_policy(model.policy, CorridorVectorEnv(3, min_length=3, max_length=7), 6, seed=5)
    assert found.live.shape[1] == (0 if core in OF_FIXED_SIZE else 2)
    assert len(found.returns) == 6


def test_a_core_may_be_given_by_its_configuration() -> None:
    policy = MemoryPPO("MemoryPolicy", corridor(), policy_kwargs={"core": GRUConfig(width=8)}, device="cpu").policy
    assert policy.core_config == GRUConfig(width=8) and policy.core.width == 8
    policy = MemoryPPO("MemoryPolicy", corridor(), policy_kwargs={"memory": LSTMConfig(width=8)}, device="cpu").policy
    assert policy.core_config == LSTMConfig(width=8)


class Eager(Recurrent):
    """A GRU that learns at twice the rate."""

    def parameter_groups(self) -> list[tuple[str | float, list[torch.nn.Parameter]]]:
        return [(2.0, list(self.parameters()))]


class EagerConfig(GRUConfig):
    def build(self) -> Eager:
        return Eager(torch.nn.GRU(self.width, self.width, batch_first=True), parts=1)


def test_a_core_may_have_a_learning_rate_of_its_own() -> None:
    kwargs = {"core": EagerConfig(width=8)}
    model = MemoryPPO("MemoryPolicy", corridor(), n_steps=16, policy_kwargs=kwargs, anneal=False, device="cpu")
    model.learn(64)
    rates = {len(group["params"]): group["lr"] for group in model.policy.optimizer.param_groups}
    assert rates[4] == pytest.approx(2 * 7e-4)
    assert sum(rates) == len(list(model.policy.parameters()))


def test_a_budget_is_refused_where_the_core_keeps_none() -> None:
    with pytest.raises(ValueError, match="Expect `memory_budget` not to be given, as Recurrent keeps to no budget"):
        made("lstm", memory_budget=30.0)


@pytest.mark.parametrize("core", OF_FIXED_SIZE)
def test_nothing_is_recorded_of_a_state_of_fixed_size(core: str, tmp_path: Path) -> None:
    model = made(core, tensorboard_log=str(tmp_path))
    with pytest.warns(UserWarning, match=f"RecordEpisodes records nothing: the core {core} keeps no memories"):
        model.learn(64, callback=RecordEpisodes("expirespan/CorridorShort-v0", every=64))


SHORT = ["--env", "expirespan/CorridorShort-v0", "--num-envs", "4", "--n-steps", "16", "--seed", "1"]


@pytest.mark.parametrize("core", ["lstm", "transformer-xl"])
def test_the_command_line_trains_resumes_and_evaluates_any_core(
    core: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    args = [*SHORT, "--core", core, "--width", "16", "--total-steps", "64", "--timeline-every", "64"]
    train_agent.main([*args, "--out", str(run)])
    train_agent.main(["--resume", str(run), "--total-steps", "128"])
    assert json.loads((run / "config.json").read_text())["core"] == core
    evaluate.main([str(run), "--episodes", "4", "--num-envs", "2"])
    said = capsys.readouterr().out
    assert ("no memories of single steps" in said) == (core == "lstm")
    for options, refused in (
        (["--timeline"], core == "lstm"),
        (["--forget", "0"], core == "lstm"),
        (["--cut-span", "3"], core == "lstm"),
    ):
        if refused:
            with pytest.raises(SystemExit, match=r"Expect a core .* such as expire-span.* actual: " + core):
                evaluate.main([str(run), "--episodes", "4", *options])
        else:
            evaluate.main([str(run), "--episodes", "4", *options])
            assert (run / "timeline.png").is_file()


def test_options_of_other_cores_are_refused() -> None:
    assert parse(["--core", "lstm", "--width", "32"]).memory == LSTMConfig(width=32)
    for args, message in (
        (["--core", "lstm", "--window", "4"], "Expect only options that --help lists|Expect `core` to be"),
        (["--core", "lstm", "--memory-budget", "30"], "Expect `core` to be expire-span, as memory_budget is an option"),
        (["--core", "lsmt"], "Expect `core` to be one of .*did you mean 'lstm'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(args)


def test_configurations_of_runs_from_before_there_were_other_cores_are_read() -> None:
    document = json.loads(to_json((parse([]),)))
    del document["core"], document["format"]
    assert from_json(json.dumps(document)) == (parse([]),)


def test_configurations_from_before_there_were_several_processes_name_none() -> None:
    document = json.loads(to_json((parse([]),))) | {"format": 2}
    del document["workers"]
    assert from_json(json.dumps(document)) == (parse([]),)


@pytest.mark.parametrize("number", [None, 1, 4, "3", True])
def test_configurations_of_another_format_are_refused(number: object) -> None:
    document = json.loads(to_json((parse([]),))) | {"format": number}
    with pytest.raises(
        ValueError, match=f"Expect the format 2 or 3, or none as older runs have it, actual: {number!r}"
    ):
        from_json(json.dumps(document))
