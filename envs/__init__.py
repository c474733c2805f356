"""The paper's tasks as Gymnasium environments, registered on import."""

from gymnasium.envs.registration import register

from .corridor import CorridorEnv, CorridorVectorEnv
from .make import make_batched, make_single, make_viewed
from .solvers import CorridorSolver
from .world import Move

__all__ = ["CorridorEnv", "CorridorSolver", "CorridorVectorEnv", "Move", "make_batched", "make_single", "make_viewed"]

for _name, _lengths in {"Corridor": (3, 200), "CorridorShort": (3, 20), "CorridorLong": (1000, 2000)}.items():
    register(
        id=f"expirespan/{_name}-v0",
        entry_point="expirespan.envs.corridor:CorridorEnv",
        vector_entry_point="expirespan.envs.corridor:CorridorVectorEnv",
        kwargs={"min_length": _lengths[0], "max_length": _lengths[1]},
    )
