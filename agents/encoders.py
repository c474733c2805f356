"""SB3 features extractors for MiniGrid's grids, lines of tokens, pictures of any size, and dictionaries of these."""

import math
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Int
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from .numbers_extractor import NumbersExtractor

if TYPE_CHECKING:
    from .observations import Kind, Kinds

OBJECTS, COLORS, STATES = len(OBJECT_TO_IDX), len(COLOR_TO_IDX), 4
"""How many codes MiniGrid has; a state is a door's (3) or an agent's direction (4)."""
BACKGROUND = ("unseen", "empty", "wall", "floor")
LARGEST_VIEW = 31
MOST_TOKENS = 100_000
SPREAD = 0x9E3779B97F4A7C15 - 2**64
"""An odd number whose powers look random in 64 bits."""


def uncompiled(module: Any) -> Any:
    """The module that `torch.compile` wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


def is_token_line(space: spaces.Space) -> TypeGuard[spaces.Box]:
    """Whether the space holds lines of token ids: one-dimensional, whole numbers from 0, of 16 bits or more."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 1
        and np.issubdtype(space.dtype, np.integer)
        and np.dtype(space.dtype).itemsize > 1
        and bool((space.low == 0).all())
        and bool((space.high < MOST_TOKENS).all())
    )


def is_minigrid_image(space: spaces.Space) -> bool:
    """Whether the space can be that of MiniGrid's encoded views; small pictures have the same.

    The codes of a cell come last, or first behind SB3's VecTransposeImage, which takes every view for a picture.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    sides = space.shape[:2] if space.shape[2] == 3 else space.shape[1:]
    return 3 in (space.shape[0], space.shape[2]) and max(sides) <= LARGEST_VIEW


class MiniGridExtractor(BaseFeaturesExtractor):
    """Embeds what stands in every cell; the sum over the view goes through one hidden layer.

    Object, colour and state of a cell are embedded as one thing, with a table for each cell of the view.  Background
    (walls, floor, empty and unseen cells) starts faint, so that the features of a view are those of the objects in it.
    With equal embeddings the layer inputs for a view with Corridor's ball and for one without have a cosine of 0.9 at
    the start of training, and whatever shortens the spans of one shortens those of the other; so they have 0.1.
    """

    scale: Tensor
    offsets: Tensor

    def __init__(self, observation_space: spaces.Space, features_dim: int = 64) -> None:
        if not is_minigrid_image(observation_space):
            raise ValueError(
                "Expect `observation_space` to be a Box of shape (width, height, 3) or (3, width, height) with sides "
                f"of at most {LARGEST_VIEW}, actual: {observation_space}"
            )
        super().__init__(observation_space, features_dim)
        assert observation_space.shape is not None
        self.codes_last = observation_space.shape[2] == 3
        cells, things = math.prod(observation_space.shape) // 3, OBJECTS * COLORS * STATES
        self.register_buffer("scale", torch.tensor([COLORS * STATES, STATES, 1]), persistent=False)
        self.register_buffer("offsets", torch.arange(cells) * things, persistent=False)
        self.embedding = nn.EmbeddingBag(cells * things, features_dim, mode="sum")
        by_object = self.embedding.weight.data.view(cells, OBJECTS, COLORS * STATES, features_dim)
        by_object[:, [OBJECT_TO_IDX[name] for name in BACKGROUND]] *= 0.03
        self.hidden = nn.Linear(features_dim, features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        """Codes [N, width, height, 3] (or [N, 3, width, height]) to features [N, features_dim].

        Raises ValueError where the observations are no codes: small pictures have the same space.
        """
        if not self.codes_last:
            observations = observations.movedim(1, -1)
        # An exported graph holds no such check: what it is given is not there yet.
        largest = [0] * 3 if torch.compiler.is_compiling() else observations.flatten(0, -2).amax(0).tolist()
        if any(code >= limit for code, limit in zip(largest, (OBJECTS, COLORS, STATES), strict=True)):
            raise ValueError(
                f"Expect observations of MiniGrid's codes, objects below {OBJECTS}, colours below {COLORS}, states "
                f"below {STATES}, actual: up to {largest}; for pictures give `policy_kwargs={{'observations': "
                "'picture'}}`"
            )
        things = (observations.flatten(1, 2).long() * self.scale).sum(-1) + self.offsets
        if not torch.is_grad_enabled():
            return self._features(things)
        first, number = distinct_rows(things)
        return self._features(things[first]).index_select(0, number)

    def _features(self, things: Tensor) -> Tensor:
        return self.hidden(torch.tanh(self.embedding(things)))


def distinct_rows(rows: Int[Tensor, "N C"]) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " N"]]:
    """Where some row of each kind stands, and the number of every row's kind among them.

    The same views are seen again and again, and each kind needs to be embedded only once.
    """
    factors = torch.full((rows.shape[1],), SPREAD, device=rows.device).cumprod(0)
    kinds, number = ((rows + 1) * factors).sum(1).unique(return_inverse=True)
    everywhere = torch.arange(len(rows), device=rows.device)
    first = everywhere.new_zeros(len(kinds)).scatter_(0, number, everywhere)
    if torch.equal(rows[first].index_select(0, number), rows):
        return first, number
    return everywhere, everywhere  # two kinds happened to get the same sum


class TokenLineExtractor(BaseFeaturesExtractor):
    """Embeds the words of a line, and reads them in order through one hidden layer.

    Every word has one embedding wherever it stands, so that a name in an instruction and in an encounter is the same
    name; every place has its own part of the hidden layer, so that the order of words counts.  Token 0 is nothing.
    """

    WORD_DIM = 32

    def __init__(self, observation_space: spaces.Space, features_dim: int = 64) -> None:
        if not is_token_line(observation_space):
            raise ValueError(
                "Expect `observation_space` to be a one-dimensional Box of whole numbers of 16 bits or more, from 0 to "
                f"less than {MOST_TOKENS}, actual: {observation_space}"
            )
        super().__init__(observation_space, features_dim)
        self.words = nn.Embedding(int(observation_space.high.max()) + 1, self.WORD_DIM, padding_idx=0)
        self.places = nn.Linear(observation_space.shape[0] * self.WORD_DIM, features_dim)
        self.hidden = nn.Linear(features_dim, features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        """Token ids [N, width] to features [N, features_dim]."""
        return self.hidden(torch.relu(self.places(self.words(observations.long()).flatten(1))))


NATURE_SIDE = 36
"""Shortest side for which the layers of SB3's `NatureCNN` have an output."""
PICTURE_DIM = 256
"""Features of a picture in a dictionary, as in SB3's `CombinedExtractor`."""


class SmallPictureExtractor(BaseFeaturesExtractor):
    """Pictures [N, channels, height, width] that are too small for `NatureCNN`.

    3 x 3 convolutions halve them until the shorter side is at most 4.
    """

    def __init__(self, observation_space: spaces.Space, features_dim: int = 512) -> None:
        super().__init__(observation_space, features_dim)
        assert isinstance(observation_space, spaces.Box)
        channels, *sides = observation_space.shape
        layers: list[nn.Module] = []
        width = 32
        while min(sides) > 4 or not layers:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
            channels, width, sides = width, 64, [(side + 1) // 2 for side in sides]
        flat = channels * sides[0] * sides[1]
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Features [N, features_dim]."""
        return self.network(observations)


def _module_name(name: str, number: int) -> str:
    """Of part `number`, as torch takes it: without dots, not empty and none that a ModuleDict has itself."""
    named = name.replace(".", f"<{number}>")
    return f"<{number}>{named}" if not named or hasattr(nn.ModuleDict(), named) else named


class DictExtractor(BaseFeaturesExtractor):
    """A dictionary: each part through the extractor for its kind, side by side in the order of the space.

    `cnn_output_dim` is the number of features of each picture, as in SB3's `CombinedExtractor`.
    """

    def __init__(
        self, observation_space: spaces.Space, kinds: "dict[str, Kind]", cnn_output_dim: int = PICTURE_DIM
    ) -> None:
        assert isinstance(observation_space, spaces.Dict)
        parts: dict[str, BaseFeaturesExtractor] = {}
        for name, space in observation_space.spaces.items():
            extractor, settings = default_extractor(space, kinds[name])
            if kinds[name] == "picture":
                settings["features_dim"] = cnn_output_dim
            parts[name] = extractor(space, **settings)
        super().__init__(observation_space, sum(part.features_dim for part in parts.values()))
        self.names = tuple(parts)
        keys = (_module_name(name, number) for number, name in enumerate(parts))
        self.extractors = nn.ModuleDict(dict(zip(keys, parts.values(), strict=True)))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features [N, features_dim]."""
        parts = zip(self.names, self.extractors.values(), strict=True)
        return torch.cat([part(observations[name]) for name, part in parts], 1)


def measuring(extractor: nn.Module) -> list[tuple[str | None, NumbersExtractor]]:
    """What of a features extractor keeps running statistics, with the part of a dictionary that it reads, or None."""
    extractor = uncompiled(extractor)
    parts: list[tuple[str | None, nn.Module]] = [(None, extractor)]
    if isinstance(extractor, DictExtractor):
        parts = [
            (name, uncompiled(part)) for name, part in zip(extractor.names, extractor.extractors.values(), strict=True)
        ]
    return [(name, part) for name, part in parts if isinstance(part, NumbersExtractor) and part.measures]


def default_extractor(space: spaces.Space, kinds: "Kinds") -> tuple[type[BaseFeaturesExtractor], dict[str, Any]]:
    """The features extractor for observations of these kinds (observations.py), and its arguments."""
    if isinstance(space, spaces.Dict):
        return DictExtractor, {"kinds": kinds}
    if kinds == "picture":
        large = min((space.shape or (0,))[1:]) >= NATURE_SIDE
        # What is a picture has been decided already; NatureCNN's own check goes by type and bounds.
        return (NatureCNN, {"normalized_image": True}) if large else (SmallPictureExtractor, {})
    if kinds == "minigrid":
        return MiniGridExtractor, {}
    return (TokenLineExtractor, {}) if kinds == "tokens" else (NumbersExtractor, {})
