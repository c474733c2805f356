"""Environments by id, as the scripts need them: many rows for training, one that can be drawn for looking at.

What goes wrong is told apart by whose fault it is: that of the id, of the arguments, or of the environment's own code.
"""

import difflib
import inspect
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import ImgObsWrapper

from .replay import ReplayedVectorEnv

OF_MAKE = ("max_episode_steps", "disable_env_checker")
"""Arguments that gymnasium.make itself takes for every environment."""
LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class BrokenEnvironment(RuntimeError):
    """The environment's own code raised an error, which is this one's cause."""


def make_single(
    env_id: str, env_args: dict[str, Any] | None = None, view_size: int | None = None, render_mode: str | None = None
) -> gym.Env:
    """One environment.  MiniGrid's dictionaries are reduced to their images; `view_size` is that of MiniGrid's view.

    Raises:
        ValueError: Where `env_id` isn't registered, does not take an argument, or has no view to set the size of.
        BrokenEnvironment: Where the environment's own constructor raises an error; those of this project raise theirs.
    """
    arguments = dict(env_args or {})
    if "render_mode" in arguments:
        raise ValueError(
            f"Expect `env_args` without render_mode, which is chosen where episodes are drawn, actual: {env_args}"
        )
    if view_size is not None:
        arguments[_view_argument(env_id, arguments, view_size)] = view_size
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    try:
        env = gym.make(env_id, **arguments)
    except Exception as error:
        raise _diagnosis(error, env_id, arguments) from error
    image_and_mission = isinstance(env.observation_space, spaces.Dict) and isinstance(env.unwrapped, MiniGridEnv)
    return ImgObsWrapper(env) if image_and_mission else env


def make_viewed(env_id: str, env_args: dict[str, Any] | None = None, view_size: int | None = None) -> gym.Env:
    """One environment that draws itself into an array, if it can; raises as `make_single` does."""
    env = make_single(env_id, env_args, view_size)
    if "rgb_array" not in (env.metadata.get("render_modes") or ()):
        return env
    assert env.spec is not None
    if not _takes(env.spec.entry_point, "render_mode"):
        return env
    try:
        viewed = make_single(env_id, env_args, view_size, render_mode="rgb_array")
    except (ValueError, BrokenEnvironment) as error:
        warnings.warn(f"{env_id} can't be drawn: {error}", stacklevel=2)
        return env
    env.close()
    return viewed


def make_batched(
    env_id: str, num_envs: int, env_args: dict[str, Any] | None = None, view_size: int | None = None
) -> VectorEnv:
    """`num_envs` environments behind a VectorEnv with same-step autoreset; raises as `make_single` does.

    Environments with a batched form of their own use it, others are stepped one after another.

    Raises:
        ValueError: Also where no policy can read the observations or give the actions.
    """
    first = make_single(env_id, env_args, view_size)  # all its checks, before anything is built
    check_playable(first)
    first.close()
    if _is_ours(env_id):
        arguments: dict[str, Any] = dict(env_args or {}) | ({} if view_size is None else {"view_size": view_size})
        assert first.spec is not None
        if refused := _refused(_creator(first.spec.entry_point), first.spec.id, arguments):  # env_id may lack a version
            raise ValueError(refused)  # of what the single form alone takes
        return gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **arguments)
    factories = [partial(make_single, env_id, env_args, view_size)] * num_envs
    return ReplayedVectorEnv(factories)


def check_playable(env: gym.Env) -> None:
    """Raise ValueError where no policy can read the observations of an environment, or give the actions."""
    if not _readable(env.observation_space):
        raise ValueError(
            "Expect `env` to have observations in a Box, Discrete, MultiDiscrete or MultiBinary space or a Dict of "
            f"these, actual: {_in_one_line(env.observation_space)}"
        )
    if not isinstance(env.action_space, LEAVES):
        raise ValueError(
            "Expect `env` to have actions in a Box, Discrete, MultiDiscrete or MultiBinary space, "
            f"actual: {_in_one_line(env.action_space)}"
        )


def step_limit(env: gym.Env) -> int | None:
    """After how many steps an environment ends an episode, where it says so."""
    limits = (getattr(env.spec, "max_episode_steps", None), getattr(env.unwrapped, "max_steps", None))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def _readable(space: spaces.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_readable(part) for part in space.spaces.values())
    return isinstance(space, LEAVES)


def _in_one_line(value: object) -> str:
    return " ".join(str(value).split())


def _view_argument(env_id: str, arguments: dict[str, Any], view_size: int) -> str:
    """What the environment calls the size of its view.  Raises ValueError where it has none, or none of this size."""
    plain = make_single(env_id, arguments)
    plain.close()
    assert plain.spec is not None
    if _is_ours(env_id) and _takes(plain.spec.entry_point, "view_size"):
        return "view_size"
    if not isinstance(plain.unwrapped, MiniGridEnv):
        raise ValueError(
            f"Expect `view_size` to be None for {env_id}, which is no MiniGrid environment, actual: {view_size}"
        )
    if view_size < 3 or view_size % 2 == 0:
        raise ValueError(f"Expect `view_size` to be odd and at least 3, actual: {view_size}")
    return "agent_view_size"


def _is_ours(env_id: str) -> bool:
    return env_id.rsplit(":")[-1].startswith("expirespan/")


def _takes(entry_point: Any, name: str) -> bool:
    """Whether an environment's constructor takes this argument."""
    names, others = _parameters(_creator(entry_point))
    return others or name in names


def _creator(entry_point: Any) -> Callable[..., Any]:
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def _parameters(creator: Callable[..., Any]) -> tuple[list[str], bool]:
    """The arguments of a constructor, and whether it may take others.

    A class whose `__init__` takes `**kwargs` takes those of its parents, as far as these are handed on.
    """
    layers = [creator]
    if isinstance(creator, type):
        layers = [vars(kind)["__init__"] for kind in creator.__mro__[:-1] if "__init__" in vars(kind)]
    names: list[str] = []
    for layer in layers:
        try:
            parameters = inspect.signature(layer).parameters.values()
        except (TypeError, ValueError):  # written in C
            return names, True
        names += [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names, False
    return names, bool(layers)


def _diagnosis(error: Exception, env_id: str, arguments: dict[str, Any]) -> Exception:
    """The error to raise for one of gymnasium.make, by whose fault it is."""
    try:
        spec = gym.spec(env_id.rpartition(":")[2])
    except gym.error.Error:
        spec = None
    unknown_id = isinstance(error, gym.error.Error) and not isinstance(error, gym.error.DependencyNotInstalled)
    if unknown_id or (spec is None and isinstance(error, ImportError)):
        said = f"{env_id!r}{_near(env_id, list(gym.registry)) or f' ({_in_one_line(error)})'}"
        return ValueError(f"Expect `env` to be the id of a registered environment, actual: {said}")
    if spec is not None and isinstance(error, TypeError):
        if refused := _refused(_creator(spec.entry_point), env_id, arguments):
            return ValueError(refused)
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if _is_ours(env_id) and isinstance(cause, ValueError | TypeError):
        return type(cause)(*cause.args)
    place = traceback.extract_tb(cause.__traceback__)[-1]
    said = f"{type(cause).__name__}: {_in_one_line(cause)} ({Path(place.filename).name}, line {place.lineno})"
    return BrokenEnvironment(f"The environment {env_id} could not be made, its own code raised {said}")


def _refused(creator: Callable[..., Any], env_id: str, arguments: dict[str, Any]) -> str:
    """Which of the arguments a constructor does not take, or lacks; "" where it takes them."""
    names, others = _parameters(creator)
    parameters = inspect.signature(creator).parameters
    own = [name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD and name != "render_mode"]
    if _is_ours(env_id):
        names = own  # what MiniGrid adds, the batched form does not take
    unknown = [name for name in arguments if name not in (*names, *OF_MAKE)] if not others else []
    if "render_mode" in unknown:
        return f"Expect `render_mode` to be None for {env_id}, which takes none, actual: {arguments['render_mode']!r}"
    if unknown:
        hint = _near(unknown[0], names)
        known = ", ".join(own) or "which takes none"
        return f"Expect `env_args` to be arguments of {env_id} ({known}), actual: {', '.join(unknown)}{hint}"
    given = {*arguments, *(gym.spec(env_id.rpartition(":")[2]).kwargs)}
    if lacking := [name for name in own if parameters[name].default is inspect.Parameter.empty and name not in given]:
        actual = ", ".join(arguments) or "none"
        return f"Expect `env_args` to name {', '.join(lacking)}, which {env_id} needs, actual: {actual}"
    return ""


def _near(word: str, words: list[str]) -> str:
    """A hint at the word that may have been meant, or ""."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.75)
    if not found:
        found = [known for known in words if known.rpartition("/")[2] == word][:1]
    return f"; did you mean {found[0]}?" if found else ""
