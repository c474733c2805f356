"""What an environment calls its discrete actions."""

from enum import IntEnum

import gymnasium as gym
from gymnasium import spaces


def action_names(env: gym.Env) -> tuple[str, ...]:
    """Names of actions 0, 1, ...; empty where the environment has none, or where they may not be those of its actions.

    They come from `env.unwrapped`: its `actions`, an IntEnum as MiniGrid and this project's grids have it, or its
    `get_action_meanings()`, as Atari has it.  A wrapper that changes actions, and actions that do not begin at 0, give
    no names: number k would get the name of another action.
    """
    space, plain = env.action_space, env.unwrapped
    if not isinstance(space, spaces.Discrete) or space.start or _changes_actions(env):
        return ()
    enum, meanings = getattr(plain, "actions", None), getattr(plain, "get_action_meanings", list)
    if isinstance(enum, type) and issubclass(enum, IntEnum):
        by_number = {int(member): member.name for member in enum}
        names = [by_number.get(number, "") for number in range(int(space.n))]
    else:
        names = list(meanings())
    return tuple(names) if len(names) == space.n and all(isinstance(name, str) and name for name in names) else ()


def _changes_actions(env: gym.Env) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.ActionWrapper):
            return True
        env = env.env
    return False
