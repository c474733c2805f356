"""Every kind of space: read, acted in, learned from with the probabilities that actions were drawn with, and stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import GymnasiumVecEnv, MemoryPPO
from expirespan.agents.actions import LeanCategorical, environment_actions, masked_logits, read_masks
from expirespan.agents.encoders import MiniGridExtractor, SmallPictureExtractor, TokenLineExtractor
from expirespan.agents.numbers_extractor import NumbersExtractor
from expirespan.agents.observations import check_kinds, is_picture, kinds_of, prepare
from expirespan.agents.vec_env import as_vec_env
from expirespan.analysis.evaluation import evaluate_policy, record_episode
from expirespan.analysis.interventions import action_changes, forget_steps
from expirespan.analysis.sensitivity import policy_sensitivity
from expirespan.envs import InstructionVectorEnv, make_single
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from minigrid.wrappers import (
    DictObservationSpaceWrapper,
    FullyObsWrapper,
    ImgObsWrapper,
    OneHotPartialObsWrapper,
    RGBImgPartialObsWrapper,
)
from models import corridor, small
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecTransposeImage

Box = spaces.Box


class Any_(gym.Env):
    """Random observations of one space; keeps the actions that it gets."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_space.seed(1)
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        # A row of SB3's array is a number where the space has no dimensions.
        taken = np.asarray(action) if isinstance(self.action_space, Box) else action
        assert self.action_space.contains(taken), action
        self.taken.append(action)
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps > 6, False, {}


OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": Box(-9, 9, (3,)),
    "number": Box(-9, 9, ()),
    "float64": Box(-9, 9, (3,), np.float64),
    "whole numbers": Box(0, 500, (3,), np.int64),
    "picture 8 x 8": Box(0, 255, (8, 8, 3), np.uint8),
    "picture 16 x 16": Box(0, 255, (16, 16, 3), np.uint8),
    "picture 32 x 20, grey": Box(0, 255, (32, 20, 1), np.uint8),
    "picture, channels first": Box(0, 255, (3, 24, 31), np.uint8),
    "picture 36 x 36": Box(0, 255, (36, 36, 4), np.uint8),
    "cube": Box(0, 1, (4, 4, 2), np.int8),
    "discrete": spaces.Discrete(5, start=10),
    "multi-discrete": spaces.MultiDiscrete([3, 4], start=[1, -2]),
    "bits": spaces.MultiBinary([2, 3]),
    "dictionary": spaces.Dict(
        [
            ("z", spaces.Discrete(3, start=-1)),
            ("picture", Box(0, 255, (9, 10, 3), np.uint8)),
            ("large.picture", Box(0, 255, (3, 40, 36), np.uint8)),
            ("a", Box(-1, 1, (2,))),
            ("classes", spaces.MultiDiscrete([2, 3])),
            ("bits", spaces.MultiBinary(2)),
            # Names that a torch module has itself, or takes none of.
            *((name, Box(-1, 1, (1,))) for name in ("type", "training", "keys", "")),
        ]
    ),
}
ACTIONS: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3, start=-1),
    "one action": spaces.Discrete(1),
    "multi-discrete": spaces.MultiDiscrete([3, 4], start=[1, -2]),
    "multi-discrete int32": spaces.MultiDiscrete([3, 4], dtype=np.int32),
    "bits": spaces.MultiBinary(4),
    "box": Box(-1, 0.5, (2,)),
    "box, rows and columns": Box(-1, 1, (2, 3)),
    "box float64": Box(-0.3, 0.7, (1,), np.float64),
    "box float16": Box(-2, 2, (2,), np.float16),
    "box without dimensions": Box(-1, 0.5, ()),
    "box of whole numbers": Box(-3, 3, (2,), np.int32),
}


@pytest.mark.parametrize(
    ("seen", "done"), [(name, "discrete") for name in OBSERVATIONS] + [("vector", name) for name in ACTIONS]
)
def test_learning_finds_the_probabilities_of_the_actions_and_a_file_keeps_the_spaces(
    seen: str, done: str, tmp_path: Path
) -> None:
    env = Any_(OBSERVATIONS[seen], ACTIONS[done])
    model = small(env, n_steps=12, batch_size=None)
    _, callback = model._setup_learn(12)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 12)
    batch = next(model.rollout_buffer.get())
    now = model._evaluate(batch, first=False)
    torch.testing.assert_close(now.log_prob, batch.old_log_prob, atol=1e-4, rtol=0)
    torch.testing.assert_close(now.values, batch.old_values, atol=1e-4, rtol=0)
    model.learn(24)
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", device="cpu")
    assert (loaded.observation_space, loaded.action_space) == (model.observation_space, model.action_space)
    obs = env.observation_space.sample()
    ours, theirs = (agent.predict(obs, deterministic=True)[0] for agent in (model, loaded))
    np.testing.assert_array_equal(ours, theirs)
    assert env.action_space.contains(np.asarray(ours) if isinstance(env.action_space, Box) else ours[()])
    MemoryPPO.load(tmp_path / "model", env=Any_(OBSERVATIONS[seen], ACTIONS[done]), device="cpu").learn(12)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]), r"observations of type Box, .* actual: Tuple\("),
        (spaces.MultiDiscrete(np.array([[3, 4], [2, 5]])), "MultiDiscrete observation to have one dimension"),
        (spaces.Text(5), r"observations of type Box, .* actual: Text\("),
        (spaces.Graph(Box(-1, 1, (2,)), None), r"observations of type Box, .* actual: Graph\("),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}), r"a Dict of these, actual: Dict\(.* in 'a'"),
        (spaces.Dict({}), r"at least one observation in a Dict, .* actual: Dict\(\)"),
        (spaces.Dict({0: Box(-1, 1, (2,))}), r"a Dict, each named by a text, actual: Dict\(0"),  # pyright: ignore[reportArgumentType]  # what is refused
        (spaces.Dict({"mission": spaces.Text(5)}), r"wrap it in minigrid\.wrappers\.ImgObsWrapper, or in Dict"),
    ],
)
def test_observations_that_no_network_reads_are_refused(space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(Any_(space, spaces.Discrete(2)))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Tuple([spaces.Discrete(2)]), r"actions of type Box, Discrete, .* actual: Tuple\("),
        (spaces.Dict({"a": spaces.Discrete(2)}), r"actions of type Box, Discrete, .* actual: Dict\("),
        (Box(-np.inf, np.inf, (2,)), r"finite bounds of its actions, actual: Box\(-inf"),
        (spaces.MultiBinary((3,)), "actions in one dimension .* actual: MultiBinary"),
        (spaces.MultiBinary([2, 3]), "actions in one dimension .* actual: MultiBinary"),
    ],
)
def test_actions_that_no_policy_takes_are_refused(space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(Any_(Box(-1, 1, (2,)), space))


def test_an_environment_gets_the_values_of_its_space() -> None:
    env = Any_(Box(-1, 1, (2,)), spaces.Discrete(3, start=-1))
    small(env, batch_size=None).learn(32)
    assert set(map(int, env.taken)) == {-1, 0, 1}
    whole = Any_(Box(-1, 1, (2,)), Box(-1, 2, (2,), np.int32))
    policy = small(whole, batch_size=None).policy
    drawn = torch.tensor([[0.4, 1.6], [-5.0, 7.0]])
    assert environment_actions(policy, drawn).tolist() == [[0, 2], [-1, 2]]


def test_keys_keep_the_order_in_which_the_network_was_trained(tmp_path: Path) -> None:
    order = [("velocity", Box(-1, 1, (1,))), ("angle", Box(-1, 1, (1,)))]
    model = small(Any_(spaces.Dict(order), spaces.Discrete(2)), batch_size=None)
    torch.nn.init.normal_(next(model.policy.action_net.parameters()))
    model.save(tmp_path / "model")
    other = Any_(spaces.Dict(order[::-1]), spaces.Discrete(2))
    obs = {"velocity": np.full((1, 1), 0.9, np.float32), "angle": np.full((1, 1), -0.4, np.float32)}
    tensors, start = model.policy.obs_to_tensor(obs)[0], torch.ones(1, dtype=torch.bool)
    wanted = model.policy.action_logits(tensors, model.policy.initial_state(1), start)[0]
    for env in (None, other):
        loaded = MemoryPPO.load(tmp_path / "model", env=env, device="cpu")
        assert isinstance(loaded.observation_space, spaces.Dict)
        assert list(loaded.observation_space.spaces) == ["velocity", "angle"]
        found = loaded.policy.action_logits(tensors, loaded.policy.initial_state(1), start)[0]
        torch.testing.assert_close(found, wanted)


def grid(*wrappers: Callable[[gym.Env], gym.Env]) -> gym.Env:
    env = gym.make("MiniGrid-Empty-5x5-v0")
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def tiny_pixels(env: gym.Env) -> gym.Env:
    return RGBImgPartialObsWrapper(env, tile_size=1)


@pytest.mark.parametrize(
    ("env", "kinds"),
    [
        (lambda: grid(ImgObsWrapper), "minigrid"),
        (lambda: grid(FullyObsWrapper, ImgObsWrapper), "minigrid"),
        (lambda: grid(tiny_pixels, ImgObsWrapper), "numbers"),  # 7 x 7 pixels, the very space of the codes
        (lambda: grid(RGBImgPartialObsWrapper, ImgObsWrapper), "picture"),
        (lambda: grid(OneHotPartialObsWrapper, ImgObsWrapper), "numbers"),
        (
            lambda: grid(DictObservationSpaceWrapper),
            {"image": "minigrid", "direction": "numbers", "mission": "numbers"},
        ),
        (lambda: Any_(OBSERVATIONS["picture 16 x 16"], spaces.Discrete(2)), "picture"),
        (lambda: Any_(OBSERVATIONS["whole numbers"], spaces.Discrete(2)), "numbers"),
        (lambda: DummyVecEnv([lambda: grid(ImgObsWrapper)]), "minigrid"),
        (lambda: SyncVectorEnv([lambda: grid(ImgObsWrapper)], autoreset_mode=AutoresetMode.SAME_STEP), "minigrid"),
        (lambda: "expirespan/InstructionShort-v0", "tokens"),
        (lambda: make_single("expirespan/InstructionShort-v0"), "tokens"),
        (lambda: InstructionVectorEnv(2), "tokens"),
        (lambda: corridor(2), "minigrid"),
        (lambda: make_single("expirespan/CorridorShort-v0"), "minigrid"),
    ],
)
def test_the_environment_says_what_its_observations_are(env: Callable[[], Any], kinds: Any) -> None:
    made = as_vec_env(env())
    assert kinds_of(made) == kinds
    made.close()


@pytest.mark.parametrize(
    "many", [lambda f: SubprocVecEnv([f, f]), lambda f: AsyncVectorEnv([f, f], autoreset_mode="SameStep")]
)
def test_environments_in_other_processes_are_asked_too(many: Callable[[Any], Any]) -> None:
    made = as_vec_env(many(lambda: grid(ImgObsWrapper)))
    assert kinds_of(made) == "minigrid" and made.observation_space.shape == (7, 7, 3)
    made.close()


def test_the_network_follows_from_what_the_observations_are() -> None:
    def chosen(env: Any) -> type:
        return type(small(env, batch_size=None).policy.features_extractor)

    assert chosen(Any_(OBSERVATIONS["picture 16 x 16"], spaces.Discrete(2))) is SmallPictureExtractor
    assert chosen(Any_(OBSERVATIONS["picture 36 x 36"], spaces.Discrete(2))) is NatureCNN
    assert chosen(Any_(OBSERVATIONS["whole numbers"], spaces.Discrete(2))) is NumbersExtractor
    assert chosen(InstructionVectorEnv(2)) is TokenLineExtractor
    mixed: Any = small(grid(DictObservationSpaceWrapper), batch_size=None).policy.features_extractor
    assert [type(part) for part in mixed.extractors.values()] == [NumbersExtractor, MiniGridExtractor, NumbersExtractor]


def test_codes_behind_sb3s_transposition_are_codes() -> None:
    """RL Zoo puts VecTransposeImage around MiniGrid's views for training, and not around those it plays."""
    plain, first = (wrap(DummyVecEnv([lambda: grid(ImgObsWrapper)])) for wrap in (lambda env: env, VecTransposeImage))
    model = small(first, batch_size=None)
    assert model.observation_space.shape == (3, 7, 7) and model.policy.observations == "minigrid"
    codes = torch.as_tensor(plain.reset())
    other = MiniGridExtractor(plain.observation_space)
    other.load_state_dict(model.policy.features_extractor.state_dict())
    torch.testing.assert_close(model.policy.features_extractor(codes.movedim(3, 1)), other(codes))
    model.learn(16)
    assert model.predict(plain.reset(), deterministic=True)[0].shape == (1,)


def test_codes_are_checked_whenever_they_are_read() -> None:
    extractor = MiniGridExtractor(Box(0, 255, (16, 16, 3), np.uint8))
    extractor(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))  # a black picture may be codes
    with pytest.raises(ValueError, match=r"MiniGrid's codes, .* actual: up to \[200, 0, 0\]; for pictures give"):
        picture = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
        picture[1, 3, 3, 0] = 200
        extractor(picture)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("text", r"`observations` to be one of \('numbers', .*, actual: 'text'"),
        ({"a": "numbers"}, r"`observations` to be one of .*, actual: \{'a'"),
        ("tokens", r"`observations` to fit the space, actual: 'tokens' for Box\(-9"),
    ],
)
def test_kinds_that_cannot_be_are_refused(kinds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(Any_(OBSERVATIONS["vector"], spaces.Discrete(2)), batch_size=None, policy_kwargs={"observations": kinds})
    assert check_kinds("numbers", OBSERVATIONS["vector"]) == "numbers"


def test_what_looks_like_a_picture() -> None:
    shapes = {
        (8, 8, 3): True,
        (3, 8, 8): True,
        (7, 7, 3): False,
        (9, 9, 20): False,
        (40, 48, 16): True,
        (3, 3, 3): False,
    }
    assert {shape: is_picture(Box(0, 255, shape, np.uint8)) for shape in shapes} == shapes
    assert not is_picture(Box(0, 1, (8, 8, 3), np.uint8)) and not is_picture(Box(0, 255, (8, 8, 3), np.float32))


def test_observations_become_numbers_a_network_can_read() -> None:
    assert prepare(torch.tensor([11, 10]), spaces.Discrete(3, start=10), "numbers").tolist() == [[0, 1, 0], [1, 0, 0]]
    several = prepare(torch.tensor([[2, -2]]), spaces.MultiDiscrete([2, 3], start=[1, -2]), "numbers")
    assert several.tolist() == [[0, 1, 1, 0, 0]]
    picture = torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)
    space = Box(0, 255, (3, 8, 8), np.uint8)
    assert prepare(picture, space, "picture").unique().tolist() == pytest.approx([0.2])
    assert prepare(picture, space, "picture", normalize_images=False).unique().tolist() == [51]
    assert prepare(picture, space, "numbers").unique().tolist() == [51]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_observations_that_are_no_numbers_are_named(value: float) -> None:
    model = small(Any_(spaces.Dict({"speed": Box(-1, 1, (2,))}), spaces.Discrete(2)), batch_size=None)
    with pytest.raises(ValueError, match="NaN or infinity in 'speed' of row 1"):
        model.predict({"speed": np.array([[0, 0], [0, value]], np.float32)})


class Masked(Any_):
    """Allows one action alone, another one at each step."""

    width: int
    open: list[list[int]]
    legal: list[list[int]]

    def action_masks(self) -> np.ndarray:
        allowed = np.zeros(self.width, dtype=bool)
        allowed[self.open[self.steps % len(self.open)]] = True
        return allowed

    def step(self, action: Any) -> Any:
        assert np.array_equal(np.atleast_1d(action), self.legal[self.steps % len(self.legal)])
        return super().step(action)


class MaskedDiscrete(Masked):
    width, open, legal = 4, [[2], [0]], [[7], [5]]

    def __init__(self) -> None:
        super().__init__(Box(-1, 1, (2,)), spaces.Discrete(4, start=5))


class MaskedMulti(Masked):
    width, open, legal = 5, [[1, 4], [0, 2]], [[1, 2], [0, 0]]

    def __init__(self) -> None:
        super().__init__(Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]))


class MaskedBits(Masked):
    width, open, legal = 4, [[1, 2], [0, 3]], [[1, 0], [0, 1]]

    def __init__(self) -> None:
        super().__init__(Box(-1, 1, (2,)), spaces.MultiBinary(2))


@pytest.mark.parametrize("kind", [MaskedDiscrete, MaskedMulti, MaskedBits])
def test_masked_actions_are_never_taken_and_learned_from_as_they_were_drawn(kind: Callable[[], Masked]) -> None:
    env = DummyVecEnv([kind, kind])
    model = small(env, n_steps=8, batch_size=None)
    model.learn(48)
    batch = next(model.rollout_buffer.get())
    assert batch.action_masks is not None
    now = model._evaluate(batch, first=False)
    torch.testing.assert_close(now.log_prob, torch.zeros(8, 2), atol=1e-5, rtol=0)  # only one action was possible
    torch.testing.assert_close(now.entropy, torch.zeros(8, 2), atol=1e-5, rtol=0)
    with pytest.raises(AssertionError):
        model.learn(48, use_masking=False)


def test_masked_actions_are_never_taken_in_evaluation_or_recording() -> None:
    policy = small(MaskedDiscrete(), n_steps=8, batch_size=None).policy
    rows = SyncVectorEnv([MaskedDiscrete] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    assert evaluate_policy(policy, rows, 2, 1, deterministic=False).returns.tolist() == [7.0, 7.0]
    assert record_episode(policy, MaskedDiscrete(), 1, deterministic=False).actions.tolist() == [7, 5, 7, 5, 7, 5, 7]
    changes = action_changes(policy, rows, 1, {"forgotten": forget_steps([0])}, deterministic=False)
    assert np.nanmax(changes["forgotten"].total_variation) < 1e-6
    observed = [np.zeros(2, np.float32)] * 2
    only = policy_sensitivity(policy, observed, [7, 5], action_masks=[[0, 0, 1, 0], [1, 0, 0, 0]])
    assert only.action.max() < 1e-6 < policy_sensitivity(policy, observed, [7, 5]).action.max()  # no choice, no reason


def test_predict_takes_masks_and_refuses_those_that_leave_nothing() -> None:
    model = small(MaskedDiscrete(), n_steps=8, batch_size=None)
    obs = np.zeros((2, 2), np.float32)
    masks = np.array([[0, 1, 0, 0], [0, 0, 0, 1]])
    assert model.predict(obs, action_masks=masks)[0].tolist() == [6, 8]
    assert model.predict(obs, action_masks=masks, deterministic=True)[0].tolist() == [6, 8]
    with pytest.raises(ValueError, match=r"an action to every row, actual: none to row 1"):
        model.predict(obs, action_masks=np.array([[0, 1, 0, 0], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"4 entries for each of 2 rows, actual: 6"):
        model.predict(obs, action_masks=np.ones((2, 3)))
    ragged = [[[True, False, True], [False, True]]] * 2
    assert read_masks(spaces.MultiDiscrete([3, 2]), ragged, 2).tolist() == [[True, False, True, False, True]] * 2
    with pytest.raises(ValueError, match=r"actions that can be masked .* actual: Box"):
        read_masks(Box(-1, 1, (2,)), [True], 1)


def test_masks_rule_out_what_they_should() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    masked = masked_logits(logits, torch.tensor([[True, False, True]]), spaces.Discrete(3))
    probabilities = LeanCategorical(3).proba_distribution(masked).log_probs.exp()
    torch.testing.assert_close(probabilities, torch.tensor([[0.1192, 0.0, 0.8808]]), atol=1e-4, rtol=0)
    bits = masked_logits(logits, torch.tensor([[True, True, False, True, True, False]]), spaces.MultiBinary(3))
    torch.testing.assert_close(bits.sigmoid(), torch.tensor([[0.5, 1.0, 0.0]]))


def test_attributes_and_methods_reach_the_environments() -> None:
    class Levels(Any_):
        level = 0

        def __init__(self) -> None:
            super().__init__(Box(-1, 1, (2,)), spaces.Discrete(2))

        def raise_level(self, by: int) -> int:
            self.level += by
            return self.level

    for mode in (SyncVectorEnv, AsyncVectorEnv):
        env = GymnasiumVecEnv(mode([Levels, Levels, Levels], autoreset_mode=AutoresetMode.SAME_STEP))
        env.set_attr("level", 3)
        env.set_attr("level", 5, indices=[1])
        assert env.get_attr("level") == [3, 5, 3] and env.get_attr("level", indices=1) == [5]
        assert env.env_method("raise_level", 1) == [4, 6, 4]
        assert env.has_attr("level") and not env.has_attr("nothing")
        with pytest.raises(AttributeError, match="nothing"):
            env.get_attr("nothing")
        for wrong in (lambda env=env: env.env_method("nothing", 1), lambda env=env: env.set_attr("no", 1, indices=[0])):
            if mode is AsyncVectorEnv:
                with pytest.raises(AttributeError, match="the environments have no attribute 'no"):
                    wrong()
        assert env.get_attr("level") == [4, 6, 4]  # its workers still answer
        assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
        env.close()
    ours = GymnasiumVecEnv(corridor(2))
    assert ours.get_attr("max_length") == [7, 7]
    ours.set_attr("max_length", 4)
    ours.reset()
    assert max(ours.get_attr("lengths")[0]) <= 4
    ours.set_attr("max_length", 8)
    with pytest.raises(ValueError, match="the 7 cells that the grid was made for, actual: 3 and 8"):
        ours.reset()
    with pytest.raises(AttributeError, match="no attribute 'max_lenght', did you mean 'max_length'"):
        ours.set_attr("max_lenght", 5)
    with pytest.raises(ValueError, match=r"`indices` to be None for 'max_length' .* actual: \[1\]"):
        ours.set_attr("max_length", 5, indices=[1])


def test_options_of_a_reset_reach_the_environments() -> None:
    class Asked(Any_):
        def __init__(self) -> None:
            super().__init__(Box(-1, 1, (2,)), spaces.Discrete(2))

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self.options = options
            return super().reset(seed=seed)

    env = GymnasiumVecEnv(SyncVectorEnv([Asked, Asked], autoreset_mode=AutoresetMode.SAME_STEP))
    env.set_options({"level": 2})
    env.reset()
    assert env.get_attr("options") == [{"level": 2}] * 2
    env.reset()
    assert env.get_attr("options") == [None] * 2
    env.set_options([{"level": 1}, {"level": 2}])
    with pytest.raises(ValueError, match="`options` to be the same for all rows"):
        env.reset()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_class_numbers_may_be_of_any_whole_type(dtype: Any) -> None:
    several = spaces.MultiDiscrete([3, 4], dtype=dtype, start=[1, 2])
    for env in (Any_(several, spaces.Discrete(2)), Any_(OBSERVATIONS["vector"], several)):
        small(env, batch_size=None).learn(16)
