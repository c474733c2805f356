"""Evaluation with action masks by SB3's own tools, which know none.

sb3-contrib's `evaluate_policy` for masks hands no state from one step to the next, so an agent with memory would forget
everything at every step: `predict` refuses that.  Here SB3's does the playing, and the model looks up the masks itself.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from .learn.on_policy import MemoryOnPolicyAlgorithm


class WithMasks:
    """A model that acts in one VecEnv and takes only actions that its `action_masks()` allow.

    `stable_baselines3.common.evaluation.evaluate_policy(WithMasks(model, env), env)` plays by the masks.

    Raises ValueError where `env` is no VecEnv or has no such method.
    """

    def __init__(self, model: Any, env: VecEnv) -> None:
        if not (isinstance(env, VecEnv) and env.has_attr("action_masks")):
            raise ValueError(f"Expect `env` to be a VecEnv whose environments have `action_masks`, actual: {env}")
        self.model, self.env = model, env

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """`predict` of the model with the masks of this moment."""
        masks = self.env.env_method("action_masks")
        return self.model.predict(observation, state, episode_start, deterministic, masks)

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not there yet in a copy that is being made
            raise AttributeError(name)
        return getattr(self.model, name)


class MaskedEvalCallback(EvalCallback):
    """SB3's EvalCallback, with its arguments, playing by the `action_masks()` of its environment.

    Raises ValueError at the first evaluation where the environment has no such method.
    """

    def _on_step(self) -> bool:
        model = self.model
        assert isinstance(model, MemoryOnPolicyAlgorithm)
        masked: Any = WithMasks(model, self.eval_env)
        self.model = masked
        try:
            return super()._on_step()
        finally:
            self.model = model
