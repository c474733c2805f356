"""Checkpoints of earlier formats, brought to the present one as they are read.

- Format 3 stores the whole shape of the memory; before it, what was not asked for had the defaults below.  Layers with
  a position window have a bias for each age; before it there was none, which is a bias of 0.  Observations were not
  normalised.
"""

from typing import Any

import torch
from torch import Tensor

FORMATS = ("expirespan-checkpoint-1", "expirespan-checkpoint-2", "expirespan-checkpoint-3")
"""From the oldest to the present one."""
BEFORE_FORMAT_3 = {"heads": 2, "position_window": 0}


def migrate(tensors: dict[str, Tensor], document: dict[str, Any], stored_as: str) -> None:
    """Bring the tensors and the document of a checkpoint of this format to the present one, in place."""
    if stored_as == FORMATS[-1]:
        return
    arguments = document["arguments"]
    arguments.setdefault("normalize_observations", False)
    policy = arguments.get("policy_kwargs") or {}
    arguments["policy_kwargs"] = policy | {"memory": BEFORE_FORMAT_3 | (policy.get("memory") or {})}
    for name, position in [(name, tensor) for name, tensor in tensors.items() if name.endswith(".position")]:
        heads, _, window = position.shape
        tensors[name.removesuffix("position") + "age_bias"] = torch.zeros(heads, window + 1, dtype=position.dtype)
        for number in [name for name in tensors if name.startswith("optimizer/")]:  # of other parameters than now
            del tensors[number]
