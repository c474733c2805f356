"""Laws of all grid tasks (their two faces agree, they are citizens of MiniGrid), and the rules of Corridor."""

import pickle
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan.checks import check_whole
from expirespan.envs import (
    CorridorEnv,
    CorridorSolver,
    CorridorVectorEnv,
    Move,
    PortalSolver,
    PortalVectorEnv,
    make_batched,
    make_single,
)
from expirespan.envs.corridor import CorridorWorld
from expirespan.envs.single import GridEnv
from expirespan.envs.vector import WorldVectorEnv
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.wrappers import FlatObsWrapper, ImgObsWrapper, RGBImgPartialObsWrapper
from stable_baselines3.common.env_checker import check_env as sb3_check_env

TASKS = ["expirespan/Corridor-v0", "expirespan/Portal-v0"]
IDS = [*TASKS, "expirespan/CorridorShort-v0", "expirespan/CorridorLong-v0", "expirespan/PortalShort-v0"]
BALL, DOOR, WALL, EMPTY = (OBJECT_TO_IDX[name] for name in ("ball", "door", "wall", "empty"))


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_checks_pass_without_a_warning(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize(
    "wrap", [FlatObsWrapper, lambda env: ImgObsWrapper(RGBImgPartialObsWrapper(env, tile_size=12))]
)
def test_sb3_checks_pass_without_a_warning(env_id: str, wrap: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(wrap(gym.make(env_id, render_mode="rgb_array")))


@pytest.mark.parametrize("env_id", TASKS)
def test_minigrid_wrappers_give_what_their_spaces_say(env_id: str) -> None:
    for wrapper in (ImgObsWrapper, FlatObsWrapper, RGBImgPartialObsWrapper):
        env = wrapper(gym.make(env_id))
        observation, _ = env.reset(seed=3)
        assert env.observation_space.contains(observation)
        assert env.observation_space.contains(env.step(Move.RIGHT)[0])


def test_defaults_work_and_are_the_papers() -> None:
    env = CorridorEnv()
    lengths = [env.reset(seed=seed)[1]["length"] for seed in range(300)]
    assert min(lengths) >= 3 and max(lengths) <= 200 and max(lengths) > 190 and min(lengths) < 15
    assert env.max_steps == 1000 and env.action_space == spaces.Discrete(4)
    assert CorridorVectorEnv().num_envs == 1


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        ("expirespan/Corridor-v0", {"min_length": 3, "max_length": 13}),
        ("expirespan/Corridor-v0", {"min_length": 3, "max_length": 13, "view_size": 7, "num_colors": 6}),
        ("expirespan/Corridor-v0", {"min_length": 1, "max_length": 4, "max_steps": 11}),
        ("expirespan/Portal-v0", {}),
        ("expirespan/Portal-v0", {"num_rooms": 2, "max_mistakes": 1, "view_size": 7, "num_colors": 6}),
        ("expirespan/PortalShort-v0", {"num_rooms": 3, "max_steps": 23, "reward_again": False}),
    ],
)
def test_both_faces_live_through_the_same_trajectories(env_id: str, arguments: dict[str, Any]) -> None:
    rows, steps, seed = 5, 300, 17
    vector = gym.make_vec(env_id, num_envs=rows, vectorization_mode="vector_entry_point", **arguments)
    singles = [gym.make(env_id, **arguments) for _ in range(rows)]
    seen, infos = vector.reset(seed=seed)
    for row, env in enumerate(singles):
        observation, info = env.reset(seed=seed + row)
        np.testing.assert_array_equal(seen[row], observation["image"])
        assert {name: infos[name][row] for name in info} == info
    actions = np.random.default_rng(2).choice(4, p=[0.55, 0.15, 0.15, 0.15], size=(steps, rows))
    endings = 0
    for step in range(steps):
        seen, rewards, terminated, truncated, infos = vector.step(actions[step])
        for row, env in enumerate(singles):
            observation, reward, ended, cut, info = env.step(int(actions[step, row]))
            assert (rewards[row], terminated[row], truncated[row]) == (reward, ended, cut)
            if ended or cut:
                endings += 1
                assert infos["_final_obs"][row]
                np.testing.assert_array_equal(infos["final_obs"][row], observation["image"])
                assert {name: infos["final_info"][name][row] for name in info} == info
                observation, info = env.reset()
            np.testing.assert_array_equal(seen[row], observation["image"])
            assert {name: infos[name][row] for name in info} == info
    assert endings > 20


def test_rules() -> None:
    world = CorridorWorld(1, min_length=5, max_length=5)
    world.seed(0, 4)
    world.reset(0)
    grid, color = world.grid(0), world.colors[0]
    assert tuple(grid[0, 1][:2]) == (BALL, color) and world.observe()[0, 0, 1].tolist() == [BALL, color, 0]
    doors = {(x, y): grid[x, y, 1] for x in range(7) for y in range(3) if grid[x, y, 0] == DOOR}
    assert len(doors) == 2 and set(doors) <= {(5, 0), (6, 1), (5, 2)} and sorted(doors.values()).count(color) == 1
    assert set(doors.values()) == {COLOR_TO_IDX["red"], COLOR_TO_IDX["blue"]}
    assert world.relevant().tolist() == [True]
    for bump in (Move.UP, Move.LEFT, Move.DOWN):
        assert world.step(np.array([bump])).terminated.tolist() == [False]
        assert world.positions.tolist() == [[1, 1]]
    for x in range(2, 6):
        assert world.step(np.array([Move.RIGHT])).reward.tolist() == [0]
        assert world.positions.tolist() == [[x, 1]] and world.relevant().tolist() == [False]
    move = {(5, 0): Move.UP, (6, 1): Move.RIGHT, (5, 2): Move.DOWN}
    for place, door in doors.items():
        again = CorridorWorld(1, 5, 5)
        again.load_state_dict(world.state_dict())
        result = again.step(np.array([move[place]]))
        assert result.terminated.tolist() == [True] and result.truncated.tolist() == [False]
        assert result.reward.tolist() == [float(door == color)]


def test_truncation_after_max_steps_is_no_termination() -> None:
    env = CorridorEnv(max_steps=3)
    env.reset(seed=1)
    results = [env.step(Move.LEFT) for _ in range(3)]
    assert [result[2:4] for result in results] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize(
    "make", [lambda: CorridorVectorEnv(7, 3, 9), lambda: PortalVectorEnv(7, num_rooms=5, max_steps=47)]
)
def test_state_dict_continues_exactly(make: Callable[[], WorldVectorEnv]) -> None:
    env, actions = make(), np.random.default_rng(3).choice(4, p=[0.4, 0.2, 0.2, 0.2], size=(200, 7))
    env.reset(seed=5)
    for action in actions[:60]:
        env.step(action)
    other = make()
    other.reset(seed=99)
    other.load_state_dict(env.state_dict())
    for action in actions[60:]:
        for mine, theirs in zip(env.step(action)[:4], other.step(action)[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("env_id", "solver", "remember", "low", "high"),
    [
        ("expirespan/CorridorShort-v0", CorridorSolver, True, 1.0, 1.0),
        ("expirespan/CorridorShort-v0", CorridorSolver, False, 0.44, 0.56),
        ("expirespan/PortalShort-v0", PortalSolver, True, 1.0, 1.0),
        ("expirespan/PortalShort-v0", PortalSolver, False, 0.0, 0.03),
    ],
)
def test_solvers_give_ceiling_and_floor(env_id: str, solver: Any, remember: bool, low: float, high: float) -> None:
    rows, quota = 64, 16
    env, solver = make_batched(env_id, rows), solver(rows, remember, seed=1)
    images, _ = env.reset(seed=7)
    starts, played, successes = np.ones(rows, dtype=bool), np.zeros(rows, dtype=int), 0
    while (counted := played < quota).any():  # as many episodes in each row, so that short ones are not favoured
        images, _, terminated, truncated, infos = env.step(solver.act(images, starts))
        starts = terminated | truncated
        assert not truncated.any()
        if starts.any():
            successes += infos["final_info"]["is_success"][starts & counted].sum()
            played += starts
    assert low <= successes / (rows * quota) <= high


def picture(env: gym.Env) -> np.ndarray:
    rendered = env.render()
    assert isinstance(rendered, np.ndarray)
    return rendered


def test_rendering_shows_the_grid_and_the_view() -> None:
    env = gym.make("expirespan/CorridorShort-v0", render_mode="rgb_array", min_length=20)
    env.reset(seed=1)
    assert picture(env).shape == (3 * 32, 22 * 32, 3)
    assert isinstance(env.unwrapped, GridEnv)
    assert env.unwrapped.get_pov_render(8).shape == (24, 24, 3)
    env = gym.make("expirespan/CorridorLong-v0", render_mode="rgb_array")
    env.reset(seed=1)
    assert picture(env).shape == (3 * 32, 32 * 32, 3)
    env = gym.make("expirespan/Portal-v0", render_mode="rgb_array")
    env.reset(seed=1)
    before = picture(env)
    env.step(Move.RIGHT)
    assert before.shape == (5 * 32, 32 * 32, 3) and (picture(env) != before).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_length": 0}, "`min_length` to be at least 1, actual: 0"),
        ({"max_length": 2}, r"`max_length` to be at least `min_length` \(3\), actual: 2"),
        ({"max_steps": 0}, "`max_steps` to be at least 1, actual: 0"),
        ({"view_size": 4}, "`view_size` to be odd, actual: 4"),
        ({"num_colors": 7}, "`num_colors` to be at most 6, actual: 7"),
        ({"num_envs": 0}, "`num_envs` to be at least 1, actual: 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorridorVectorEnv(**arguments)


def test_types_of_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="`max_length` to be an int, actual: 'long'"):
        check_whole("max_length", "long", at_least=1)
    assert type(check_whole("max_length", np.int64(16), at_least=1)) is int


def test_bad_actions_are_refused() -> None:
    env = CorridorVectorEnv(3)
    env.reset(seed=1)
    with pytest.raises(ValueError, match="`actions` to be 3 ints from 0 to 3"):
        env.step(np.array([0, 1, 4]))
    single = CorridorEnv()
    single.reset(seed=1)
    with pytest.raises(ValueError, match="`action` to be an int from 0 to 3, actual: 5"):
        single.step(5)


def test_an_id_without_its_version_means_the_latest() -> None:
    with pytest.warns(UserWarning, match="Using the latest versioned environment `expirespan/CorridorShort-v0`"):
        batch = make_batched("expirespan/CorridorShort", 2, {"max_length": 5})
    assert isinstance(batch, CorridorVectorEnv) and batch.num_envs == 2


def test_make_refuses_what_it_cannot_build() -> None:
    with pytest.raises(
        ValueError, match="`env` to be the id of a registered environment, actual: 'expirespan/Nowhere-v0'"
    ):
        make_single("expirespan/Nowhere-v0")
    with pytest.raises(ValueError, match="`env_args` to be arguments of expirespan/Corridor-v0"):
        make_batched("expirespan/Corridor-v0", 2, {"colour": 3})
    with pytest.raises(ValueError, match="`view_size` to be None for CartPole-v1"):
        make_single("CartPole-v1", view_size=3)
    with pytest.raises(ValueError, match="`view_size` to be odd and at least 3, actual: 4"):
        make_single("MiniGrid-MemoryS7-v0", view_size=4)


def test_minigrid_environments_are_reduced_to_images() -> None:
    env = make_batched("MiniGrid-MemoryS9-v0", 2, view_size=3)
    observations, _ = env.reset(seed=1)
    assert observations.shape == (2, 3, 3, 3)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MiniGrid-MemoryS7-v0", "expirespan/Corridor-v0"])
def test_environments_made_by_id_can_be_pickled_and_copied(env_id: str) -> None:
    for env in (make_single(env_id), make_batched(env_id, 2)):
        env.reset(seed=1)
        for copied in (pickle.loads(pickle.dumps(env)), deepcopy(env)):
            expected, _ = env.reset(seed=3)
            np.testing.assert_array_equal(copied.reset(seed=3)[0], expected)
