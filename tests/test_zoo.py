"""RL Zoo trains, plays and searches MemoryPPO and MemoryA2C through `python -m expirespan.agents.zoo`.

What needs RL Zoo itself runs where it is installed.  CI has none: it needs python-dateutil below 3 (rl_zoo3 2.9.2 by
pytablewriter 1.2 and typepy 1.3), and constraints.txt has 4.0.0.
"""

import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from expirespan.agents import MemoryPPO, zoo
from models import corridor
from optuna import load_study
from optuna.trial import FixedTrial
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

needs_zoo = pytest.mark.skipif(find_spec("rl_zoo3") is None, reason="RL Zoo is not installed (pip install rl_zoo3)")
ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "examples/zoo").glob("*.yml"))
OF_ZOO = {"n_envs", "n_timesteps", "normalize", "env_wrapper"}
"""Keys of a YAML file that are not the algorithm's."""
SETTINGS = """
CartPole-v1:
  policy: MlpPolicy
  n_envs: 4
  n_timesteps: 384
  n_steps: 32
  normalize: true
  learning_rate: lin_0.01
  clip_range: 0.2
  policy_kwargs:
    memory: {width: 16, ff_width: 16, position_window: 4}
"""


PROGRAM = """
import sys
from expirespan.agents import zoo
for command in sys.argv[1:]:
    sys.argv = ["zoo.py", *command.split()]
    zoo.main()
"""


def run_zoo(folder: Path, *commands: str) -> str:
    """What these commands print, which must succeed: in one process, since it takes seconds to import everything."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *commands], cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def returns(folder: Path, steps: int, remember: bool) -> list[float]:
    """Returns of the episodes that `enjoy --seed 5` plays, played here."""
    model = MemoryPPO.load(folder / "CartPole-v1.zip", device="cpu")
    env = VecNormalize.load(str(folder / "CartPole-v1/vecnormalize.pkl"), make_vec_env("CartPole-v1", 1, seed=5))
    env.training = env.norm_reward = False
    observations: Any = env.reset()
    state, starts, found, total = None, np.ones(1, dtype=bool), [], 0.0
    for _ in range(steps):
        forgotten = starts if remember else np.ones(1, dtype=bool)
        actions, state = model.predict(observations, state, forgotten, deterministic=True)
        observations, rewards, starts, _ = env.step(actions)
        total += float(rewards[0])
        if starts[0]:
            found, total = [*found, total], 0.0
    return found


@needs_zoo
def test_a_yaml_file_trains_and_enjoy_plays_with_memory(tmp_path: Path) -> None:
    (tmp_path / "settings.yml").write_text(SETTINGS)
    which = "--algo memory_ppo --env CartPole-v1 --device cpu"
    train = f"train {which} -conf settings.yml --seed 3 --eval-freq 128 --eval-episodes 1 --save-freq 128"
    enjoy = f"enjoy {which} -f logs --no-render --seed 5 --exp-id 1"
    run = tmp_path / "logs/memory_ppo/CartPole-v1_1"
    printed = run_zoo(
        tmp_path,
        train,
        f"{enjoy} -n 200",
        f"{enjoy} -n 20 --load-best --verbose 0",
        f"{enjoy} -n 20 --load-checkpoint 128 --verbose 0",
        f"{train} -n 128 -i {run / 'CartPole-v1.zip'}",
    )
    played = [float(found) for found in re.findall(r"Episode Reward: ([\d.]+)", printed)]
    assert played == returns(run, 200, remember=True) != returns(run, 200, remember=False)
    assert (run.parent / "CartPole-v1_2/CartPole-v1.zip").is_file()


@needs_zoo
def test_the_commands_of_the_docs_run(tmp_path: Path) -> None:
    """Trains and plays, searches, and trains what a trial of the search had."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    begin = "python -m expirespan.agents.zoo "
    lines = [line for line in (ROOT / "docs/tools.md").read_text().splitlines() if line.startswith(begin)]
    train, enjoy, search, of_trial = (f"{line.removeprefix(begin)} --device cpu -n 64" for line in lines)
    few = "--n-trials 2 --n-evaluations 1 --eval-episodes 1 --no-optim-plots"
    printed = run_zoo(tmp_path, train, enjoy, f"{search} {few}", f"{of_trial} --trial-id 1 --eval-freq -1")
    assert "Number of finished trials:  2\nBest trial:" in printed
    trial = load_study(study_name="cartpole", storage=f"sqlite:///{tmp_path / 'study.db'}").trials[1]
    (found,) = tmp_path.glob("logs/memory_ppo/CartPoleNoVel-v1_*/CartPoleNoVel-v1.zip")
    assert MemoryPPO.load(found, device="cpu").gamma == 1 - trial.params["one_minus_gamma"]


@needs_zoo
def test_settings_that_are_missing_are_asked_for() -> None:
    command = [sys.executable, "-m", "expirespan.agents.zoo", "train", "--algo", "memory_a2c"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert re.search(r"memory_a2c\.yml'; name a YAML file of settings by -conf$", ended.stderr.strip())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_yaml_files_name_arguments_that_exist(path: Path) -> None:
    known = set(inspect.signature(zoo.ALGORITHMS[path.stem]).parameters) | OF_ZOO
    for settings in yaml.safe_load(path.read_text()).values():
        assert set(settings) <= known and {"policy", "n_envs", "n_timesteps"} <= set(settings)
        zoo.ALGORITHMS[path.stem].config_class(
            **{name: value for name, value in settings.items() if name in ("gamma", "n_steps", "learning_rate")}
        )


def test_trials_become_settings_of_the_algorithm() -> None:
    drawn = {
        "learning_rate": 1e-3,
        "n_steps": 32,
        "one_minus_gamma": 0.01,
        "one_minus_gae_lambda": 0.25,
        "ent_coef": 0.002,
        "max_grad_norm": 1.0,
    }
    settings = {
        "learning_rate": 1e-3,
        "n_steps": 32,
        "gamma": 0.99,
        "gae_lambda": 0.75,
        "ent_coef": 0.002,
        "max_grad_norm": 1.0,
        "batch_size": None,
    }
    of_ppo = {"n_epochs": 7, "clip_range": 0.3}
    assert zoo.sample_a2c(FixedTrial(drawn), 0, 4, {}) == settings  # pyright: ignore[reportArgumentType]  # no Trial
    assert zoo.sample_ppo(FixedTrial(drawn | of_ppo), 0, 4, {}) == settings | of_ppo  # pyright: ignore[reportArgumentType]
    model = MemoryPPO("MemoryPolicy", corridor(), **zoo.settings_of(drawn | of_ppo))
    assert (model.gamma, model.n_epochs, model.batch_size) == (0.99, 7, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expect train or enjoy first, actual: ''"),
        (["plot"], "Expect train or enjoy first, actual: 'plot'"),
        (["train"], "install RL Zoo by: pip install rl_zoo3 pandas requests"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo.py", *arguments])
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(SystemExit, match=message):
        zoo.main()
