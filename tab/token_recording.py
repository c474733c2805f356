"""Tokens recorded while a sequence model is trained, for the Memory tab."""

import warnings

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from ..analysis.pictures.shaded import draw_shaded
from ..analysis.pictures.timeline import draw_timeline
from ..analysis.sequence import record_tokens, summary
from ..sequences.episode import TokenEpisode
from ..sequences.model import SequenceModel
from .summary import write_episode


class RecordTokens:
    """Reads the same episode whenever it is asked to, and writes what is kept of it.

    Its pictures go to `timeline/memories` and `timeline/spans`, the episode itself to the Memory tab.  From the first
    error on nothing is recorded, which is warned of once: the training is worth more than a picture of it.
    """

    def __init__(self, episode: TokenEpisode, name: str) -> None:
        self._episode, self._name, self._written_at, self._failed = episode, name, -1, False

    def write(self, model: SequenceModel, writer: SummaryWriter, updates: int) -> None:
        """Record what this model keeps after so many updates, once for each number of them."""
        if self._failed or updates == self._written_at:
            return
        self._written_at = updates
        try:
            trace = record_tokens(model, self._episode, attention=True)
            title = f"{updates:,} updates, {summary(trace)}"
            writer.add_figure("timeline/memories", draw_timeline(trace, title), updates)
            writer.add_image("timeline/spans", np.asarray(draw_shaded(trace, title)), updates, dataformats="HWC")
            write_episode(writer, trace, self._name, updates)
            writer.flush()
        except Exception as error:
            self._failed = True
            said = f"{type(error).__name__}: {error}"
            warnings.warn(f"Nothing more is recorded, training goes on: {said}", stacklevel=2)
