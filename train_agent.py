"""Train an agent with memory from the command line, into a run folder that can be resumed, watched and evaluated."""

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import torch
import tyro
from expirespan.agents import A2CConfig, MemoryA2C, MemoryPPO, PPOConfig, PressureConfig
from expirespan.agents.callbacks import CheckpointCallback, ProgressCallback, RecordEpisodes
from expirespan.agents.checkpoint import read_checkpoint, under
from expirespan.agents.on_policy import MemoryOnPolicyAlgorithm
from expirespan.agents.pressure import check_budget
from expirespan.agents.saving import stored_spaces
from expirespan.checks import check_whole
from expirespan.command_line import given, leave, options, parse_env_args, read
from expirespan.envs import make_batched, make_viewed
from expirespan.envs.make import BrokenEnvironment
from expirespan.memory import ExpireSpanConfig
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

CHECKPOINT, BEST, CONFIGURATION = "checkpoint.safetensors", "best.safetensors", "config.json"
ALGORITHMS: dict[str, type[MemoryPPO | MemoryA2C]] = {"ppo": MemoryPPO, "a2c": MemoryA2C}
TOTAL_STEPS = 1_000_000
EVALUATION_SEED = 1_000_000
"""Evaluation episodes are seeded from here on, far from those of training."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an agent whose memory decides what to keep."""

    env: str = "expirespan/Corridor-v0"
    """Id of the environment: one of this project's, of MiniGrid's, or any other of Gymnasium's."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment, as NAME=VALUE."""
    view_size: int | None = None
    """Cells across the agent's view, for this project's grids and MiniGrid's; None for the environment's own."""
    algo: Literal["ppo", "a2c"] = "ppo"
    """The algorithm; its own options, and their defaults, are those shown below (`--algo a2c --help` for A2C's)."""
    total_steps: int | None = None
    """Environment steps over all environments; None for 1,000,000, or for what a resumed run was to have."""
    num_envs: int = 32
    """Environments stepped side by side."""
    seed: int = 0
    """Seed of weights, actions and environments."""
    device: str | None = None
    """Where the policy lives: cpu or cuda; None for cpu, or for where that of a resumed run lived."""
    threads: int = 1
    """Threads of torch on the CPU.  For networks of this size a second one costs more than it brings."""
    out: Path | None = None
    """Run folder, which must not exist or be empty; runs/ENVIRONMENT-TIME where None."""
    init_from: Path | None = None
    """Run folder whose trained weights to start from, on another environment say: easier tasks first.  It must have
    the same memory options, observations and actions."""
    resume: Path | None = None
    """Run folder to go on with.  Everything else but total_steps and device then comes from its configuration."""
    checkpoint_every: int = 100_000
    """Steps between checkpoints.  The best so far, by the return of its latest 100 training episodes, is kept too."""
    timeline_every: int = 250_000
    """Steps between episodes recorded for TensorBoard, picture and Memory tab, beside the one at the end; 0 for none at
    all."""
    memory: ExpireSpanConfig = field(default_factory=ExpireSpanConfig)
    pressure: PressureConfig = field(default_factory=PressureConfig)
    learning: Annotated[PPOConfig | A2CConfig, tyro.conf.AvoidSubcommands] = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        for name in ("num_envs", "threads", "checkpoint_every"):
            check_whole(name, getattr(self, name), at_least=1)
        if self.total_steps is not None:
            check_whole("total_steps", self.total_steps, at_least=1)
        check_whole("seed", self.seed, at_least=0)
        check_whole("timeline_every", self.timeline_every, at_least=0)
        parse_env_args(self.env_args)
        expected = ALGORITHMS[self.algo].config_class
        if type(self.learning) is not expected:
            raise TypeError(f"Expect `learning` to be a {expected.__name__} for {self.algo}, actual: {self.learning!r}")


def check_device(device: str) -> None:
    """Raise ValueError where there is no such device."""
    kind, _, number = device.partition(":")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and not (kind == "cuda" and gpus and number in ("", *map(str, range(gpus)))):
        raise ValueError(f"Expect `device` to be cpu, or cuda where there is a GPU, actual: {device!r}")


def default_config(args: list[str]) -> TrainConfig:
    """The defaults of the algorithm that these arguments of the command line name; PPO's where they name none."""
    algo: Any = given(args).get("algo", "ppo")
    return TrainConfig(algo=algo, learning=ALGORITHMS[algo].config_class()) if algo in ALGORITHMS else TrainConfig()


def check_given(args: list[str], config: TrainConfig) -> None:
    """Raise ValueError for options that stand on the command line but can't be in force together."""
    asked = {name: value for name, value in given(args).items() if value != "None"}
    for algo, algorithm in ALGORITHMS.items():
        foreign = options(algorithm.config_class()).keys() - options(config.learning).keys()
        if algo != config.algo and (named := [name for name in asked if name.removeprefix("no_") in foreign]):
            said = f"as {named[0]} is an option of {algo} alone"
            raise ValueError(f"Expect `algo` to be {algo}, {said}, actual: {config.algo}")
    if "penalty_weight" in asked and "memory_budget" in asked:
        raise ValueError(
            f"Expect `memory_budget` not to be given beside `penalty_weight`, actual: {asked['memory_budget']}"
        )


def to_json(config: TrainConfig) -> str:
    """The configuration as it stands in the run folder."""
    return json.dumps(asdict(config), indent=2, default=str)


def from_json(text: str) -> TrainConfig:
    """The configuration of a run folder.  Raises ValueError where it is not one."""
    try:
        values = json.loads(text)
        groups = {
            "memory": ExpireSpanConfig,
            "pressure": PressureConfig,
            "learning": ALGORITHMS[values["algo"]].config_class,
        }
        for name, group in groups.items():
            values[name] = group(**values[name])
        values["env_args"] = tuple(values["env_args"])
        for name in ("out", "resume", "init_from"):
            values[name] = None if values.get(name) is None else Path(values[name])
        return TrainConfig(**values)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"The configuration of the run can't be read: {error!r}") from error


def read_run(run: Path) -> TrainConfig:
    """The configuration of a run folder.  Raises ValueError where it has none."""
    if not (run / CONFIGURATION).is_file():
        raise ValueError(f"Expect a run folder with a {CONFIGURATION}, actual: {run}")
    return from_json((run / CONFIGURATION).read_text())


def load_model(
    run: Path, env: Any = None, device: str = "cpu", force_reset: bool = True, name: str = CHECKPOINT
) -> MemoryOnPolicyAlgorithm:
    """The agent of a run folder.  Raises FileNotFoundError where it has no such checkpoint yet."""
    return ALGORITHMS[read_run(run).algo].load(run / name, env=env, device=device, force_reset=force_reset)


def start_from(model: MemoryOnPolicyAlgorithm, run: Path, config: TrainConfig) -> None:
    """Give a new model the weights of another run's, and the unit of its values.

    Raises ValueError where they do not fit.
    """
    theirs, ours = options(read_run(run).memory), options(config.memory)
    if other := [name for name in ours if theirs[name] != ours[name]]:
        asked, actual = (", ".join(f"{name} {memory[name]}" for name in other) for memory in (ours, theirs))
        raise ValueError(f"Expect `init_from` to be a run with {asked}, actual: {actual}")
    tensors, document = read_checkpoint(run / CHECKPOINT)
    for name, space in zip(("observation_space", "action_space"), stored_spaces(document), strict=True):
        if getattr(model, name) != space:
            raise ValueError(f"Expect `init_from` to be a run with the {name} {getattr(model, name)}, actual: {space}")
    model.policy.load_state_dict(under("policy", tensors))
    model.reward_scale.adopt(document["reward_scale"])


def prepare(config: TrainConfig) -> tuple[TrainConfig, Path, MemoryOnPolicyAlgorithm]:
    """The configuration in force, the run folder and the agent, new or resumed."""
    if config.resume is not None:
        plain = options(default_config(["--algo", config.algo]))
        changed = [name for name, value in options(config).items() if value != plain[name]]
        if extra := [name for name in changed if name not in ("resume", "total_steps", "device")]:
            raise ValueError(
                f"Expect `resume` with no other options than total_steps and device, actual: {', '.join(extra)}"
            )
        run, stored = config.resume, read_run(config.resume)
        total, device = config.total_steps or stored.total_steps, config.device or stored.device
        config = replace(stored, total_steps=total, device=device)
    else:
        check_budget(config.pressure, config.memory)
        config = replace(config, total_steps=config.total_steps or TOTAL_STEPS)
        run = config.out or Path("runs") / f"{config.env.rsplit('/')[-1]}-{datetime.now():%Y%m%d-%H%M%S}"
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            hint = f"; go on with it by --resume {run}" if (run / CONFIGURATION).is_file() else ""
            raise ValueError(f"Expect `out` to be a new or empty folder, actual: {run}{hint}")
    device = config.device or "cpu"
    check_device(device)
    torch.set_num_threads(config.threads)
    resumed = (run / CHECKPOINT).is_file()
    env = make_batched(config.env, config.num_envs, parse_env_args(config.env_args), config.view_size)
    if resumed:
        model = load_model(run, env, device, force_reset=False)
    else:
        arguments = asdict(config.learning) | asdict(config.pressure)
        policy = {"memory": config.memory}
        model = ALGORITHMS[config.algo](
            "MemoryPolicy", env, seed=config.seed, device=device, policy_kwargs=policy, **arguments
        )
        if config.init_from is not None:
            start_from(model, config.init_from, config)
    return config, run, model


class Events(TensorBoardOutputFormat):
    """SB3's TensorBoard output, less the events past the checkpoint of a run that was killed."""

    def __init__(self, run: Path, steps: int) -> None:  # SB3's would begin a file that stays empty
        self.writer = SummaryWriter(str(run), purge_step=steps + 1 if steps else None)
        self._is_closed = False


def train(config: TrainConfig) -> Path:
    """Train, or go on training.  Returns the run folder."""
    anew = config.resume is not None and not (config.resume / CHECKPOINT).is_file()
    config, run, model = prepare(config)
    if anew:
        print(f"{run} holds no checkpoint: training begins anew, at step 0")
    total = config.total_steps or TOTAL_STEPS
    left = total - model.num_timesteps
    if left <= 0:
        print(f"{run} has already trained for {model.num_timesteps} steps; ask for more with --total-steps")
        return run
    run.mkdir(parents=True, exist_ok=True)
    (run / CONFIGURATION).write_text(to_json(config))
    events = Events(run, model.num_timesteps)
    model.set_logger(Logger(str(run), [events]))
    saving = CheckpointCallback(run / CHECKPOINT, run / BEST, config.checkpoint_every)
    progress = ProgressCallback(total)
    print(f"Training into {run}; watch it with: tensorboard --logdir {quote(str(run))}")
    previous = signal.signal(signal.SIGINT, saving.interrupt)
    try:
        callbacks = [saving, *recording(config), progress]
        model.learn(left, callback=callbacks, reset_num_timesteps=model.num_timesteps == 0)
    finally:
        signal.signal(signal.SIGINT, previous)
    if not saving.stopped:
        model.logger.dump(model.num_timesteps)
        saving.save()
    for line in closing_lines(run, saving, progress):
        print(line)
    return run


def recording(config: TrainConfig) -> list[RecordEpisodes]:
    """What records episodes for TensorBoard, if it is asked for."""
    if not config.timeline_every:
        return []
    env = partial(make_viewed, config.env, parse_env_args(config.env_args), config.view_size)
    return [RecordEpisodes(env, config.timeline_every, EVALUATION_SEED + config.seed)]


def closing_lines(run: Path, saving: CheckpointCallback, progress: ProgressCallback) -> Iterator[str]:
    """Where training stands and what can be done next."""
    steps, folder = saving.saved_at, quote(str(run))
    if saving.stopped:
        yield f"Stopped and saved at {steps:,} steps; go on with: expirespan-train --resume {folder}"
    else:
        yield f"Trained for {steps:,} steps"
    yield from progress.closing_lines()
    yield "Next:"
    yield f"  expirespan-evaluate {folder} --memory-report --timeline   # what it earns and what it keeps"
    yield f"  tensorboard --logdir {folder}   # curves, and the Memory tab with recorded episodes"
    if not saving.stopped:
        yield f"  expirespan-train --resume {folder} --total-steps {2 * steps}   # as many steps again"


def parse(args: list[str]) -> TrainConfig:
    """The configuration that arguments of the command line describe."""
    default = default_config(args)
    check_given(args, default)
    return read(tyro.conf.OmitArgPrefixes[TrainConfig], args, "expirespan-train", default)


def main(args: list[str] | None = None) -> None:
    """The command line: parse, train, and turn errors about arguments into one line."""
    try:
        train(parse(sys.argv[1:] if args is None else args))
    except (ValueError, TypeError, FileNotFoundError, BrokenEnvironment) as error:
        leave("expirespan-train", error)


if __name__ == "__main__":
    main()
