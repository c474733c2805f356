"""Time of `predict` for one environment, beside sb3-contrib's RecurrentPPO, on CartPole's four numbers.

The agents play the same observations in turns, in one process on one thread, after enough steps that memories exist.
Weights are as initialised: the spans are then about half of the longest, more than what training leaves.

    python benchmarks/predict_speed.py
"""

import time
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from expirespan.agents import MemoryPPO
from sb3_contrib import RecurrentPPO

BEFORE, WINDOW, ROUNDS = 200, 50, 60
"""Steps before the clock runs; steps of a turn; turns of each agent."""
MEMORY = "MemoryPPO, 2 layers of width 64"


def agents() -> dict[str, Any]:
    """Untrained agents by what they are called."""
    lstm: dict[str, Any] = {"env": gym.make("CartPole-v1"), "device": "cpu", "seed": 1}
    return {
        MEMORY: MemoryPPO("MemoryPolicy", gym.make("CartPole-v1"), device="cpu", seed=1),
        "RecurrentPPO, LSTM of 256 (default)": RecurrentPPO("MlpLstmPolicy", **lstm),
        "RecurrentPPO, LSTM of 64": RecurrentPPO("MlpLstmPolicy", **lstm, policy_kwargs={"lstm_hidden_size": 64}),
    }


def play(agent: Any, observations: np.ndarray, state: Any, deterministic: bool) -> Any:
    """The state after these observations of one episode."""
    for observation in observations:
        starts = np.array([state is None])
        _, state = agent.predict(observation, state=state, episode_start=starts, deterministic=deterministic)
    return state


def main() -> None:
    """Print microseconds of processor time a step of each agent, and the first one's as a multiple."""
    torch.set_num_threads(1)
    observations = np.random.default_rng(1).normal(size=(BEFORE, 4)).astype(np.float32)
    print(f"{'agent':36} {'actions':>8} {'us a step':>10} {'MemoryPPO / this':>17}")
    for deterministic in (False, True):
        playing = agents()
        states = {name: play(agent, observations, None, deterministic) for name, agent in playing.items()}
        spent: dict[str, list[float]] = {name: [] for name in playing}
        for _ in range(ROUNDS):
            for name, agent in playing.items():
                begun = time.process_time()
                play(agent, observations[:WINDOW], states[name], deterministic)
                spent[name].append((time.process_time() - begun) / WINDOW * 1e6)
        # Rounds are paired: whatever else the machine did then slowed all agents.
        for name, times in spent.items():
            ratio = median(ours / theirs for ours, theirs in zip(spent[MEMORY], times, strict=True))
            print(f"{name:36} {'likeliest' if deterministic else 'sampled':>9} {median(times):9.0f} {ratio:17.2f}")
        live = [int(layer.live.sum()) for layer in states[MEMORY].layers]
        print(f"(live memories per layer of MemoryPPO: {live})")


if __name__ == "__main__":
    main()
