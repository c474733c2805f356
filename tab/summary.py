"""A recorded episode as a TensorBoard summary.

The value is a tensor of one string, the bytes of the episode's file (storage.py).  Every episode has a tag of its own,
since TensorBoard keeps only a few steps of a tag in memory and would drop some at random.  What the tab lists stands
in the metadata, which TensorBoard hands out without the value.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np
from tensorboard.compat.proto.summary_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
    DATA_CLASS_TENSOR,  # pyright: ignore[reportAttributeAccessIssue]
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
    SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

from ..analysis import storage
from ..analysis.record import EpisodeTrace

PLUGIN_NAME = "expirespan_memory"
"""The name that TensorBoard knows the plugin and its summaries by."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the list of episodes says about one."""

    name: str
    """Tells episodes of one training step apart, such as the seed that the episode was played with."""
    step: int
    """Environment steps that the agent had trained for, or updates of a sequence model."""
    steps: int
    """Steps of the episode."""
    layers: int
    total_reward: float
    episode_end: str

    def to_json(self) -> bytes:
        """As it stands in the metadata."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Listing":
        """Read from the metadata.  Raises ValueError where they are not one's."""
        values = json.loads(text)
        if not isinstance(values, dict) or values.keys() != cls.__annotations__.keys():
            raise ValueError(f"Expect the metadata of a recorded episode, actual: {text[:80]!r}")
        for name, kind in cls.__annotations__.items():
            value = values[name]
            if not isinstance(value, float | int if kind is float else kind) or isinstance(value, bool):
                raise ValueError(f"Expect `{name}` of a recorded episode to be {kind.__name__}, actual: {value!r}")
        return cls(**values)


def episode_summary(trace: EpisodeTrace, name: str, step: int) -> Summary:
    """The episode as what an event holds; `step` counts the environment steps that the agent had trained for."""
    listing = Listing(
        name=name,
        step=step,
        steps=len(trace.relevant),
        layers=len(trace.layers),
        total_reward=float(trace.rewards.sum()),
        episode_end=trace.episode_end,
    )
    metadata = SummaryMetadata(data_class=DATA_CLASS_TENSOR, display_name=f"episode {name}")
    metadata.plugin_data.plugin_name = PLUGIN_NAME
    metadata.plugin_data.content = listing.to_json()
    tensor = make_tensor_proto(np.array(storage.to_bytes(trace), dtype=object))
    tag = f"memory/episode/{name}/{step}"
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def write_episode(writer: SummaryWriter, trace: EpisodeTrace, name: str, step: int) -> None:
    """Write an episode into the event file of a writer, where the Memory tab finds it."""
    writer._get_file_writer().add_summary(episode_summary(trace, name, step), step)
