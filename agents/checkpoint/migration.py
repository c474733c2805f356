"""Checkpoints of earlier formats, brought to the present one as they are read.

- Format 11 has a critic that knows the time; older files go on without.  Every core's state has a clock, which stands
  at 0 for those of older files that had none.
- Format 10 has a value loss in units of the returns' deviation; files before it go on without.
- Format 9 tells how many processes trained together; before it there was one.
- Format 8 has one name for the first norm of every core's layers.  Memories of gtrxl and adaptive-span stand in slots,
  each with its time of birth, and their layers have spans, all of them the window: of older files of these only the
  weights are taken, Adam's state and episodes begin anew.  The weights of compressive stand in another order, so its
  Adam's state begins anew as well.
- Format 7 has every entry that reading knows, a digest, and what of the log had not been written yet.
- Format 6 stores memories as the inputs of a layer, before its norm; earlier formats after it.  Such a memory gets an
  input of which the present norm makes it, as near as can be: its gain and bias are undone.  Format 6 also has spans in
  transformer-xl, all of them the window, and other names for two parts of gtrxl.
- Format 5 names the core, of which there was one before, calls its controller's state so instead of "pressure", and has
  weights for the counts of attention, which are 0 for older files.
- Format 4 stores a tenth of each age's bias, format 3 the bias itself, and before there was none, which is a bias of 0
  (layer.py reads all of these weights).  Adam's state is that of other parameters in older files: it begins anew.
- Format 3 stores the whole shape of the memory; before it, what was not asked for had the defaults below.  Observations
  were not normalised.
"""

import re
from typing import Any

import torch
from torch import Tensor

from ...memory.window import SATURATED

FORMATS = tuple(f"expirespan-checkpoint-{number}" for number in range(1, 12))
"""From the oldest to the present one."""
BEFORE_FORMAT_3 = {"heads": 2, "position_window": 0}


def migrate(tensors: dict[str, Tensor], document: dict[str, Any], stored_as: str) -> None:
    """Bring the tensors and the document of a checkpoint of this format to the present one, in place."""
    if stored_as == FORMATS[-1]:
        return
    number = FORMATS.index(stored_as) + 1
    arguments = document["arguments"]
    arguments.setdefault("normalize_value_loss", False)
    arguments["policy_kwargs"] = {"time_aware_critic": False} | (arguments.get("policy_kwargs") or {})
    if number < 3:
        arguments.setdefault("normalize_observations", False)
        policy = arguments.get("policy_kwargs") or {}
        arguments["policy_kwargs"] = policy | {"memory": BEFORE_FORMAT_3 | (policy.get("memory") or {})}
    if number < 5:
        document["controller"] = document.pop("pressure")
        _forget_adam(tensors)
    document.setdefault("pending_log", {})
    if number < 9:
        document |= {"processes": 1, "others": []}
    policy = arguments.get("policy_kwargs") or {}
    core = policy.get("core", "expire-span")
    _rename_norms(tensors)
    if number < 8 and core == "compressive":
        _forget_adam(tensors)
    if number < 6 and core == "expire-span" and (policy.get("memory") or {}).get("pre_norm", True):
        _undo_norms(tensors)
    if (number < 8 and core in ("gtrxl", "adaptive-span")) or (number < 6 and core == "transformer-xl"):
        _update_windows(tensors)
    add_clocks(tensors)


def add_clocks(tensors: dict[str, Tensor]) -> None:
    """Give stored states that have no clock one that stands at 0 in every row."""
    groups = {name.rpartition("/")[0] for name in tensors if re.search(r"(^|/)(evaluated )?memory( \d+)?/[^/]*$", name)}
    for group in groups:
        rows = next(tensor.shape[:1] for name, tensor in tensors.items() if name.startswith(f"{group}/"))
        tensors.setdefault(f"{group}/time", torch.zeros(rows, dtype=torch.int64))
        tensors.pop(f"{group}/nothing", None)


def _forget_adam(tensors: dict[str, Tensor]) -> None:
    """Let Adam's state begin anew, which is stored by the order of the parameters."""
    for name in [name for name in tensors if name.startswith("optimizer/")]:
        del tensors[name]


def _rename_norms(tensors: dict[str, Tensor]) -> None:
    """Give the parts of a layer the names that they have now."""
    for name in list(tensors):
        if "core.layers." in name:
            renamed = name.replace(".attention_norm.", ".norm.").replace(".join_attention.", ".join.")
            tensors[renamed] = tensors.pop(name)


def _update_windows(tensors: dict[str, Tensor]) -> None:
    """Give a window's layers the spans that they have now.  Adam's state and episodes begin anew."""
    for name in list(tensors):
        if name.startswith(("optimizer/", "memory/", "last_")):
            del tensors[name]
        elif re.fullmatch(r"policy/core\.layers\.\d+\.norm\.weight", name):
            layer = name.removesuffix("norm.weight")
            window = tensors[f"{layer}position"].shape[2] - 1
            tensors[f"{layer}span.weight"] = torch.zeros_like(tensors[name])
            tensors[f"{layer}span.bias"] = torch.tensor(SATURATED if window else -SATURATED, dtype=tensors[name].dtype)


def _undo_norms(tensors: dict[str, Tensor]) -> None:
    """Give stored memories, which come after the norm, inputs of which the norm makes them."""
    for name in [name for name in tensors if re.fullmatch(r"memory/\d+\.hidden", name)]:
        norm = f"policy/core.layers.{name[len('memory/') : -len('.hidden')]}.norm"
        gain, bias = tensors[f"{norm}.weight"], tensors[f"{norm}.bias"]
        tensors[name] = (tensors[name] - bias) / torch.where(gain == 0, 1, gain)
