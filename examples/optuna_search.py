"""Optuna searches MemoryPPO's settings, and gives up trials that do worse than the median of the earlier ones.

    python examples/optuna_search.py --env expirespan/CorridorShort-v0 --trials 20 --storage runs/search.db

Every trial is judged on the same episodes.  They are neither those that it trains on nor those that expirespan-evaluate
plays: the best of many trials is partly lucky with the episodes that chose it, so train its settings anew and evaluate
that.  The study lies in `--storage` after every trial; the same command goes on with it, up to `--trials` in all.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from expirespan import MemoryPPO
from expirespan.agents import GymnasiumVecEnv, TrainingDiverged
from expirespan.envs import make_batched
from optuna.trial import Trial, TrialState
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

NUM_ENVS = 16
SEARCH_SEED = 2_000_000
"""Of the episodes that judge trials."""
REPORTS = 8
"""Evaluations of a trial; after any but the last it may be given up."""


def suggest(trial: Trial) -> dict[str, Any]:
    """The search space, as arguments of MemoryPPO."""
    memory = {
        "width": trial.suggest_categorical("width", [32, 64, 128]),
        "ramp": trial.suggest_categorical("ramp", [2.0, 4.0, 8.0, 16.0]),
        "position_window": trial.suggest_categorical("position_window", [0, 64]),
    }
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "n_epochs": trial.suggest_int("n_epochs", 2, 10),
        "gamma": 1 - trial.suggest_float("one_minus_gamma", 1e-3, 0.05, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-4, 0.05, log=True),
        "memory_budget": trial.suggest_float("memory_budget", 20, 100, log=True),  # of live memories in each layer
        "policy_kwargs": {"memory": memory},
    }


class Reports(BaseCallback):
    """Evaluates the agent at regular steps, tells Optuna, and stops training where that gives the trial up."""

    def __init__(self, trial: Trial, env: VecEnv, total_steps: int, episodes: int) -> None:
        super().__init__()
        self.trial, self.env, self.total_steps, self.episodes = trial, env, total_steps, episodes
        self.every = self.due = max(total_steps // REPORTS, 1)
        self.pruned = False

    def score(self) -> float:
        """Mean return of the agent as it is now, always of the same episodes, with actions drawn as in training."""
        self.env.seed(SEARCH_SEED)
        mean, _ = evaluate_policy(self.model, self.env, self.episodes, deterministic=False)
        return float(mean)  # pyright: ignore[reportArgumentType]  # lists only with return_episode_rewards

    def _on_step(self) -> bool:
        if self.num_timesteps < self.due or self.due >= self.total_steps:  # the end is judged after the last update
            return True
        self.due += self.every
        self.trial.report(self.score(), self.num_timesteps)
        self.pruned = self.trial.should_prune()
        return not self.pruned


def objective(trial: Trial, env_id: str, total_steps: int, episodes: int) -> float:
    """The mean return of an agent trained with the settings of a trial."""
    model = MemoryPPO("MemoryPolicy", make_batched(env_id, NUM_ENVS), seed=trial.number, device="cpu", **suggest(trial))
    test_env = VecMonitor(GymnasiumVecEnv(make_batched(env_id, NUM_ENVS)))
    reports = Reports(trial, test_env, total_steps, episodes)
    model.learn(total_steps, callback=reports)
    if reports.pruned:
        raise optuna.TrialPruned
    return reports.score()


def main(args: Sequence[str] | None = None) -> optuna.Study:
    """Search, or go on searching, and print the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="expirespan/CorridorShort-v0", help="id of the environment")
    parser.add_argument("--trials", type=int, default=20, help="trials of the study, earlier ones included")
    parser.add_argument("--total-steps", type=int, default=100_000, help="environment steps of a trial")
    parser.add_argument("--episodes", type=int, default=200, help="episodes of an evaluation")
    parser.add_argument("--storage", type=Path, default=Path("runs/search.db"), help="SQLite file of the study")
    options = parser.parse_args(args)

    options.storage.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"{options.env}, {options.total_steps} steps, {options.episodes} episodes",
        storage=f"sqlite:///{options.storage}",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=options.total_steps // 4),
    )
    finished = len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))
    # Seeded, but by what is there: a study that goes on would otherwise draw the same settings again.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    study.optimize(
        lambda trial: objective(trial, options.env, options.total_steps, options.episodes),
        n_trials=max(options.trials - finished, 0),
        catch=TrainingDiverged,  # a step size that was too large
    )
    pruned = len(study.get_trials(states=(TrialState.PRUNED,)))
    print(f"{len(study.trials)} trials, {pruned} given up early; best return {study.best_value:.3f} with")
    for name, value in study.best_params.items():
        print(f"  {name} = {value:.3g}" if isinstance(value, float) else f"  {name} = {value}")
    return study


if __name__ == "__main__":
    main()
