"""Episodes of any Gymnasium environment restored by playing them again.

An environment that draws its random numbers from Gymnasium's `np_random` is, after the same draws and actions, in the
same state.  So the state of an unfinished episode is that of the generator as it was reset, and the actions since.
What comes of playing them again is compared with what was seen and earned; where it differs, the environment has
another source of chance, and new episodes begin.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, SyncVectorEnv

LONGEST = 10_000
"""Steps of an episode that are played again, at most."""


class AnotherEpisode(Exception):
    """Playing an episode again gave another one."""


class Replayed(gym.Wrapper):
    """An environment that remembers the actions of its episode, and the generator that the episode began with."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.began: Any = None
        """The generator's state at the beginning; None where the episode can't be played again."""
        self.actions: list[Any] = []
        self._seen = b""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        generator = seeding.np_random(seed)[0] if seed is not None else self.unwrapped.np_random
        bits = getattr(generator, "bit_generator", None)  # an environment may have put another one there
        self.began = bits.state if isinstance(bits, np.random.PCG64) and not options else None
        observation, info = self.env.reset(seed=seed, options=options)
        self.actions, self._seen = [], b""
        self._take_note(observation, 0.0)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.actions.append(np.array(action))
        if len(self.actions) > LONGEST:
            self.began, self.actions = None, []
        self._take_note(observation, reward)
        return observation, reward, terminated, truncated, info

    def play(self, began: dict[str, Any], actions: np.ndarray, seen: bytes) -> None:
        """Play an episode again whose digest was `seen`.  Raises AnotherEpisode where it comes out differently."""
        generator = np.random.Generator(np.random.PCG64())
        generator.bit_generator.state = began
        self.unwrapped.np_random = generator
        try:
            self.reset()
            ended = [any(self.step(action)[2:4]) for action in actions]
        except Exception as error:  # of the environment's own code
            raise AnotherEpisode(f"Expect no error, actual: {error!r}") from error
        if any(ended):
            raise AnotherEpisode(f"Expect more than {len(actions)} steps, actual: {ended.index(True) + 1}")
        if self.digest() != seen:
            raise AnotherEpisode("Expect the observations and rewards of the first time, actual: others")

    def digest(self) -> bytes:
        """Of all that was seen and earned since the reset."""
        return self._seen

    def _take_note(self, observation: Any, reward: Any) -> None:
        noted = hashlib.sha256(self._seen + np.asarray(reward, dtype=np.float64).tobytes())
        for part in _parts(observation):
            noted.update(part)
        self._seen = noted.digest()


def _parts(observation: Any) -> Iterator[bytes]:
    """The bytes of an observation, or of all parts of a dictionary with their names."""
    if not isinstance(observation, dict):
        yield np.asarray(observation).tobytes()
        return
    for name, part in observation.items():
        yield str(name).encode()
        yield from _parts(part)


def _replayed(factory: Callable[[], gym.Env]) -> Replayed:
    return Replayed(factory())


class ReplayedVectorEnv(SyncVectorEnv):
    """Environments stepped one after another, with same-step autoreset, whose episodes can be played again."""

    def __init__(self, factories: Sequence[Callable[[], gym.Env]]) -> None:
        super().__init__(
            [partial(_replayed, factory) for factory in factories], copy=False, autoreset_mode=AutoresetMode.SAME_STEP
        )

    def state_dict(self) -> dict[str, Any] | None:
        """Actions of all rows one after another, their lengths, and the generators; None where a row can't tell."""
        rows = self._rows()
        if any(row.began is None for row in rows):
            return None
        space = self.single_action_space
        actions = [action for row in rows for action in row.actions]
        arrays = {
            "actions": np.array(actions, dtype=space.dtype).reshape(-1, *(space.shape or ())),
            "lengths": np.array([len(row.actions) for row in rows]),
            "seen": np.array([list(row.digest()) for row in rows], dtype=np.uint8),
        }
        return {"arrays": arrays, "generators": [row.began for row in rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the episodes of `state_dict` again.

        Raises ValueError where it is not of these environments, AnotherEpisode where the episodes came out differently.
        """
        rows, space, arrays = self._rows(), self.single_action_space, state["arrays"]
        actions, lengths, seen = (arrays.get(name, np.empty(0)) for name in ("actions", "lengths", "seen"))
        right = (
            arrays.keys() == {"actions", "lengths", "seen"}
            and (lengths.dtype, lengths.shape) == (np.int64, (len(rows),))
            and (seen.dtype, seen.shape) == (np.uint8, (len(rows), hashlib.sha256().digest_size))
            and ((lengths >= 0) & (lengths <= LONGEST)).all()
            and len(actions) == lengths.sum()
            and len(state["generators"]) == len(rows)
            and all(space.contains(action) for action in actions)
        )
        if not right:
            raise ValueError(f"Expect episodes of {len(rows)} environments with actions in {space}, actual: others")
        ends = lengths.cumsum()
        for number, row in enumerate(rows):
            own = actions[ends[number] - lengths[number] : ends[number]]
            row.play(state["generators"][number], own, seen[number].tobytes())

    def _rows(self) -> list[Replayed]:
        return [env for env in self.envs if isinstance(env, Replayed)]
