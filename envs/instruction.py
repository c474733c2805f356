"""Instruction (paper, section 5.1): carry out what was told once, a great many unrelated lines ago.

A text world after LIGHT: a stream of lines, one a step.  Some of them tell the agent what to have a character do; much
later it meets these characters.  In between the same characters do and say the same things in lines that mean nothing.
"""

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw, ImageFont

from ..checks import check_whole
from .lines import ACTIONS, CHARACTERS, LINE_WIDTH, VOCABULARY, Kind, decode, draw_lines
from .vector import WorldVectorEnv
from .world import StepResult, World

NOTHING = 0
"""The action of doing nothing; action k is the k-th of `lines.ACTIONS`, counted from 1."""
EDGE = 10
"""One in so many of the distractor lines may stand between instructions, and as many between encounters."""


class InstructionWorld(World):
    """B episodes.  All lines of an episode are drawn when it begins."""

    observation_kind = "tokens"

    def __init__(
        self,
        num_worlds: int,
        num_instructions: int = 3,
        min_distractors: int = 100,
        max_distractors: int = 200,
        num_characters: int = 5,
        num_actions: int = 5,
    ) -> None:
        super().__init__(num_worlds)
        self.num_instructions = check_whole("num_instructions", num_instructions, at_least=1)
        self.min_distractors = check_whole("min_distractors", min_distractors, at_least=0)
        self.max_distractors = check_whole("max_distractors", max_distractors, at_least=0)
        if max_distractors < min_distractors:
            raise ValueError(
                f"Expect `max_distractors` to be at least `min_distractors` ({min_distractors}), "
                f"actual: {max_distractors}"
            )
        self.num_characters = check_whole("num_characters", num_characters, at_least=2)
        self.num_tasks = check_whole("num_actions", num_actions, at_least=2)
        for name, most in (("num_characters", len(CHARACTERS)), ("num_actions", len(ACTIONS))):
            if locals()[name] > most:
                raise ValueError(f"Expect `{name}` to be at most {most}, actual: {locals()[name]}")
        if num_instructions > num_characters:
            raise ValueError(
                f"Expect `num_instructions` to be at most `num_characters` ({num_characters}), one for each, "
                f"actual: {num_instructions}"
            )
        self.num_actions = num_actions + 1
        self.observation_space = spaces.Box(0, len(VOCABULARY) - 1, (LINE_WIDTH,), np.int16)
        longest = max_distractors + 2 * num_instructions
        self.lines = np.zeros((num_worlds, longest + 1, LINE_WIDTH), dtype=np.int16)
        self.told = np.zeros((num_worlds, longest + 1), dtype=np.bool_)
        # What is to be done at each line: the action of an encounter, NOTHING elsewhere.
        self.due = np.zeros((num_worlds, longest + 1), dtype=np.int64)
        self.counts, self.times, self.done = (np.zeros(num_worlds, dtype=np.int64) for _ in range(3))

    def reset(self, row: int) -> None:
        """Draw a new episode for one row."""
        random, told = self.generators[row], self.num_instructions
        distractors = int(random.integers(self.min_distractors, self.max_distractors, endpoint=True))
        count, edge = distractors + 2 * told, told + distractors // EDGE
        first = np.sort(random.permutation(edge)[:told])
        # The last line is an encounter.
        last = count - 1 - np.append(np.sort(random.permutation(edge - 1)[: told - 1])[::-1] + 1, 0)
        characters = random.integers(self.num_characters, size=count)
        others = (characters + random.integers(1, self.num_characters, size=count)) % self.num_characters
        actions = random.integers(self.num_tasks, size=count)
        characters[first] = random.permutation(self.num_characters)[:told]
        order = first[random.permutation(told)]
        characters[last], actions[last] = characters[order], actions[order]
        kinds = np.full(count, Kind.CHATTER)
        kinds[first], kinds[last] = Kind.INSTRUCTION, Kind.ENCOUNTER
        lines = draw_lines(kinds, characters, others, actions, random)
        self.lines[row, :count], self.lines[row, count:] = lines, 0
        self.told[row], self.due[row] = False, NOTHING
        self.told[row, first], self.due[row, last] = True, actions[last] + 1
        self.counts[row], self.times[row], self.done[row] = count, 0, 0

    def step(self, actions: np.ndarray) -> StepResult:
        """Answer the present line, and go on to the next."""
        due = self.due[self._rows, self.times]
        right = (due != NOTHING) & (actions == due)
        self.done += right
        self.times += 1
        return StepResult(right.astype(np.float64), self.times == self.counts, np.zeros(self.num_worlds, dtype=bool))

    def observe(self) -> np.ndarray:
        """The present lines, token ids [B, LINE_WIDTH]; empty ones after the end."""
        return self.lines[self._rows, self.times]

    def infos(self) -> dict[str, np.ndarray]:
        """`relevant`: an instruction; `encounter`: something is to be done; `carried_out`: share of all told so far."""
        return {
            "relevant": self.told[self._rows, self.times],
            "encounter": self.due[self._rows, self.times] != NOTHING,
            "carried_out": self.done / self.num_instructions,
        }

    def succeeded(self, result: StepResult) -> np.ndarray:
        """Everything was carried out."""
        return result.terminated & (self.done == self.num_instructions)

    def _array_names(self) -> list[str]:
        return ["lines", "told", "due", "counts", "times", "done"]

    def _ranges(self) -> dict[str, tuple[Any, Any]]:
        longest = self.lines.shape[1] - 1
        words, actions = (0, len(VOCABULARY) - 1), (0, self.num_actions - 1)
        return {"lines": words, "due": actions, "counts": (1, longest), "times": (0, longest - 1)}


class InstructionEnv(gym.Env):
    """Instruction: do, on meeting a character, what you were told to have it do a hundred lines ago.

    ## Description
    A stream of lines.  First come the instructions ("tell the butler to sweep the hall"), each for another character,
    with chatter between them; then chatter alone; then the encounters ("you meet the butler"), in random order, again
    with chatter between them.  A tenth of the chatter at most stands between instructions, and as much between
    encounters.  Chatter speaks of the same characters and actions ("never tell the butler to sweep the hall").

    ## Actions
    `Discrete(num_actions + 1)`: 0 does nothing, k does the k-th of `lines.ACTIONS`.  Only at an encounter it matters
    what is done, and doing anything elsewhere costs nothing.

    ## Observations
    Token ids, `Box` of shape (14,) and type int16: places of the words in `lines.VOCABULARY`, filled up with 0;
    `lines.decode` gives the text.

    ## Rewards
    1 at an encounter for the action that the character's instruction named, 0 otherwise.

    ## Episode end
    Terminated after the last encounter; never truncated.

    ## Information
    `relevant`: the line is an instruction.  `encounter`: the line is an encounter.  `carried_out`: share of the
    instructions carried out so far.  `is_success`, at the end only: all were.

    ## Arguments
    `num_instructions=3`.  `min_distractors=100`, `max_distractors=200`: lines of chatter, drawn uniformly between them,
    both included.  `num_characters=5`, up to 12; `num_actions=5`, up to 12.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's form

    observation_kind = InstructionWorld.observation_kind

    def __init__(
        self,
        num_instructions: int = 3,
        min_distractors: int = 100,
        max_distractors: int = 200,
        num_characters: int = 5,
        num_actions: int = 5,
        render_mode: str | None = None,
    ) -> None:
        self.world = InstructionWorld(
            1, num_instructions, min_distractors, max_distractors, num_characters, num_actions
        )
        self.observation_space = self.world.observation_space
        self.action_space = spaces.Discrete(self.world.num_actions)
        self.render_mode = render_mode
        self._said: list[str] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new episode, the first of a new random stream if a seed is given."""
        super().reset(seed=seed)
        if seed is not None:
            self.world.seed(0, seed)
        self.world.reset(0)
        self._said = [decode(self.world.observe()[0])]
        return self.world.observe()[0], self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Answer the present line."""
        if not self.action_space.contains(action):
            raise ValueError(f"Expect `action` to be an int from 0 to {self.world.num_actions - 1}, actual: {action!r}")
        result = self.world.step(np.array([action], dtype=np.int64))
        reward, terminated = float(result.reward[0]), bool(result.terminated[0])
        if action != NOTHING:
            self._said.append(f"> {ACTIONS[action - 1]}{' (right)' if reward else ''}")
        info = self._info()
        if terminated:
            info["is_success"] = bool(self.world.succeeded(result)[0])
        else:
            self._said.append(decode(self.world.observe()[0]))
        return self.world.observe()[0], reward, terminated, False, info

    def render(self) -> Any:
        """The episode so far as one would read it, or a picture of its last lines."""
        if self.render_mode == "ansi":
            return "\n".join(self._said) + "\n"
        if self.render_mode != "rgb_array":
            return None
        image = Image.new("RGB", (480, 200), "white")
        draw = ImageDraw.Draw(image)
        for place, said in enumerate(self._said[-12:]):
            draw.text((8, 4 + 16 * place), said, fill="#b03030" if said.startswith(">") else "black")
        return np.asarray(image)

    def get_pov_render(self, tile_size: int = 8) -> np.ndarray:
        """A picture of the present line alone, what the agent observes: uint8 [height, width, 1], grey.

        MiniGrid's name for its picture of an agent's view; twelve tiles wide.
        """
        text = [line.ljust(COLUMNS) for line in _wrapped(decode(self.world.observe()[0]))]
        codes = np.frombuffer("".join(text).encode(), dtype=np.uint8).reshape(ROWS, COLUMNS)
        rows = _letters(tile_size)[codes].swapaxes(1, 2)
        return rows.reshape(rows.shape[0] * rows.shape[1], -1, 1)

    def _info(self) -> dict[str, Any]:
        return {name: value[0].item() for name, value in self.world.infos().items()}


COLUMNS, ROWS = 16, 5
"""Letters across and lines down the picture of a line: enough for the longest."""


def _wrapped(text: str) -> list[str]:
    """The text in `ROWS` lines, filled word by word."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= COLUMNS:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return (lines + [""] * ROWS)[:ROWS]


@cache
def _letters(tile_size: int) -> np.ndarray:
    """Pictures of the ASCII characters, black on white, [128, height, width]."""
    font, pictures = ImageFont.load_default_imagefont(), []
    for code in range(128):
        image = Image.new("L", (6, 12), "white")
        ImageDraw.Draw(image).text((0, 0), chr(code), fill="black", font=font)
        pictures.append(np.asarray(image.resize((12 * tile_size // COLUMNS, 24 * tile_size // COLUMNS))))
    return np.stack(pictures)


class InstructionVectorEnv(WorldVectorEnv):
    """`num_envs` episodes stepped at once; arguments and rules as in `InstructionEnv`."""

    def __init__(
        self,
        num_envs: int = 1,
        num_instructions: int = 3,
        min_distractors: int = 100,
        max_distractors: int = 200,
        num_characters: int = 5,
        num_actions: int = 5,
    ) -> None:
        super().__init__(
            InstructionWorld(num_envs, num_instructions, min_distractors, max_distractors, num_characters, num_actions)
        )
