"""Checkpoints of earlier formats, brought to the present one as they are read.

- Format 5 names the core, of which there was one before, calls its controller's state so instead of "pressure", and has
  weights for the counts of attention, which are 0 for older files.
- Format 4 stores a tenth of each age's bias, format 3 the bias itself, and before there was none, which is a bias of 0
  (layer.py reads all of these weights).  Adam's state is that of other parameters in older files: it begins anew.
- Format 3 stores the whole shape of the memory; before it, what was not asked for had the defaults below.  Observations
  were not normalised.
"""

from typing import Any

from torch import Tensor

FORMATS = tuple(f"expirespan-checkpoint-{number}" for number in (1, 2, 3, 4, 5))
"""From the oldest to the present one."""
BEFORE_FORMAT_3 = {"heads": 2, "position_window": 0}


def migrate(tensors: dict[str, Tensor], document: dict[str, Any], stored_as: str) -> None:
    """Bring the tensors and the document of a checkpoint of this format to the present one, in place."""
    if stored_as == FORMATS[-1]:
        return
    if FORMATS.index(stored_as) < FORMATS.index("expirespan-checkpoint-3"):
        arguments = document["arguments"]
        arguments.setdefault("normalize_observations", False)
        policy = arguments.get("policy_kwargs") or {}
        arguments["policy_kwargs"] = policy | {"memory": BEFORE_FORMAT_3 | (policy.get("memory") or {})}
    document["controller"] = document.pop("pressure")
    for name in [name for name in tensors if name.startswith("optimizer/")]:
        del tensors[name]
