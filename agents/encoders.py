"""SB3 features extractors for MiniGrid's observations."""

import torch
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

CODES = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), 4)
"""How many object, colour and state codes MiniGrid has; a state is a door's (3) or an agent's direction (4)."""
LARGEST_VIEW = 31


def is_minigrid_image(space: spaces.Space) -> bool:
    """Whether the space is that of MiniGrid's encoded views, as opposed to pixels."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.shape[2] == 3
        and max(space.shape[:2]) <= LARGEST_VIEW
    )


class MiniGridExtractor(BaseFeaturesExtractor):
    """Embeds the object, colour and state code of every cell; the sum over the view goes through one hidden layer.

    A table for each cell and code makes the sum the same as a linear layer over one-hot codes.
    """

    offsets: Tensor

    def __init__(self, observation_space: spaces.Space, features_dim: int = 64) -> None:
        if not is_minigrid_image(observation_space):
            raise ValueError(
                f"Expect `observation_space` to be a Box of shape (width, height, 3) with sides of at most "
                f"{LARGEST_VIEW}, actual: {observation_space}"
            )
        super().__init__(observation_space, features_dim)
        assert observation_space.shape is not None
        cells = observation_space.shape[0] * observation_space.shape[1]
        within_cell = torch.tensor([0, CODES[0], CODES[0] + CODES[1]])
        offsets = torch.arange(cells).unsqueeze(1) * sum(CODES) + within_cell
        self.register_buffer("offsets", offsets.flatten(), persistent=False)
        self.embedding = nn.EmbeddingBag(cells * sum(CODES), features_dim, mode="sum")
        self.hidden = nn.Linear(features_dim, features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        """Codes [N, width, height, 3] to features [N, features_dim]."""
        codes = observations.flatten(1).long() + self.offsets
        return torch.relu(self.hidden(torch.relu(self.embedding(codes))))
