"""Mistakes that a user makes, each with the one line that answers it: which argument, which rule, which value."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan import RecordEpisodes, evaluate, train_agent
from expirespan.agents import MemoryA2C, MemoryPPO, PressureConfig
from expirespan.analysis.evaluation import evaluate_policy, record_episode
from expirespan.analysis.inspection import inspect_memory
from expirespan.checks import check_bool, check_number, check_whole
from expirespan.envs import CorridorVectorEnv, make_batched, make_single
from expirespan.envs.make import BrokenEnvironment
from expirespan.memory import ExpireSpanConfig
from expirespan.memory.expire_span.budget import check_budget
from faulty_envs import Broken, Linked, Mistyped, Needy, Plain, Twofold, Written
from gymnasium.envs import registration
from models import Blinker, corridor, small
from test_scripts import ROLLOUT, SMALL, train

CORRIDOR = "expirespan/Corridor-v0"
UNKNOWN = "`env` to be the id of a registered environment, actual:"
SEEN = "`env` to have observations in a Box, Discrete, MultiDiscrete or MultiBinary space or a Dict of these, actual:"
DONE = "`env` to have actions in a Box, Discrete, MultiDiscrete or MultiBinary space, actual:"
NOT_OURS = "`env_args` to be arguments of"
OF_CORRIDOR = f"{NOT_OURS} {CORRIDOR} (min_length, max_length, max_steps, view_size, num_colors), actual:"
FAILED = "could not be made, its own code raised"
COUNT = "to be a whole number, such as 1000000, 1_000_000, 1e6 or 1M, actual:"
BOTH = "`memory_budget` not to be given beside `penalty_weight`, actual:"
ALONE = "`resume` with no other options than total_steps, device, workers and timeline_every, actual:"
LISTED = "only options that --help lists, actual:"
VIEW = "Box(0, 255, (3, 3, 3), uint8)"
STEPS_OF_SHORT = "the most steps of an episode of expirespan/CorridorShort-v0, actual:"
BEFORE = "stand before the stages or on the command line, as it holds for all of them"
STAGES = {
    "untabled": "gamma = 0.9",
    "plural": "[[stages]]\ngamma = 0.9",
    "broken": "[[stage]]\ngamma =",
    "resuming": 'resume = "runs/x"\n[[stage]]',
    "misspelt": "rmap = 3\n[[stage]]",
    "unknown": "[[stage]]\n[[stage]]\nlearning_rat = 3e-4",
    "ramped": "[[stage]]\n[[stage]]\nramp = 3",
    "seeded": "[[stage]]\nseed = 1",
    "helping": "[[stage]]\nhelp = true",
    "high": "[[stage]]\n[[stage]]\ngamma = 1.5",
    "texted": '[[stage]]\n[[stage]]\ngamma = "high"',
    "odd": "[[stage]]\n[[stage]]\nbatch_size = 100",
    "poor": "[[stage]]\n[[stage]]\nmemory_budget = 4",
    "mistaken": '[[stage]]\n[[stage]]\nenv = "expirespan/Coridor-v0"',
    "spaced": "[[stage]]\n[[stage]]\nview_size = 5",
    "acting": '[[stage]]\n[[stage]]\nenv = "MiniGrid-MemoryS7-v0"\nview_size = 3',
}
"""Files of stages by name, each with a mistake."""
SHORT = "--env expirespan/CorridorShort-v0 --width 16 --ff-width 16 --max-span 40"

TRAIN = [
    ("--env Corridor-v0", f"{UNKNOWN} 'Corridor-v0'; did you mean expirespan/Corridor-v0?"),
    ("--env expirespan/Coridor-v0", f"{UNKNOWN} 'expirespan/Coridor-v0'; did you mean expirespan/Corridor-v0?"),
    ("--env CartPoel-v1", f"{UNKNOWN} 'CartPoel-v1'; did you mean CartPole-v1?"),
    ("--env CartPole-v9", f"{UNKNOWN} 'CartPole-v9'; did you mean CartPole-v1?"),
    ("--env nomodule:Thing-v0", f"{UNKNOWN} 'nomodule:Thing-v0' (No module named 'nomodule'"),
    ("--env Blackjack-v1", f"{SEEN} Tuple(Discrete(32), Discrete(11), Discrete(2))"),
    ("--env test/Written-v0", f"{SEEN} Dict("),
    ("--env test/Linked-v0", f"{SEEN} Graph("),
    ("--env test/Twofold-v0", f"{DONE} Tuple(Discrete(2), Discrete(3))"),
    ("--env test/Broken-v0", f"The environment test/Broken-v0 {FAILED} KeyError: 'level' (faulty_envs.py, line "),
    (
        "--env test/Mistyped-v0",
        f"The environment test/Mistyped-v0 {FAILED} TypeError: object of type 'int' has no len()",
    ),
    ("--env test/Needy-v0", "`env_args` to name level, which test/Needy-v0 needs, actual: none"),
    ("--env test/Needy-v0 --env-args levle=3", f"{NOT_OURS} test/Needy-v0 (level), actual: levle; did you mean level?"),
    ("--env-args max_length", "`env_args` to be NAME=VALUE, actual: 'max_length'"),
    ("--env-args colour=3", f"{OF_CORRIDOR} colour"),
    ("--env-args max_lenght=9", f"{OF_CORRIDOR} max_lenght; did you mean max_length?"),
    ("--env-args width=9", f"{OF_CORRIDOR} width"),
    ("--env-args max_length=0", "`max_length` to be at least 1, actual: 0"),
    ("--env-args max_length=2", "`max_length` to be at least `min_length` (3), actual: 2"),
    ("--env CartPole-v1 --env-args gravity=3", f"{NOT_OURS} CartPole-v1 (sutton_barto_reward), actual: gravity"),
    (
        "--env CartPole-v1 --view-size 3",
        "`view_size` to be None for CartPole-v1, which is no MiniGrid environment, actual: 3",
    ),
    ("--env MiniGrid-MemoryS7-v0 --view-size 4", "`view_size` to be odd and at least 3, actual: 4"),
    ("--total-steps 0", "`total_steps` to be at least 1, actual: 0"),
    ("--total-steps -5", "`total_steps` to be at least 1, actual: -5"),
    ("--total-steps many", f"`total_steps` {COUNT} 'many'"),
    ("--total-steps=1.5", f"`total_steps` {COUNT} '1.5'"),
    ("--total-steps", "`total_steps` to come with a value, actual: none"),
    ("--resume", "`resume` to come with a value, actual: none"),
    ("--timeline-every -1", "`timeline_every` to be at least 0, actual: -1"),
    ("--checkpoint-every 0", "`checkpoint_every` to be at least 1, actual: 0"),
    ("--num-envs 0", "`num_envs` to be at least 1, actual: 0"),
    ("--seed -1", "`seed` to be at least 0, actual: -1"),
    (
        "--batch-size 100",
        "`batch_size` to be a multiple of `n_steps` (128), since a minibatch is whole environment columns",
    ),
    ("--algo a2c --n-epochs 4", "`algo` to be ppo, as n_epochs is an option of ppo alone, actual: a2c"),
    ("--algo a2c --clip_range=0.1", "`algo` to be ppo, as clip_range is an option of ppo alone, actual: a2c"),
    ("--algo dqn", "`algo` to be one of ppo, a2c, actual: 'dqn'"),
    ("--learning-rat 0.1", f"{LISTED} --learning-rat; did you mean --learning-rate?"),
    ("--no-aneal", f"{LISTED} --no-aneal; did you mean --no-anneal?"),
    ("corridor", f"{LISTED} corridor"),
    ("-env X", f"{LISTED} -env, X; did you mean --env?"),
    ("--anneal maybe", "`anneal` without a value, as --anneal or --no-anneal, actual: 'maybe'"),
    ("--no-anneal=0", "`anneal` without a value, as --anneal or --no-anneal, actual: '0'"),
    ("--gamma high", "`gamma` to be a number, actual: 'high'"),
    ("--memory-budget abc", "`memory_budget` to be a number or None, actual: 'abc'"),
    ("--capacity 1.5", "`capacity` to be a whole number or None, actual: '1.5'"),
    ("--num-envs x", f"`num_envs` {COUNT} 'x'"),
    ("--threads x", "`threads` to be a whole number, actual: 'x'"),
    ("--gamma 1.5", "`gamma` to be between 0 and 1, actual: 1.5"),
    ("--heads 7", "`width` to be a multiple of `heads` (7), actual: 64"),
    ("--ramp 0", "`ramp` to be positive, actual: 0.0"),
    ("--width 1000000", "`width`, the largest size, to be one for which there is memory, actual: 1000000"),
    ("--n-steps 1000000000", "`n_steps`, the largest size, to be one for which there is memory, actual: 1000000000"),
    ("--layers 100000000", "`layers` to be at most 1024, actual: 100000000"),
    ("--device tpu", "`device` to be cpu, or cuda where there is a GPU, actual: 'tpu'"),
    ("--memory-budget -3", "`memory_budget` to be positive, actual: -3.0"),
    ("--memory-budget 4", "`memory_budget` to be at least 16, which a layer holds with a ramp of 16 steps, actual: 4"),
    ("--memory-budget 20 --penalty-weight 1e-6", f"{BOTH} 20"),
    ("--late-pull 0.3 --memory-budget None", "`late_pull` to be 0 where no memory budget is kept, actual: 0.3"),
    ("--resume nowhere", "a run folder with a config.json, actual: nowhere"),
    ("--resume nowhere --ramp 3 --num-envs 4", f"{ALONE} ramp, num_envs"),
    ("--init-from nowhere", "a run folder with a config.json, actual: nowhere"),
    ("--out {run}", "`out` to be a new or empty folder, actual: {run}; go on with it by --resume {run}"),
    ("--resume {run} --seed 3", f"{ALONE} seed"),
    # What is given counts, although it is the default or that of the run.
    ("--resume {run} --ramp 16 --seed 0 --algo ppo", f"{ALONE} ramp, seed, algo"),
    ("--out {run}/config.json/new", "`out` to be a folder that can be made, actual: {run}/config.json/new; {run}/conf"),
    ("--env CartPole-v1 --env-args render_mode=human", "`env_args` without render_mode, which is chosen where"),
    (
        f"--init-from {{run}} {SHORT} --ramp 4 --view-size 5",
        f"`init_from` to be a run with the observation_space Box(0, 255, (5, 5, 3), uint8), actual: {VIEW}",
    ),
    (f"--init-from {{run}} {SHORT}", "`init_from` to be a run with ramp 16.0, actual: ramp 4.0"),
    ("--stages nowhere.toml", "`stages` to be an existing file, actual: nowhere.toml"),
    ("--stages", "`stages` to come with a value, actual: none"),
    ("--stages {untabled}", "`stages` to be a file with a [[stage]] table for each stage, actual: {untabled}"),
    ("--stages {plural}", "`stages` to be a file with a [[stage]] table for each stage, actual: {plural}"),
    ("--stages {broken}", "`stages` to be a TOML file, actual: {broken} (Invalid value (at "),
    ("--stages {resuming}", "`resume` on the command line alone, actual: runs/x in {resuming}"),
    ("--stages {misspelt}", f"{LISTED} --rmap; did you mean --ramp?"),
    ("--stages {unknown}", f"{LISTED} --learning-rat; did you mean --learning-rate? (stage 2)"),
    ("--stages {ramped}", f"`ramp` to {BEFORE}, actual: 3 (stage 2)"),
    ("--stages {seeded}", f"`seed` to {BEFORE}, actual: 1 (stage 1)"),
    ("--stages {helping}", f"`help` to {BEFORE}, actual: True (stage 1)"),
    ("--stages {high}", "`gamma` to be between 0 and 1, actual: 1.5 (stage 2)"),
    ("--stages {texted}", "`gamma` to be a number, actual: 'high' (stage 2)"),
    ("--stages {odd}", "`batch_size` to be a multiple of `n_steps` (128), since a minibatch is whole environment"),
    (
        "--stages {poor}",
        "`memory_budget` to be at least 16, which a layer holds with a ramp of 16 steps, actual: 4 (st",
    ),
    ("--stages {mistaken}", f"{UNKNOWN} 'expirespan/Coridor-v0'; did you mean expirespan/Corridor-v0? (stage 2)"),
    ("--stages {spaced}", f"`env` to have the observation space {VIEW} of stage 1, actual: Box(0, 255, (5, 5, 3)"),
    ("--stages {acting}", "`env` to have the action space Discrete("),
    ("--stages {seeded} --resume {run}", f"{ALONE} stages"),
]
"""Arguments of expirespan-train, with the beginning of the answer ("Expect " apart)."""

EVALUATE = [
    ("", "Missing from expirespan-evaluate: PATH Run folder of expirespan-train. (required)"),
    ("nowhere", "a run folder with a config.json, actual: nowhere"),
    ("{run} again", f"{LISTED} again"),
    ("{run} --forget 1 abc", "`forget` to be whole numbers, actual: '1', 'abc'"),
    ("{run} --split best", f"{LISTED} --split"),
    ("{run} --sampel", f"{LISTED} --sampel; did you mean --sample?"),
    ("{run} --episodes 0", "`episodes` to be at least 1, actual: 0"),
    ("{run} --max-episode-steps 0", "`max_episode_steps` to be at least 1, actual: 0"),
    ("{run} --filmstrip -1", "`filmstrip` to be at least 0, actual: -1"),
    ("{run} --filmstrip 1e6", f"`filmstrip` to be less than 30, {STEPS_OF_SHORT} 1000000"),
    ("{run} --filmstrip 500", f"`filmstrip` to be less than 30, {STEPS_OF_SHORT} 500"),
    ("{run} --filmstrip 7 --max-episode-steps 7", f"`filmstrip` to be less than 7, {STEPS_OF_SHORT} 7"),
    ("{run} --gif --env test/Plain-v0", "`gif` with an environment that can be drawn, actual: test/Plain-v0"),
    (
        "{run} --filmstrip 1 --env test/Plain-v0",
        "`filmstrip` with an environment that can be drawn, actual: test/Plain-v0",
    ),
    ("{run} --env CartPole-v1", f"`env` to have the observation space {VIEW}, actual: Box([-4.8"),
    ("{run} --env-args max_length=9", "`env_args` to come with `env`, actual: max_length=9"),
    ("{run} --attention", "`attention` to come with `record`, actual: record 0"),
    ("{run} --cut-span -1", "`cut_span` to be at least 0, actual: -1.0"),
    ("{run} --forget 3 --record 2", "`forget` without what would not show it, actual: with record"),
    ("{run} --memory-report --episodes 1", "`memory_report` to come with at least 2 `episodes`, actual: 1"),
    ("{run} --compare {run}", "`compare` to be another run folder than `run`, actual: {run}"),
    ("{run} --compare nowhere", "a run folder with a config.json, actual: nowhere"),
    ("{run} --compare {empty} --best", "`compare` to be a run with a best.safetensors, actual: {empty}"),
    ("{run} --json nowhere/e.json", "`json` to be a file in an existing folder, actual: nowhere/e.json"),
    ("{run} --device cuda:99", "`device` to be cpu, or cuda where there is a GPU, actual: 'cuda:99'"),
    ("{empty}", "There is no checkpoint at {empty}/checkpoint.safetensors"),
]
"""The same of expirespan-evaluate."""

LIBRARY: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: make_single("CartPole-v1", {"speed": 3}),
        ValueError,
        f"{NOT_OURS} CartPole-v1 (sutton_barto_reward), actual: speed",
    ),
    (
        lambda: make_single("test/Plain-v0", render_mode="rgb_array"),
        ValueError,
        "`render_mode` to be None for test/Plain-v0, which takes none, actual: 'rgb_array'",
    ),
    (
        lambda: make_single("test/Plain-v0", {"size": 3}),
        ValueError,
        f"{NOT_OURS} test/Plain-v0 (which takes none), actual: size",
    ),
    (
        lambda: make_single("test/Broken-v0"),
        BrokenEnvironment,
        f"The environment test/Broken-v0 {FAILED} KeyError: 'level' (faulty_envs.py",
    ),
    (
        lambda: make_batched("expirespan/Corridor-v0", 2, {"highlight": False}),
        ValueError,
        "num_colors), actual: highlight",
    ),
    (
        lambda: make_batched("expirespan/Instruction-v0", 2, view_size=5),
        ValueError,
        "`view_size` to be None for expirespan/Instruction-v0",
    ),
    (lambda: CorridorVectorEnv(0), ValueError, "`num_envs` to be at least 1, actual: 0"),
    (lambda: PressureConfig(memory_budget=30.0, penalty_weight=1e-6), ValueError, f"{BOTH} 30.0"),
    (
        lambda: check_budget(PressureConfig(memory_budget=4.0), ExpireSpanConfig()),
        ValueError,
        "`memory_budget` to be at least 16",
    ),
    (lambda: check_whole("steps", True, at_least=1), TypeError, "`steps` to be an int, actual: True"),
    (
        lambda: check_whole("steps", np.float32(3.0), at_least=1),
        TypeError,
        "`steps` to be an int, actual: np.float32(3.0)",
    ),
    (lambda: check_number("gamma", np.bool_(True)), TypeError, "`gamma` to be a number, actual: np.True_"),
    (lambda: check_number("gamma", np.float32("nan")), ValueError, "`gamma` to be finite, actual: nan"),
    (lambda: check_bool("greedy", 1), TypeError, "`greedy` to be a bool, actual: 1"),
    (
        lambda: RecordEpisodes(corridor()),
        TypeError,
        "`eval_env` to be a Gymnasium environment, the id of one or a function that makes one, actual: ",
    ),
    (lambda: RecordEpisodes("CartPole-v1", every=0), ValueError, "`every` to be at least 1, actual: 0"),
    (lambda: RecordEpisodes("CartPole-v1", max_steps=0), ValueError, "`max_steps` to be at least 1, actual: 0"),
    (
        lambda: small(corridor(), tensorboard_log="{folder}").learn(64, RecordEpisodes("CartPole-v1")),
        ValueError,
        f"`eval_env` to have the observation space {VIEW}, actual: Box([-4.8",
    ),
    (lambda: evaluate_policy(small().policy, corridor(), 0, 1), ValueError, "`episodes` to be at least 1, actual: 0"),
    (
        lambda: evaluate_policy(small().policy, corridor(), 1, 1, max_steps=0),
        ValueError,
        "`max_steps` to be at least 1, actual: 0",
    ),
    (
        lambda: record_episode(small().policy, Blinker(), 1, max_steps=0),
        ValueError,
        "`max_steps` to be at least 1, actual: 0",
    ),
    (
        lambda: inspect_memory(small().policy, Blinker, corridor, 1, 1),
        ValueError,
        "`episodes` to be at least 2, actual: 1",
    ),
]
"""Calls, with the kind of error and the beginning of its message ("Expect " apart)."""

PYTHON: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: small(n_steps=0), ValueError, "`n_steps` to be at least 1, actual: 0"),
    (lambda: small(gamma=1.5), ValueError, "`gamma` to be between 0 and 1, actual: 1.5"),
    (lambda: small(batch_size=20), ValueError, "`batch_size` to be a multiple of `n_steps` (16), since a minibatch"),
    (lambda: small(clip_range=lambda left: -1.0), ValueError, "`clip_range` to be at least 0, actual: -1.0"),
    (lambda: small(memory_budget=1.0), ValueError, "`memory_budget` to be at least 4, which a layer holds"),
    (lambda: small(use_sde=True), ValueError, "`use_sde` not to be given: state-dependent exploration"),
    (lambda: small(rollout_buffer_class=list), ValueError, "`rollout_buffer_class` not to be given: rollouts"),
    (lambda: small(n_step=16), TypeError, "arguments of MemoryPPO, actual: `n_step`; did you mean `n_steps`?"),
    (
        lambda: MemoryA2C("MlpPolicy", corridor(), clip_range=0.2),
        TypeError,
        "arguments of MemoryA2C, actual: `clip_range`",
    ),
    (lambda: small(5), TypeError, "`env` to be a Gymnasium environment or its id, a VecEnv of SB3, or a Vector"),
    (lambda: MemoryPPO("MemoryPolcy", corridor()), ValueError, "`policy` to be one of MemoryPolicy, MlpPolicy,"),
    (lambda: small(gym.make_vec("CartPole-v1", 2)), ValueError, "`env` to have same-step or disabled autoreset"),
    (lambda: small().set_env(Blinker()), ValueError, "Observation spaces do not match"),
    (lambda: small().predict(corridor().reset(seed=1)), ValueError, "`observation` to be an array or a dictionary"),
    (
        lambda: small().predict(corridor().reset(seed=1)[0], action_masks=np.ones(1)),
        ValueError,
        "`action_masks` to have 4",
    ),
    (lambda: MemoryPPO.load("nowhere"), FileNotFoundError, "There is no checkpoint at nowhere"),
    (lambda: small().save("x", include=["env"]), ValueError, "`exclude` and `include` to be None, actual: None"),
    (
        lambda: small(policy_kwargs={"observations": "text"}),
        ValueError,
        "`observations` to be one of ('numbers', 'picture', 'minigrid', 'tokens'), actual: 'text'",
    ),
]


@pytest.fixture(autouse=True)
def environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "registry", dict(gym.registry))
    for kind in (Plain, Broken, Mistyped, Needy, Written, Linked, Twofold):
        entry: Any = kind  # Gymnasium declares that constructors take any arguments
        gym.register(f"test/{kind.__name__}-v0", entry, disable_env_checker=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run, empty = tmp_path_factory.mktemp("runs") / "run", tmp_path_factory.mktemp("empty")
    train(*SMALL, "--total-steps", ROLLOUT, "--timeline-every", 0, "--out", run)
    (empty / "config.json").write_text((run / "config.json").read_text())
    files = {name: run.parent / f"{name}.toml" for name in STAGES}
    for name, text in STAGES.items():
        files[name].write_text(text)
    return {"run": str(run), "empty": str(empty), **{name: str(file) for name, file in files.items()}}


def answer(program: Callable[[list[str]], None], arguments: str, folders: dict[str, str]) -> str:
    """What a program answers to arguments that it refuses, once it is seen to be one line and to leave with 1."""
    with pytest.raises(SystemExit) as end:
        program([word.format(**folders) for word in arguments.split()])
    assert isinstance(end.value.code, str)  # Python prints it and leaves with 1
    assert len(end.value.code.splitlines()) == 1
    return end.value.code


@pytest.mark.parametrize(("arguments", "message"), TRAIN)
def test_mistakes_of_training(
    arguments: str, message: str, folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = answer(train_agent.main, arguments, folders).removeprefix("expirespan-train: ").removeprefix("Expect ")
    assert said.startswith(message.format(**folders))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "message"), EVALUATE)
def test_mistakes_of_evaluation(
    arguments: str, message: str, folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = answer(evaluate.main, arguments, folders).removeprefix("expirespan-evaluate: ").removeprefix("Expect ")
    assert said.startswith(message.format(**folders))


@pytest.mark.parametrize(("call", "kind", "message"), [*LIBRARY, *PYTHON])
def test_mistakes_in_python(
    call: Callable[[], object], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=re.escape(message)) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_at_least_fifty_mistakes_are_answered() -> None:
    assert len(TRAIN) + len(EVALUATE) + len(LIBRARY) + len(PYTHON) >= 50
