"""Checkpoints of earlier formats, brought to the present one as they are read.

- Format 3 stores the whole shape of the memory; before it, what was not asked for had the defaults below.  Observations
  were not normalised.  Layers with a position window had no bias for each age, which is a bias of 0 (layer.py); Adam
  begins anew for these, since its state goes by the number of a parameter.
"""

from typing import Any

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
    if "policy/core.layers.0.position" in tensors:
        for name in [name for name in tensors if name.startswith("optimizer/")]:  # it would be that of other parameters
            del tensors[name]
