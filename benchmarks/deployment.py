"""What acting costs a server: milliseconds per batch, on one thread, of a default network that keeps up to 31 memories.

    python benchmarks/deployment.py

`predict` is given a state of all users; `server` joins one state per user before it and splits them after it; `export`
is the `torch.export` program and `onnx` the same in ONNX Runtime, both with 32 slots.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
from expirespan.agents import MemoryPPO
from expirespan.agents.export import export_policy, to_onnx
from expirespan.memory import ExpireSpanState
from expirespan.memory.expire_span.fixed_slots import fixed_slots

USERS, ROUNDS, FILLED, SLOTS = (1, 16, 128), 60, 60, 32


def milliseconds(call: Callable[[], object]) -> float:
    """The median of some calls."""
    spent = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        call()
        spent.append((time.perf_counter() - begun) * 1e3)
    return median(spent)


def main() -> None:
    """Fill the memory of some users, then time one step from there in each way."""
    torch.set_num_threads(1)
    kwargs = {"memory": {"capacity": SLOTS - 1}}
    model = MemoryPPO("MemoryPolicy", "CartPole-v1", policy_kwargs=kwargs, seed=0, device="cpu")
    program = export_policy(model.policy).module()
    with tempfile.TemporaryDirectory() as folder:
        to_onnx(model.policy, Path(folder) / "step.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(Path(folder) / "step.onnx", options)
    print("users   predict   server   export     onnx")
    for users in USERS:
        obs, memory = np.zeros((users, 4), np.float32), model.policy.initial_state(users)
        for _ in range(FILLED):
            _, memory = model.predict(obs, memory, deterministic=True)
        states, slots = memory.split(), fixed_slots(memory, SLOTS)
        start = torch.zeros(users, dtype=torch.bool)
        tensors = {"observation": torch.as_tensor(obs), "episode_start": start}
        tensors |= {f"state_{name}": part for name, part in slots.items()}
        arrays = {name: part.numpy() for name, part in tensors.items()}

        def predict(obs: np.ndarray = obs, memory: ExpireSpanState = memory) -> ExpireSpanState:
            return model.predict(obs, memory, deterministic=True)[1]

        times = (
            milliseconds(predict),
            milliseconds(lambda states=states: predict(memory=ExpireSpanState.join(states)).split()),
            milliseconds(lambda t=tensors, slots=slots, start=start: program(t["observation"], slots, start)),
            milliseconds(lambda arrays=arrays: session.run(None, arrays)),
        )
        print(f"{users:5}" + "".join(f"{spent:9.2f}" for spent in times))


if __name__ == "__main__":
    main()
