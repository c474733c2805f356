"""The exported step against the model, step by step over episodes whose rows begin at different times."""

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from expirespan.agents import MemoryPPO, MiniGridExtractor, TokenLineExtractor
from expirespan.agents.export import export_policy, parameters, to_onnx
from expirespan.memory.adaptive_span import AdaptiveSpan
from expirespan.memory.expire_span.fixed_slots import FixedSlots, enough_slots, fixed_slots
from gymnasium import spaces
from models import SMALL, span_core
from reference import randomize
from torch import Tensor

STEPS, ROWS = 31, 3
MEMORY = SMALL["memory"] | {"layers": 1, "max_span": 17.0, "initial_span": 0.4}
Step = Callable[[Any, dict[str, Tensor], Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]


class Shown(gym.Env):
    """Any spaces."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


def made(observation: spaces.Space, action: spaces.Space, extractor: Any = None, **memory: Any) -> MemoryPPO:
    """A model whose outputs depend on all that it remembers."""
    kwargs = {"memory": MEMORY | memory} | ({"features_extractor_class": extractor} if extractor else {})
    model = MemoryPPO("MemoryPolicy", Shown(observation, action), policy_kwargs=kwargs, seed=3, device="cpu")
    randomize(model.policy, 5)
    return model


def observed(space: spaces.Space, codes: bool) -> list[Any]:
    """For each step a batch of observations."""
    space.seed(7)
    batches = [[space.sample() for _ in range(ROWS)] for _ in range(STEPS)]
    if isinstance(space, spaces.Dict):
        return [{name: np.stack([obs[name] for obs in batch]) for name in space} for batch in batches]
    stacked = [np.stack(batch) for batch in batches]
    return [(batch % [11, 6, 3]).astype(np.uint8) for batch in stacked] if codes else stacked


def slots_of(model: MemoryPPO, rows: int, slots: int) -> dict[str, Tensor]:
    return fixed_slots(model.policy.initial_state(rows), slots)


def compare(model: MemoryPPO, step: Step, slots: int, codes: bool = False) -> list[np.ndarray]:
    """Play both; returns the actions.  Rows are reset at random, so they are out of phase."""
    policy, space = model.policy, model.action_space
    memory, state, played = policy.initial_state(ROWS), slots_of(model, ROWS, slots), []
    starts = torch.rand(STEPS, ROWS, generator=torch.Generator().manual_seed(11)) < 0.1
    starts[0] = True
    for obs, start in zip(observed(model.observation_space, codes), starts, strict=True):
        tensor = policy.obs_to_tensor(obs)[0]
        with torch.no_grad():
            core = policy.core(policy.features(tensor).unsqueeze(1), memory, start.unsqueeze(1))
            expected, values = policy._heads(core.y.squeeze(1), time=policy.time_of(memory, start))
        actions, memory = model.predict(obs, memory, start.numpy(), deterministic=True)
        outputs, state = step(tensor, state, start)
        for name, wanted in (*parameters(expected).items(), ("values", values)):
            torch.testing.assert_close(outputs[name], wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state["time"], memory.time)
        assert not outputs["overflow"].any()
        taken = outputs["actions"].numpy()
        if isinstance(space, spaces.Box):
            whole = np.issubdtype(space.dtype, np.integer)
            np.testing.assert_allclose(taken, np.rint(actions) if whole else actions, rtol=0, atol=1e-5)
        elif not np.any(getattr(space, "start", 0)):
            np.testing.assert_array_equal(taken, actions)
        assert taken.dtype == space.dtype
        assert all(action in space for action in taken)
        played.append(taken)
    return played


VECTOR = spaces.Box(-1, 1, (3,), np.float32)
MIXED = spaces.Dict({"b": spaces.MultiBinary(4), "a": spaces.MultiDiscrete([3, 2]), "c": spaces.Discrete(5)})
PICTURE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
CASES = {
    "vector, two layers, positions": (made, VECTOR, spaces.Discrete(4), {"layers": 2, "position_window": 5}),
    "dictionary": (made, MIXED, spaces.Box(-0.5, 1.5, (2, 1), np.float32), {"pre_norm": False}),
    "picture, whole numbers": (made, PICTURE, spaces.Box(0, 2, (2,), np.int32), {"capacity": 5}),
}


@pytest.mark.parametrize(("build", "observation", "action", "memory"), CASES.values(), ids=list(CASES))
def test_the_program_does_what_the_model_does(
    build: Callable[..., MemoryPPO], observation: spaces.Space, action: spaces.Space, memory: dict[str, Any]
) -> None:
    model = build(observation, action, **memory)
    slots = enough_slots(span_core(model))
    assert slots == (6 if "capacity" in memory else 21)
    program = export_policy(model.policy, slots=None if "capacity" in memory else slots).module()
    played = compare(model, program, slots)
    assert len(np.unique(np.stack(played), axis=0)) > 3
    one = {name: part[:1] for name, part in observed_tensor(model).items()}
    outputs, _ = program(one.get("", one), slots_of(model, 1, slots), torch.ones(1, dtype=torch.bool))
    assert len(outputs["values"]) == 1


@pytest.mark.parametrize("core", ["transformer-xl", "gtrxl", "adaptive-span"])
def test_windows_are_exported_as_well(core: str) -> None:
    memory = {"layers": 1, "width": 8, "heads": 2, "ff_width": 8, "window": 6}
    env = Shown(VECTOR, spaces.Discrete(4))
    model = MemoryPPO("MlpPolicy", env, policy_kwargs={"core": core, "memory": memory}, seed=3, device="cpu")
    randomize(model.policy, 5)
    if isinstance(model.policy.core, AdaptiveSpan):
        next(model.policy.core.adaptive()).share.data.copy_(torch.tensor([0.2, 0.6]))
    compare(model, export_policy(model.policy, slots=7).module(), 7)


def test_a_core_without_slots_is_refused() -> None:
    env = Shown(VECTOR, spaces.Discrete(4))
    model = MemoryPPO("MlpPolicy", env, policy_kwargs={"core": "lstm", "memory": {"width": 8}}, device="cpu")
    with pytest.raises(
        ValueError, match=r"Expect a policy with the core expire-span, .* or adaptive-span, actual: lstm"
    ):
        export_policy(model.policy)


def observed_tensor(model: MemoryPPO) -> dict[str, Tensor]:
    tensor = model.policy.obs_to_tensor(observed(model.observation_space, False)[0])[0]
    return tensor if isinstance(tensor, dict) else {"": tensor}


ONNX = {
    "codes": (spaces.Box(0, 255, (5, 5, 3), np.uint8), spaces.MultiDiscrete([3, 2]), MiniGridExtractor, {}, None),
    "tokens": (spaces.Box(0, 50, (7,), np.int64), spaces.MultiBinary(3), TokenLineExtractor, {"capacity": 3}, ROWS),
    "box": (spaces.Box(-1, 1, (3,)), spaces.Box(-0.3, 0.2, (2,)), None, {}, None),
    "whole numbers": (spaces.Box(-1, 1, (3,)), spaces.Box(-1, 2, (2,), np.int32), None, {}, None),
}


@pytest.mark.parametrize(("observation", "action", "extractor", "memory", "batch_size"), ONNX.values(), ids=list(ONNX))
def test_onnx_does_what_the_model_does(
    observation: spaces.Space,
    action: spaces.Space,
    extractor: Any,
    memory: dict[str, Any],
    batch_size: int | None,
    tmp_path: Path,
) -> None:
    model = made(observation, action, extractor, **memory)
    slots = enough_slots(span_core(model))
    to_onnx(model.policy, tmp_path / "step.onnx", slots=slots, batch_size=batch_size)
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    given, returned = session.get_inputs(), [output.name for output in session.get_outputs()]
    assert {part.shape[0] for part in given} == {batch_size or "batch"}
    names = [f"{part}_0" for part in ("key_value", "span", "birth", "live")]
    assert [part.name for part in given] == [
        "observation", "state_time", *(f"state_{name}" for name in names), "episode_start"
    ]  # fmt: skip
    drawn_from = ["mean", "std"] if isinstance(action, spaces.Box) else ["logits"]
    after = [f"next_state_{name}" for name in ["time", *names]]
    assert returned == ["actions", *drawn_from, "values", "overflow", *after]

    def step(obs: Any, state: dict[str, Tensor], start: Tensor) -> Any:
        inputs = {"observation": obs, "episode_start": start} | {f"state_{name}": part for name, part in state.items()}
        results = session.run(None, {name: part.numpy() for name, part in inputs.items()})
        outputs = {name: torch.as_tensor(result) for name, result in zip(returned, results, strict=True)}
        return outputs, {name: outputs[f"next_state_{name}"] for name in state}

    compare(model, step, slots, codes=extractor is MiniGridExtractor)


def test_the_examples_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs" / "deployment.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec("\n".join(blocks), {})
    assert len(blocks) == 5
    assert {"step.onnx", "step.pt2", "ann.state"} <= {path.name for path in tmp_path.iterdir()}


def test_discrete_actions_begin_at_their_start() -> None:
    model = made(VECTOR, spaces.Discrete(3, start=-1))
    program = export_policy(model.policy, slots=2, batch_size=5).module()
    outputs, _ = program(torch.randn(5, 3), slots_of(model, 5, 2), torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(outputs["actions"], outputs["logits"].argmax(1) - 1)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=10),
        spaces.Discrete(4, start=-6),
        spaces.MultiDiscrete([3, 2], start=[2, 2]),
        spaces.Dict({"class": spaces.Discrete(4, start=10), "b": VECTOR}),
    ],
)
def test_the_program_runs_on_its_own_example_where_no_class_is_0(space: spaces.Space) -> None:
    """Names of an ONNX file's inputs and outputs are found by running it."""
    program = export_policy(made(space, spaces.Discrete(3)).policy, slots=2)
    assert program.example_inputs is not None
    outputs, _ = program.module()(*program.example_inputs[0])
    assert outputs["logits"].shape == (2, 3)


def test_a_box_without_dimensions_is_acted_in() -> None:
    model = made(VECTOR, spaces.Box(-0.5, 0.25, ()))
    program = export_policy(model.policy, slots=2, batch_size=5).module()
    outputs, _ = program(torch.randn(5, 3), slots_of(model, 5, 2), torch.ones(5, dtype=torch.bool))
    assert outputs["actions"].shape == (5,)


def test_a_row_with_more_memories_than_slots_says_so(tmp_path: Path) -> None:
    model, slots = made(VECTOR, spaces.Discrete(4)), 4
    policy = model.policy
    torch.export.save(export_policy(policy, slots=slots, batch_size=ROWS), tmp_path / "step.pt2")
    program = torch.export.load(tmp_path / "step.pt2").module()
    memory, state = policy.initial_state(ROWS), slots_of(model, ROWS, slots)
    exact, overflown = torch.ones(ROWS, dtype=torch.bool), 0
    for number, obs in enumerate(observed(VECTOR, False)):
        start = torch.full((ROWS,), number == 0)
        step = policy.act(torch.as_tensor(obs), memory, start, deterministic=True, trace=True)
        outputs, state = program(torch.as_tensor(obs), state, start)
        assert step.trace is not None
        memory, live = step.state, step.trace[0].live.squeeze(1)
        # Exact until a row has more memories than slots, its own included, and told at that very step.
        torch.testing.assert_close(outputs["overflow"][exact], live[exact] > slots)
        overflown += int(outputs["overflow"].sum())
        exact = exact & ~outputs["overflow"]
        torch.testing.assert_close(outputs["values"][exact], step.values[exact], rtol=0, atol=1e-5)
        assert int(state["live_0"].sum(1).max()) <= slots
    assert overflown > 10
    assert not exact.any()


def test_the_memory_that_expires_first_makes_room() -> None:
    memory = FixedSlots(
        ramp=4.0,
        hidden=torch.zeros(3, 3, 0),
        key_value=torch.arange(9.0).reshape(3, 3, 1),
        span=torch.tensor([[9.0, 7.0, 9.0], [4.0, 6.0, 5.0], [2.0, 9.0, 9.0]]),
        birth=torch.tensor([[1, 1, 0], [4, 2, 3], [0, 1, 2]]),  # the second row's expire together
        live=torch.tensor([[True, True, True], [True, True, True], [True, False, True]]),
        overflow=torch.zeros(3, dtype=torch.bool),
    )
    after = memory.with_one_more(
        torch.zeros(3, 0), torch.tensor([[70.0]] * 3), torch.tensor([8.0] * 3), torch.tensor([5] * 3)
    )
    assert after.birth.tolist() == [[1, 5, 0], [4, 5, 3], [0, 5, 2]]
    assert after.span.tolist() == [[9.0, 8.0, 9.0], [4.0, 8.0, 5.0], [2.0, 8.0, 9.0]]
    assert after.key_value.squeeze(2).tolist() == [[0.0, 70.0, 2.0], [3.0, 70.0, 5.0], [6.0, 70.0, 8.0]]
    assert after.live.all()
    assert after.overflow.tolist() == [True, True, False]


def test_a_user_moves_into_the_slots_of_a_program() -> None:
    model = made(VECTOR, spaces.Discrete(4), layers=2)
    obs, memory = observed(VECTOR, False), None
    for batch in obs[:9]:
        _, memory = model.predict(batch, memory, deterministic=True)
    assert memory is not None
    tensors = fixed_slots(memory, 21)
    assert tensors["live_1"].sum(1).tolist() == memory.layers[1].live.sum(1).tolist()
    assert tensors["key_value_1"].shape == (ROWS, 21, 32)
    with pytest.raises(ValueError, match=r"Expect `slots` to be at least \d, the most memories .* layer 0, actual: 1"):
        fixed_slots(memory, 1)


def test_what_cannot_be_exported_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = made(VECTOR, spaces.Discrete(4)).policy
    with pytest.raises(
        ValueError, match=r"Expect `slots` to be given where the core has no `capacity`.* 21 .*, actual: None"
    ):
        export_policy(policy)
    with pytest.raises(ValueError, match="Expect `slots` to be at least 1, actual: 0"):
        export_policy(policy, slots=0)
    with pytest.raises(ValueError, match="Expect `batch_size` to be at least 1, actual: 0"):
        export_policy(policy, slots=1, batch_size=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=re.escape("ONNX needs onnx and onnxscript: pip install 'expirespan[export]'")
    ):
        to_onnx(policy, tmp_path / "step.onnx", slots=1)


@pytest.mark.parametrize(
    ("span", "ramp", "capacity", "slots"),
    [(17.0, 4.0, None, 21), (9.5, 0.2, None, 10), (9.0, 4.0, 5, 6), (2.0, 1.0, 5, 3)],
)
def test_enough_slots_never_overflow(span: float, ramp: float, capacity: int | None, slots: int) -> None:
    model = made(VECTOR, spaces.Discrete(4), max_span=span, ramp=ramp, capacity=capacity)
    with torch.no_grad():
        next(span_core(model).stack()).span.bias.fill_(30.0)  # the longest spans
    assert enough_slots(span_core(model)) == slots
    most, memory = 0, model.policy.initial_state(ROWS)
    for obs in observed(VECTOR, False):
        step = model.policy.act(torch.as_tensor(obs), memory, torch.zeros(ROWS, dtype=torch.bool), trace=True)
        assert step.trace is not None
        memory, most = step.state, max(most, int(step.trace[0].live.max()))
    assert most == slots or math.ceil(span + ramp) > STEPS


def test_values_come_from_the_features_of_the_critic_too() -> None:
    more = {"memory": MEMORY | {"capacity": 6}, "share_features_extractor": False}
    model = MemoryPPO("MlpPolicy", Shown(VECTOR, spaces.Discrete(3)), policy_kwargs=more, seed=3, device="cpu")
    randomize(model.policy, 5)
    obs, state, start = torch.ones(1, 3), model.policy.initial_state(1), torch.ones(1, dtype=torch.bool)
    outputs, _ = export_policy(model.policy, batch_size=1).module()(obs, slots_of(model, 1, 7), start)
    expected = model.policy.predict_values(obs, state, start).detach()
    torch.testing.assert_close(outputs["values"], expected, rtol=0, atol=1e-5)
