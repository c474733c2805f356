"""What a sequence model keeps of a stream, recorded as an agent's episode is: a step is a token.

In the record (record.py) the action is the class predicted, the reward is 1 for a right answer and 0 elsewhere, and the
value is the surprise of the step's target in bits, NaN where nothing is scored.
"""

import math
from dataclasses import replace

import numpy as np
import torch

from ..memory import Record
from ..sequences.episode import TokenEpisode
from ..sequences.meaning import meaning, pictures
from ..sequences.model import SequenceModel
from ..sequences.training import tensors
from .evaluation import check_keeps_memories
from .record import EpisodeTrace, layer_records, strongest

SURPRISE = "surprise in bits"
READ = 128
"""Steps read at once; any number gives the same."""


@torch.no_grad()
def record_tokens(
    model: SequenceModel, episode: TokenEpisode, *, attention: bool = False, frames: bool = True
) -> EpisodeTrace:
    """Read an episode and record what the memory keeps of it.

    `attention` also records what each step attended to, and `frames` pictures where the task has some.  Dropout and
    random shortening are off.  Raises ValueError where the model's core keeps no memories of single steps.
    """
    check_keeps_memories(model, "to record an episode")
    said = meaning(episode.stream, episode.window)
    tokens, targets, resets = tensors(episode.window, model.head.weight.device)
    training, state = model.training, model.core.initial_state(1)
    record = Record.STATE | Record.TRACE | (Record.ATTENTION if attention else Record.NOTHING)
    model.eval()
    logs, traces, attended = [], [], []
    for first in range(0, tokens.shape[1], READ):
        part = slice(first, first + READ)
        scores, output = model(tokens[:, part], state, resets[:, part], record=record)
        state = output.state.compact()
        logs.append(torch.log_softmax(scores[0].float(), 1))
        traces.append([replace(layer, attention=None) for layer in output.trace])
        attended.append([strongest(layer.attention, first) for layer in output.trace])
    model.train(training)
    log = torch.cat(logs)
    chosen = log.gather(1, targets[0].clamp(min=0).unsqueeze(1)).squeeze(1)
    surprise = torch.where(targets[0] >= 0, -chosen / math.log(2), math.nan)
    predicted = log.argmax(1)
    return EpisodeTrace(
        layers=layer_records(traces, attended),
        relevant=said.relevant[0],
        rewards=(predicted == targets[0]).float().cpu().numpy(),
        actions=predicted.cpu().numpy(),
        action_names=said.classes,
        values=surprise.cpu().numpy(),
        value_name=SURPRISE,
        events=said.events[0] if (said.events[0] != "").any() else None,
        frames=pictures(episode.stream, episode.window.tokens[0]) if frames else None,
        labels=said.labels[0],
        episode_end="terminated" if episode.complete else "truncated",
    )


def summary(trace: EpisodeTrace) -> str:
    """Steps, mean surprise and share of wrong answers of a recording, for titles."""
    scored, steps = np.isfinite(trace.values), f"{len(trace.values):,} steps"
    if not scored.any():
        return f"{steps}, none scored"
    return f"{steps}, {trace.values[scored].mean():.3f} bits, {1 - trace.rewards[scored].mean():.1%} wrong"
