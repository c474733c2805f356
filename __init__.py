"""Agents that learn what to remember: Expire-Span memory for reinforcement learning.

`MemoryPPO` and `MemoryA2C` are algorithms of Stable-Baselines3 and `RecordEpisodes` a callback for them;
`import expirespan.envs` registers the environments;
`expirespan.memory` holds the memory itself.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agents import MemoryA2C, MemoryPPO
    from .tab.recording import RecordEpisodes

__all__ = ["MemoryA2C", "MemoryPPO", "RecordEpisodes", "__version__"]

__version__ = version("expirespan")

MODULES = {"MemoryA2C": ".agents", "MemoryPPO": ".agents", "RecordEpisodes": ".tab.recording"}


def __getattr__(name: str) -> Any:
    # Imported on first use: `expirespan.memory` alone needs only torch.
    if name in MODULES:
        return getattr(import_module(MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
