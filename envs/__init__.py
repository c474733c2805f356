"""The paper's tasks as Gymnasium environments, registered on import."""

from gymnasium.envs.registration import register

from .corridor import CorridorEnv, CorridorVectorEnv
from .instruction import InstructionEnv, InstructionVectorEnv
from .make import make_batched, make_single, make_viewed
from .portal import PortalEnv, PortalVectorEnv
from .solvers import SOLVERS, CorridorSolver, InstructionSolver, PortalSolver
from .world import Move

__all__ = [
    "SOLVERS",
    "CorridorEnv",
    "CorridorSolver",
    "CorridorVectorEnv",
    "InstructionEnv",
    "InstructionSolver",
    "InstructionVectorEnv",
    "Move",
    "PortalEnv",
    "PortalSolver",
    "PortalVectorEnv",
    "make_batched",
    "make_single",
    "make_viewed",
]

for _name, _lengths in {"Corridor": (3, 200), "CorridorShort": (3, 20), "CorridorLong": (1000, 2000)}.items():
    register(
        id=f"expirespan/{_name}-v0",
        entry_point="expirespan.envs.corridor:CorridorEnv",
        vector_entry_point="expirespan.envs.corridor:CorridorVectorEnv",
        kwargs={"min_length": _lengths[0], "max_length": _lengths[1]},
    )

for _name, _distractors in {
    "Instruction": (100, 200),
    "InstructionShort": (0, 20),
    "InstructionLong": (10_000, 10_000),
}.items():
    register(
        id=f"expirespan/{_name}-v0",
        entry_point="expirespan.envs.instruction:InstructionEnv",
        vector_entry_point="expirespan.envs.instruction:InstructionVectorEnv",
        kwargs={"min_distractors": _distractors[0], "max_distractors": _distractors[1]},
    )

for _name, _arguments in {"Portal": {}, "PortalShort": {"num_rooms": 10, "max_steps": 200}}.items():
    register(
        id=f"expirespan/{_name}-v0",
        entry_point="expirespan.envs.portal:PortalEnv",
        vector_entry_point="expirespan.envs.portal:PortalVectorEnv",
        kwargs=_arguments,
    )
