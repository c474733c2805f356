"""What every task costs and allows: steps per second on one core, and what its scripted solvers earn.

Ours are stepped in batches of 256, autoresets included, MiniGrid's own environments of similar size one at a time, as
they come.  Three kinds of actions: random ones, and those of the task's scripted solver with and without memory, which
end more episodes and so reset more often.  The solvers' actions are recorded beforehand: only the environment is timed.
Seconds are the process's own (CPU time), so that other programs disturb less; the best of five rounds counts.

What the solver with perfect memory earns is the task's ceiling, what the one without memory earns its floor.

    python benchmarks/envs.py
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import gymnasium as gym
import numpy as np
from expirespan.envs import CorridorSolver, InstructionSolver, PortalSolver, make_batched, make_single
from gymnasium import spaces

ROWS, STEPS, ROUNDS, EPISODES = 256, 500, 5, 8  # episodes of each row
OURS = {
    "expirespan/CorridorShort-v0": CorridorSolver,
    "expirespan/Corridor-v0": CorridorSolver,
    "expirespan/CorridorLong-v0": CorridorSolver,
    "expirespan/PortalShort-v0": PortalSolver,
    "expirespan/Portal-v0": PortalSolver,
    "expirespan/InstructionShort-v0": InstructionSolver,
    "expirespan/Instruction-v0": InstructionSolver,
}
Solver = CorridorSolver | PortalSolver | InstructionSolver
MINIGRIDS = ("MiniGrid-MemoryS7-v0", "MiniGrid-DoorKey-5x5-v0", "MiniGrid-MultiRoom-N6-v0")


def best_rate(play: Callable[[], int]) -> float:
    """The most steps per second of CPU time that a round of playing gave."""
    rates = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        steps = play()
        rates.append(steps / (time.process_time() - begun))
    return max(rates)


def solver_actions(env: gym.vector.VectorEnv, solver: Solver) -> list[np.ndarray]:
    """What the solver does in the episodes that begin with seed 0."""
    observations, _ = env.reset(seed=0)
    starts, actions = np.ones(ROWS, dtype=bool), []
    for _ in range(STEPS):
        actions.append(solver.act(observations, starts))
        observations, _, terminated, truncated, _ = env.step(actions[-1])
        starts = terminated | truncated
    return actions


def batched_rate(env: gym.vector.VectorEnv, actions: Sequence[np.ndarray]) -> float:
    """Steps per second of a batch, played with these actions from seed 0."""

    def play() -> int:
        env.reset(seed=0)
        for action in actions:
            env.step(action)
        return ROWS * len(actions)

    return best_rate(play)


def single_rate(env_id: str) -> float:
    """Steps per second of one environment with random actions."""
    env = make_single(env_id)
    assert isinstance(env.action_space, spaces.Discrete)
    actions = np.random.default_rng(0).integers(env.action_space.n, size=4000).tolist()

    def play() -> int:
        env.reset(seed=0)
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(actions)

    return best_rate(play)


def earned(env: gym.vector.VectorEnv, solver: Solver) -> dict[str, float]:
    """Means over as many episodes of each row, so that short ones are not favoured."""
    observations, _ = env.reset(seed=0)
    starts, played, returns = np.ones(ROWS, dtype=bool), np.zeros(ROWS, dtype=int), np.zeros(ROWS)
    totals: dict[str, float] = defaultdict(float)
    while (counted := played < EPISODES).any():
        observations, rewards, terminated, truncated, infos = env.step(solver.act(observations, starts))
        starts, returns = terminated | truncated, returns + rewards
        if not starts.any():
            continue
        endings = infos["final_info"] | {"return": returns}
        for name in {"return", "is_success", "rooms_reached", "carried_out"} & set(endings):
            totals[name] += float(endings[name][starts & counted].sum()) / (ROWS * EPISODES)
        played, returns = played + starts, np.where(starts, 0, returns)
    return totals


def print_earnings() -> None:
    """Print ceilings and floors."""
    print(f"\n{'environment':30} {'memory':8} {'success':>8} {'return':>8} {'rooms reached':>14} {'carried out':>12}")
    for env_id, solver in OURS.items():
        if env_id == "expirespan/CorridorLong-v0":  # takes minutes and earns what Corridor does
            continue
        for remember in (True, False):
            means = earned(make_batched(env_id, ROWS), solver(ROWS, remember, seed=0))
            rooms = f"{means['rooms_reached']:14.1f}" if "rooms_reached" in means else " " * 14
            carried_out = f"{means['carried_out']:12.1%}" if "carried_out" in means else ""
            memory = "perfect" if remember else "none"
            scores = f"{means['is_success']:8.1%} {means['return']:8.2f} {rooms} {carried_out}"
            print(f"{env_id:30} {memory:8} {scores}".rstrip())


def print_rates() -> None:
    """Print steps per second."""
    print(f"{'environment':30} {'random':>10} {'solver':>10} {'no memory':>10}   steps/s")
    for env_id, solver in OURS.items():
        env = make_batched(env_id, ROWS)
        assert isinstance(env.single_action_space, spaces.Discrete)
        random = np.random.default_rng(0).integers(env.single_action_space.n, size=(STEPS, ROWS))
        played = [list(random), *(solver_actions(env, solver(ROWS, remember, seed=0)) for remember in (True, False))]
        print(f"{env_id:30} " + " ".join(f"{batched_rate(env, actions):10,.0f}" for actions in played))
    for env_id in MINIGRIDS:
        print(f"{env_id:30} {single_rate(env_id):10,.0f}")


if __name__ == "__main__":
    print_rates()
    print_earnings()
