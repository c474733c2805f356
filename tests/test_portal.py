"""The rules of Portal, what its observations show, and what its solvers earn."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan.checks import check_bool
from expirespan.envs import Move, PortalEnv, PortalSolver, PortalVectorEnv
from expirespan.envs.portal import DIGITS, PortalWorld
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX

DOOR, WALL = OBJECT_TO_IDX["door"], OBJECT_TO_IDX["wall"]


def world(seed: int = 4, **arguments: Any) -> PortalWorld:
    made = PortalWorld(1, **arguments)
    made.seed(0, seed)
    made.reset(0)
    return made


def door(rooms: PortalWorld, right: bool) -> list[Move]:
    """The way through the right or the wrong door of the present room."""
    room = int(rooms.rooms[0])
    upper_is_right = rooms.grid(0)[5 * room - 1, 1, 1] == rooms.right[0, room]
    return [Move.RIGHT, Move.UP if upper_is_right == right else Move.DOWN, Move.RIGHT]


def walk(rooms: PortalWorld, moves: list[Move]) -> tuple[float, bool, bool]:
    """Reward, terminated and truncated of the last move; nothing may happen before it."""
    for move in moves[:-1]:
        result = rooms.step(np.array([move]))
        assert not result.terminated[0] and result.reward[0] == 0 and not rooms.relevant()[0]
    result = rooms.step(np.array(moves[-1:]))
    return float(result.reward[0]), bool(result.terminated[0]), bool(result.truncated[0])


def test_defaults_are_the_papers() -> None:
    env = PortalEnv()
    _, info = env.reset(seed=1)
    assert env.max_steps == 1000 and env.world.width == 50 * 5
    assert info == {"relevant": False, "room": 1, "rooms_reached": 1}
    assert PortalVectorEnv().num_envs == 1


def test_rooms_are_as_described() -> None:
    rooms = world(num_rooms=37, num_colors=6)
    grid = rooms.grid(0).reshape(37, 5, 5, 3)
    doors = grid[:, :, :, 0] == DOOR
    assert doors.sum() == 2 * 36 and doors[:-1, 4, 1].all() and doors[:-1, 4, 3].all()
    upper, lower, right = grid[:-1, 4, 1, 1], grid[:-1, 4, 3, 1], rooms.right[0, 1:]
    assert (upper != lower).all() and ((right == upper) | (right == lower)).all()
    assert set(upper.tolist()) == set(lower.tolist()) == set(COLOR_TO_IDX.values())
    assert 5 < (right == upper).sum() < 31
    walls = grid[:, :, :, 0] == WALL
    assert (walls | doors).sum() == 37 * 16 and not walls[:, 1:4, 1:4].any()


def test_doors_are_redrawn_every_episode_and_only_the_promised_number_of_colors() -> None:
    rooms = world(num_rooms=11)
    first = rooms.right.copy()
    rooms.reset(0)
    assert (rooms.right != first).any()
    assert set(rooms.right[0, 1:].tolist()) == {COLOR_TO_IDX["red"], COLOR_TO_IDX["blue"]}


@pytest.mark.parametrize("view_size", [3, 5])
def test_the_room_number_is_seen_from_everywhere(view_size: int) -> None:
    rooms = world(num_rooms=99, view_size=view_size)
    seen = {}
    for number in range(1, 100):
        for x in (1, 2, 3):
            for y in (1, 2, 3):
                rooms.positions[0] = (5 * (number - 1) + x, y)
                middle = view_size // 2
                units, tens = (rooms.observe()[0, middle + column - x, middle] for column in (1 if x < 3 else 3, 2))
                assert units.tolist() == DIGITS[number % 10].tolist() and tens.tolist() == DIGITS[number // 10].tolist()
                seen[number] = (*units, *tens)
    assert len(set(seen.values())) == 99


def test_right_doors_lead_on_and_are_rewarded_by_room() -> None:
    rooms = world(num_rooms=5)
    for number in (1, 2, 3, 4):
        assert rooms.infos()["room"].tolist() == [number] and rooms.positions.tolist() == [[5 * number - 3, 2]]
        assert walk(rooms, door(rooms, right=True)) == (pytest.approx(0.1 * number), number == 4, False)
        assert rooms.relevant().tolist() == [True]
    assert rooms.infos()["rooms_reached"].tolist() == [5]


@pytest.mark.parametrize("reward_again", [True, False])
def test_wrong_doors_lead_back_to_the_first_room(reward_again: bool) -> None:
    rooms = world(num_rooms=7, reward_again=reward_again)
    for _ in range(3):
        walk(rooms, door(rooms, right=True))
    before = rooms.grid(0).copy()
    assert walk(rooms, door(rooms, right=False)) == (0, False, False)
    np.testing.assert_array_equal(rooms.grid(0), before)
    infos = {name: value.tolist() for name, value in rooms.infos().items()}
    assert infos == {"relevant": [True], "room": [1], "rooms_reached": [4]}
    assert rooms.positions.tolist() == [[2, 2]]
    for number in (1, 2, 3):
        assert walk(rooms, door(rooms, right=True))[0] == pytest.approx(0.1 * number * reward_again)
    assert walk(rooms, door(rooms, right=True))[0] == pytest.approx(0.4)


@pytest.mark.parametrize("max_mistakes", [1, 2, 3])
def test_mistakes_are_counted_by_room(max_mistakes: int) -> None:
    rooms = world(num_rooms=7, max_mistakes=max_mistakes)
    for number in range(1, max_mistakes):
        walk(rooms, door(rooms, right=True))
        assert walk(rooms, door(rooms, right=False))[1] is False, number
    if max_mistakes > 1:
        assert walk(rooms, door(rooms, right=False)) == (0, False, False)  # the first one in room 1
    walk(rooms, door(rooms, right=True))
    assert walk(rooms, door(rooms, right=False)) == (0, True, False)


def test_the_end_is_told_from_success() -> None:
    env = PortalEnv(num_rooms=2)
    for right in (True, False):
        env.reset(seed=3)
        assert isinstance(env.world, PortalWorld)
        info = {}
        for move in door(env.world, right) * (1 if right else 2):
            *_, info = env.step(move)
        assert info["is_success"] is right and info["rooms_reached"] == 1 + right


def test_max_steps_truncates_but_not_an_end() -> None:
    assert walk(world(max_steps=3), [Move.LEFT] * 3) == (0, False, True)
    rooms = world(num_rooms=2, max_steps=3)
    assert walk(rooms, door(rooms, right=True)) == (pytest.approx(0.1), True, False)


def test_perfect_memory_is_far_above_none() -> None:
    """1,000 steps go through 333 rooms, and half of the doors to room n + 1 cost n more: n + n^2 / 4 = 333, n = 34."""
    rows, reached = 128, []
    for remember in (True, False):
        env, solver = gym.make_vec("expirespan/Portal-v0", num_envs=rows), PortalSolver(rows, remember, seed=2)
        images, _ = env.reset(seed=5)
        starts, first = np.ones(rows, dtype=bool), np.zeros(rows)
        while not first.all():
            images, _, terminated, truncated, infos = env.step(solver.act(images, starts))
            starts = terminated | truncated
            assert not (remember and terminated.any())
            if starts.any():
                first = np.where(starts & (first == 0), infos["final_info"]["rooms_reached"], first)
        reached.append(first.mean())
    assert 33.5 < reached[0] < 36.5 and 2.4 < reached[1] < 3.4


@pytest.mark.parametrize("view_size", [5, 7])
def test_the_solver_reads_larger_views(view_size: int) -> None:
    env, solver = PortalVectorEnv(16, num_rooms=9, view_size=view_size), PortalSolver(16, remember=True, seed=1)
    images, _ = env.reset(seed=2)
    assert np.allclose(last_rewards(env, solver, images, episodes=32), 0.8)


def test_shuffled_numbers_are_distinct_redrawn_and_begin_with_1() -> None:
    env, solver = PortalVectorEnv(16, num_rooms=7, largest_number=99), PortalSolver(16, remember=True, seed=1)
    images, _ = env.reset(seed=2)
    numbers = written_numbers(env)
    assert (numbers[:, 0] == 1).all() and (numbers >= 1).all() and (numbers <= 99).all()
    assert all(len(set(row)) == 7 for row in numbers.tolist())
    assert np.allclose(last_rewards(env, solver, images, episodes=64), 0.6)
    assert (written_numbers(env)[:, 1:] != numbers[:, 1:]).mean() > 0.9


def last_rewards(env: PortalVectorEnv, solver: PortalSolver, images: np.ndarray, episodes: int) -> list[float]:
    """What the solver earns by the last step of each of at least so many episodes, none of which is truncated."""
    starts, rewards = np.ones(env.num_envs, dtype=bool), []
    while len(rewards) < episodes:
        images, reward, terminated, truncated, _ = env.step(solver.act(images, starts))
        assert not truncated.any()
        starts = terminated
        rewards += reward[terminated].tolist()
    return rewards


def written_numbers(env: PortalVectorEnv) -> np.ndarray:
    assert isinstance(env.world, PortalWorld)
    rooms = np.stack([env.world.grid(row).reshape(-1, 5, 5, 3) for row in range(env.num_envs)])
    tens, units = ((rooms[:, :, at, 1, None, :2] == DIGITS[:, :2]).all(-1).argmax(-1) for at in (2, 1))
    return 10 * tens + units


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rooms": 1}, "`num_rooms` to be at least 2, actual: 1"),
        ({"num_rooms": 100}, r"`num_rooms` to be at most 99 \(two digits\), actual: 100"),
        ({"max_mistakes": 0}, "`max_mistakes` to be at least 1, actual: 0"),
        ({"max_steps": 0}, "`max_steps` to be at least 1, actual: 0"),
        ({"view_size": 4}, "`view_size` to be odd, actual: 4"),
        ({"num_colors": 1}, "`num_colors` to be at least 2, actual: 1"),
        ({"num_colors": 7}, "`num_colors` to be at most 6, actual: 7"),
        ({"num_envs": 0}, "`num_envs` to be at least 1, actual: 0"),
        ({"num_rooms": 7, "largest_number": 6}, "`largest_number` to be at least 7, actual: 6"),
        ({"largest_number": 100}, "`largest_number` to be at most 99, actual: 100"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PortalVectorEnv(**arguments)


def test_types_of_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="`reward_again` to be a bool, actual: 1"):
        check_bool("reward_again", 1)
