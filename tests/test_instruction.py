"""The rules of Instruction, its language, and the agreement of its two faces."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan.agents import TokenLineExtractor
from expirespan.agents.encoders import is_token_line
from expirespan.analysis.frames import AgentView
from expirespan.envs import InstructionEnv, InstructionSolver, InstructionVectorEnv, make_single
from expirespan.envs.instruction import NOTHING, InstructionWorld
from expirespan.envs.lines import (
    ACTIONS,
    CHARACTERS,
    CHATTER,
    ENCOUNTERS,
    INSTRUCTIONS,
    LINE_WIDTH,
    VOCABULARY,
    Kind,
    decode,
    draw_lines,
    read_lines,
)
from expirespan.envs.world import StepResult
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

SHORT: dict[str, Any] = {"num_instructions": 2, "min_distractors": 5, "max_distractors": 23}


def test_checkers_pass_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("expirespan/Instruction-v0").unwrapped, skip_render_check=True)
        sb3_check_env(InstructionEnv())


def test_words_alone_give_nothing_away() -> None:
    chatter = {word for sentence in CHATTER for word in sentence.split()}
    for sentence in (*INSTRUCTIONS, *ENCOUNTERS):
        assert set(sentence.split()) <= chatter
    assert max(len(sentence.split()) for sentence in (*INSTRUCTIONS, *ENCOUNTERS, *CHATTER)) <= LINE_WIDTH


def test_lines_are_read_back_as_they_were_drawn() -> None:
    count, random = 997, np.random.default_rng(1)
    kinds, characters = random.integers(3, size=count), random.integers(len(CHARACTERS), size=count)
    actions = random.integers(len(ACTIONS), size=count)
    lines = draw_lines(kinds, characters, (characters + 1) % len(CHARACTERS), actions, random)
    assert lines.dtype == np.int16 and lines.shape == (count, LINE_WIDTH)
    read = read_lines(lines)
    np.testing.assert_array_equal(read.instructed, np.where(kinds == Kind.INSTRUCTION, characters, -1))
    np.testing.assert_array_equal(read.action, np.where(kinds == Kind.INSTRUCTION, actions, -1))
    np.testing.assert_array_equal(read.met, np.where(kinds == Kind.ENCOUNTER, characters, -1))


def test_decoding_gives_the_sentence() -> None:
    words = "tell the smith to ring the bell".split()
    line = np.zeros(LINE_WIDTH, dtype=np.int16)
    line[: len(words)] = [VOCABULARY.index(word) for word in words]
    assert decode(line) == "tell the smith to ring the bell"
    read = read_lines(line[None])
    assert (CHARACTERS[read.instructed[0]], ACTIONS[read.action[0]]) == ("smith", "ring the bell")


def test_rules() -> None:
    world = InstructionWorld(1, num_instructions=3, min_distractors=40, max_distractors=40)
    for seed in range(23):
        world.seed(0, seed)
        world.reset(0)
        read = read_lines(world.lines[0, :46])
        told, met = np.flatnonzero(read.instructed >= 0), np.flatnonzero(read.met >= 0)
        assert len(told) == len(met) == 3 and told.max() < 3 + 4 and met.min() >= 46 - 7 and met.max() == 45
        assert set(read.instructed[told]) == set(read.met[met]) and len(set(read.met[met])) == 3
        due = dict(zip(read.instructed[told], read.action[told], strict=True))
        for step in range(46):
            infos = world.infos()
            assert (infos["relevant"][0], infos["encounter"][0]) == (step in told, step in met)
            action = due[read.met[step]] + 1 if step in met else 5
            # Wrong at the first encounter, right at the others.
            result = world.step(np.array([NOTHING if step == met[0] else action]))
            assert result.reward[0] == (step in met[1:]) and result.terminated[0] == (step == 45)
        assert world.infos()["carried_out"][0] == 2 / 3
        assert not world.succeeded(StepResult(np.array([1.0]), np.array([True]), np.array([False])))[0]


def test_both_faces_live_through_the_same_trajectories() -> None:
    rows, seed = 3, 19
    vector, singles = InstructionVectorEnv(rows, **SHORT), [InstructionEnv(**SHORT) for _ in range(rows)]
    seen, infos = vector.reset(seed=seed)
    for row, env in enumerate(singles):
        observation, info = env.reset(seed=seed + row)
        np.testing.assert_array_equal(seen[row], observation)
    endings = 0
    for action in np.random.default_rng(2).integers(6, size=(200, rows)):
        seen, rewards, terminated, truncated, infos = vector.step(action)
        for row, env in enumerate(singles):
            observation, reward, ended, cut, info = env.step(int(action[row]))
            assert (rewards[row], terminated[row], truncated[row]) == (reward, ended, cut)
            if ended:
                endings += 1
                np.testing.assert_array_equal(infos["final_obs"][row], observation)
                assert {name: infos["final_info"][name][row] for name in info} == info
                observation, info = env.reset()
            np.testing.assert_array_equal(seen[row], observation)
            assert {name: infos[name][row] for name in info} == info
    assert endings > 13


def test_state_dict_continues_exactly() -> None:
    env, actions = InstructionVectorEnv(5, **SHORT), np.random.default_rng(3).integers(0, 6, (90, 5))
    env.reset(seed=5)
    for action in actions[:31]:
        env.step(action)
    other = InstructionVectorEnv(5, **SHORT)
    other.reset(seed=99)
    other.load_state_dict(env.state_dict())
    for action in actions[31:]:
        for mine, theirs in zip(env.step(action)[:4], other.step(action)[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("remember", "low", "high"), [(True, 1.0, 1.0), (False, 0.16, 0.24)])
def test_solvers_give_ceiling_and_floor(remember: bool, low: float, high: float) -> None:
    rows = 41
    env, solver = InstructionVectorEnv(rows, **SHORT), InstructionSolver(rows, remember, seed=1)
    lines, _ = env.reset(seed=7)
    starts, shares = np.ones(rows, dtype=bool), []
    while len(shares) < 1000:
        lines, _, starts, _, infos = env.step(solver.act(lines, starts))
        shares += infos["final_info"]["carried_out"][starts].tolist() if starts.any() else []
    assert low <= np.mean(shares) <= high


def test_the_episode_can_be_read_and_seen() -> None:
    env = gym.make("expirespan/Instruction-v0", render_mode="ansi", **SHORT)
    observation, _ = env.reset(seed=3)
    said = [decode(observation)]
    for _ in range(3):
        said += ["> ring the bell", decode(env.step(2)[0])]
    assert env.render() == "\n".join(said) + "\n"
    env = make_single("expirespan/Instruction-v0", render_mode="rgb_array")
    env.reset(seed=3)
    picture: Any = env.render()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.min() < 255


def test_what_the_agent_sees_is_drawn_as_the_present_line_alone() -> None:
    env: Any = make_single("expirespan/Instruction-v0").unwrapped
    env.reset(seed=3)
    before = env.get_pov_render(8)
    env.step(0)
    after, view = env.get_pov_render(8), AgentView(env)
    assert before.shape == after.shape == (60, 96, 1) and after.min() == 0 and (before != after).any()
    seen = view(env.world.observe()[0])
    assert seen is not None and np.array_equal(seen, after)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_instructions": 0}, "`num_instructions` to be at least 1, actual: 0"),
        (
            {"num_instructions": 6},
            r"`num_instructions` to be at most `num_characters` \(5\), one for each, actual: 6",
        ),
        ({"max_distractors": 99}, r"`max_distractors` to be at least `min_distractors` \(100\), actual: 99"),
        ({"num_characters": 13}, "`num_characters` to be at most 12, actual: 13"),
        ({"num_actions": 1}, "`num_actions` to be at least 2, actual: 1"),
        ({"num_envs": 0}, "`num_envs` to be at least 1, actual: 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InstructionVectorEnv(**arguments)


def test_bad_actions_are_refused() -> None:
    env = InstructionEnv()
    env.reset(seed=1)
    with pytest.raises(ValueError, match="`action` to be an int from 0 to 5, actual: 6"):
        env.step(6)


def test_token_lines_are_told_from_other_observations() -> None:
    assert is_token_line(InstructionEnv().observation_space)
    for other in (
        spaces.Box(0, 255, (128,), np.uint8),
        spaces.Box(0, 5, (3,), np.float32),
        spaces.Box(-1, 5, (3,), np.int16),
        spaces.Box(0, 5, (3, 2), np.int64),
    ):
        assert not is_token_line(other)
    with pytest.raises(ValueError, match="`observation_space` to be a one-dimensional Box of whole numbers"):
        TokenLineExtractor(spaces.Box(0, 5, (3,), np.float32))


def test_the_order_of_words_counts_and_a_word_is_the_same_everywhere() -> None:
    extractor = TokenLineExtractor(InstructionEnv().observation_space, features_dim=17)
    line = np.zeros((2, LINE_WIDTH), dtype=np.int16)
    line[0, :2], line[1, :2] = (3, 5), (5, 3)
    import torch

    features = extractor(torch.from_numpy(line).float())
    assert features.shape == (2, 17) and not torch.allclose(features[0], features[1])
    assert extractor.words.weight.shape == (len(VOCABULARY), 32)
