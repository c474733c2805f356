"""RL Zoo with this project's algorithms: training and search from a YAML file, and playing what came of it.

    python -m expirespan.agents.zoo train --algo memory_ppo --env CartPoleNoVel-v1 -conf examples/zoo/memory_ppo.yml

RL Zoo looks algorithms up in dictionaries, and reads `--algo` before it imports any `--gym-packages`.  So they are
entered here first; everything after `train` or `enjoy` is RL Zoo's own.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .learn.a2c import MemoryA2C
from .learn.on_policy import MemoryOnPolicyAlgorithm
from .learn.ppo import MemoryPPO

if TYPE_CHECKING:
    from optuna import Trial

ALGORITHMS: dict[str, type[MemoryOnPolicyAlgorithm]] = {"memory_ppo": MemoryPPO, "memory_a2c": MemoryA2C}
COMMANDS = ("train", "enjoy")


def sample_a2c(trial: "Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Settings of MemoryA2C for a trial of `train -optimize`.

    The memory and its budget stay those of the YAML file: a search by return alone would take the largest.
    """
    trial.suggest_float("learning_rate", 1e-4, 2e-3, log=True)
    trial.suggest_categorical("n_steps", [16, 32, 64, 128, 256])
    trial.suggest_float("one_minus_gamma", 1e-3, 0.05, log=True)
    trial.suggest_float("one_minus_gae_lambda", 0.01, 0.5, log=True)
    trial.suggest_float("ent_coef", 1e-4, 0.05, log=True)
    trial.suggest_float("max_grad_norm", 0.3, 2.0, log=True)
    return settings_of(trial.params)


def sample_ppo(trial: "Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """The same for MemoryPPO."""
    trial.suggest_int("n_epochs", 1, 10)
    trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3])
    return sample_a2c(trial, n_actions, n_envs, additional_args)


def settings_of(params: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the algorithm for the parameters of a trial.

    `batch_size` is None, since one of the YAML file need not fit the `n_steps` of the trial.
    """
    settings = {name: value for name, value in params.items() if not name.startswith("one_minus_")}
    shares = {name: 1 - params[f"one_minus_{name}"] for name in ("gamma", "gae_lambda")}
    return settings | shares | {"batch_size": None}


def register() -> None:
    """Enter the algorithms, and what `-optimize` and `--trial-id` need of them, into RL Zoo.

    Raises ModuleNotFoundError where RL Zoo or something that it needs isn't installed.
    """
    search = import_module("rl_zoo3.hyperparams_opt")
    import_module("rl_zoo3.utils").ALGOS.update(ALGORITHMS)
    search.HYPERPARAMS_SAMPLER.update(memory_ppo=sample_ppo, memory_a2c=sample_a2c)
    search.HYPERPARAMS_CONVERTER.update(dict.fromkeys(ALGORITHMS, settings_of))


def main() -> None:
    """The command line: `train` or `enjoy`, and RL Zoo's arguments for it."""
    program, *arguments = sys.argv
    if not arguments or arguments[0] not in COMMANDS:
        sys.exit(f"expirespan.agents.zoo: Expect {' or '.join(COMMANDS)} first, actual: {' '.join(arguments[:1])!r}")
    command, *arguments = arguments
    try:
        register()
        run = getattr(import_module(f"rl_zoo3.{command}"), command)
    except ModuleNotFoundError as error:
        sys.exit(f"expirespan.agents.zoo: {error}; install RL Zoo by: pip install rl_zoo3 pandas requests")
    sys.argv = [f"{program} {command}", *arguments]
    try:
        run()
    except FileNotFoundError as error:
        if not str(error.filename).endswith((".yml", ".yaml")):
            raise
        sys.exit(f"expirespan.agents.zoo: {error}; name a YAML file of settings by -conf")


if __name__ == "__main__":
    main()
