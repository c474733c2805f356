"""What an observation is (numbers, picture, MiniGrid's codes, line of tokens) and how a network gets it.

A space alone can't tell: a 16 x 16 picture and MiniGrid's encoded view are both a uint8 Box of shape [16, 16, 3], a
vector of counts and a line of token ids both a Box of whole numbers.  So the environment is asked once, the answer is
kept with the policy (`observations` in its `policy_kwargs`), and codes are checked whenever they are read.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from minigrid.wrappers import RGBImgObsWrapper, RGBImgPartialObsWrapper
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from .encoders import is_minigrid_image, is_token_line

Kind = Literal["numbers", "picture", "minigrid", "tokens"]
Kinds = Kind | dict[str, Kind]
"""Of a whole observation, or of each part of a dictionary."""
KINDS: tuple[Kind, ...] = ("numbers", "picture", "minigrid", "tokens")

SMALLEST_PICTURE = 8
"""Shorter sides are numbers, not pictures."""
MOST_CHANNELS = 16
"""Four stacked frames of RGB and depth."""


def check_observation_space(space: spaces.Space) -> None:
    """Raise ValueError for a space that no network of this project reads."""
    parts: dict[Any, spaces.Space] = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    if not parts or not all(isinstance(name, str) for name in parts):
        raise ValueError(
            f"Expect `env` to have at least one observation in a Dict, each named by a text, actual: {space}"
        )
    for name, part in parts.items():
        where = f"{part} in {name!r}" if name else str(part)
        if name == "mission" and not isinstance(part, spaces.Box | spaces.MultiDiscrete | spaces.Discrete):
            raise ValueError(
                "Expect `env` to have observations of numbers, actual: a dictionary with MiniGrid's mission; wrap it "
                "in minigrid.wrappers.ImgObsWrapper, or in DictObservationSpaceWrapper, which numbers the words"
            )
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise ValueError(
                "Expect `env` to have observations of type Box, Discrete, MultiDiscrete or MultiBinary, or a Dict of "
                f"these, actual: {where}"
            )
        if isinstance(part, spaces.MultiDiscrete) and len(part.shape) != 1:
            raise ValueError(f"Expect a MultiDiscrete observation to have one dimension, actual: {where}")


def is_picture(space: spaces.Space) -> bool:
    """Whether a space alone looks like pictures: uint8 from 0 to 255, sides of at least 8, at most 16 channels.

    The channels are the one smallest dimension, at either end, as SB3 finds them.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    first, *middle, last = space.shape
    channels, sides = (last, [first, *middle]) if last < first else (first, [*middle, last])
    full_range = bool((space.low == 0).all() and (space.high == 255).all())
    return full_range and channels <= MOST_CHANNELS and min(sides) > channels and min(sides) >= SMALLEST_PICTURE


def kinds_of_space(space: spaces.Space) -> Kinds:
    """What can be said without the environment: pictures, and numbers."""
    if isinstance(space, spaces.Dict):
        return {name: "picture" if is_picture(part) else "numbers" for name, part in space.spaces.items()}
    return "picture" if is_picture(space) else "numbers"


def kinds_before_version_2(space: spaces.Space) -> Kinds:
    """What checkpoints that say nothing about it were trained with: a guess by the space."""
    if is_minigrid_image(space) and (space.shape or (0,))[-1] == 3:
        return "minigrid"
    return "tokens" if is_token_line(space) else kinds_of_space(space)


def kinds_of(env: VecEnv) -> Kinds:
    """What an environment's observations are.

    MiniGrid's own environments are known by their attributes; those of this project say `observation_kind`.  Under
    MiniGrid's wrappers that draw, they are pictures.
    """
    declared, space = _declared(env), env.observation_space

    def refined(part: spaces.Space, kind: Kind) -> Kind:
        if declared == "minigrid" and is_minigrid_image(part):
            return "minigrid"
        return "tokens" if declared == "tokens" and is_token_line(part) else kind

    kinds = kinds_of_space(space)
    if isinstance(kinds, dict):
        assert isinstance(space, spaces.Dict)
        return {name: refined(space.spaces[name], kind) for name, kind in kinds.items()}
    return refined(space, kinds)


def _declared(env: VecEnv) -> str | None:
    try:
        if env.has_attr("observation_kind"):
            declared = str(env.get_attr("observation_kind")[0])
        else:
            declared = "minigrid" if env.has_attr("agent_view_size") else None
        drawn = declared == "minigrid" and any(
            env.env_is_wrapped(wrapper)[0] for wrapper in (RGBImgObsWrapper, RGBImgPartialObsWrapper)
        )
    except NotImplementedError:  # a VecEnv that can't be asked
        return None
    return None if drawn else declared


def check_kinds(kinds: Any, space: spaces.Space) -> Kinds:
    """The kinds as given, if they can be those of the space; raises ValueError where they can't."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    named = kinds if isinstance(kinds, dict) else {"": kinds}
    if set(named) != set(parts) or any(kind not in KINDS for kind in named.values()):
        wanted = f"a dictionary with {', '.join(parts)} of {KINDS}" if "" not in parts else f"one of {KINDS}"
        raise ValueError(f"Expect `observations` to be {wanted}, actual: {kinds!r}")
    fits = {"minigrid": is_minigrid_image, "tokens": is_token_line, "picture": lambda part: len(part.shape or ()) == 3}
    for name, kind in named.items():
        if kind in fits and not fits[kind](parts[name]):
            raise ValueError(f"Expect `observations` to fit the space, actual: {kind!r} for {parts[name]}")
        if kind == "picture" and not is_image_space(parts[name]) and _ends_in_channels(parts[name]):
            raise ValueError(
                "Expect pictures of other numbers than uint8 from 0 to 255 to have their channels first, "
                f"actual: {parts[name]}"
            )
    return kinds


def kinds_of_pictures(kinds: Kinds, space: spaces.Space) -> Kinds:
    """The kinds under SB3's `CnnPolicy`: what was taken for numbers is a picture; raises ValueError where it can't be.

    MiniGrid's codes and tokens, which the environment declares, stay as they are.
    """
    if kinds != "numbers":
        return kinds
    if (
        not isinstance(space, spaces.Box)
        or len(space.shape) != 3
        or (not is_image_space(space) and _ends_in_channels(space))
    ):
        raise ValueError(
            "Expect pictures for `CnnPolicy`: a Box of three dimensions, with the channels first unless it is of uint8 "
            f"from 0 to 255, actual: {space}; VecTransposeImage, before VecNormalize, puts them first, and `MlpPolicy` "
            "takes other numbers"
        )
    return "picture"


def _ends_in_channels(space: spaces.Space) -> bool:
    assert space.shape is not None
    return space.shape[-1] < min(space.shape[:-1])


def prepare(observations: Any, space: spaces.Space, kinds: Kinds, normalize_images: bool = True) -> Any:
    """Observations [N, ...], or a dictionary of them, as a network reads them.

    Pictures of bytes become numbers from 0 to 1 (unless `normalize_images` is False), class numbers become one-hot
    vectors (from `start` on), codes and tokens stay as they are, everything else becomes float32, [N, 1] at
    least.
    """
    if isinstance(space, spaces.Dict):
        assert isinstance(kinds, dict)
        return {name: prepare(observations[name], space[name], kinds[name], normalize_images) for name in space.spaces}
    if isinstance(space, spaces.Discrete):
        return F.one_hot(observations.long() - int(space.start), int(space.n)).float()
    if isinstance(space, spaces.MultiDiscrete):
        # int64, as torch does not calculate with NumPy's larger unsigned types.
        numbers = observations.long() - torch.as_tensor(space.start.astype(np.int64), device=observations.device)
        return torch.cat([F.one_hot(numbers[:, i], int(classes)) for i, classes in enumerate(space.nvec)], 1).float()
    if kinds in ("minigrid", "tokens"):
        return observations
    if kinds == "picture" and normalize_images and space.dtype == np.uint8:  # whatever type they come in
        return observations.float() / 255
    numbers = observations.float()
    return numbers if numbers.dim() > 1 else numbers.unsqueeze(1)  # of a space without dimensions


def check_finite(observations: Any, name: str = "the observation", rows: Sequence[int] | None = None) -> None:
    """Raise ValueError where observations [B, ...], or those of a dictionary, are NaN or infinite.

    `rows` are the numbers of the rows in the environment where they are not all of its rows.
    """
    if isinstance(observations, dict):
        for key, part in observations.items():
            check_finite(part, f"{key!r}", rows)
        return
    array = np.asarray(observations)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0]) if array.ndim else 0
        raise ValueError(
            f"Expect finite observations, actual: NaN or infinity in {name} of row {rows[row] if rows else row}; "
            "stable_baselines3's VecCheckNan finds the step that made it"
        )
