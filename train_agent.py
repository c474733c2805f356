"""Train an agent with memory from the command line, into a run folder that can be resumed, watched and evaluated."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from expirespan import processes
from expirespan.agents.callbacks import CheckpointCallback, ProgressCallback
from expirespan.agents.checkpoint.file import read_checkpoint, replace_file, under
from expirespan.agents.checkpoint.model import stored_spaces
from expirespan.agents.learn.on_policy import MemoryOnPolicyAlgorithm
from expirespan.cli.arguments import foreign_place, options, parse_env_args, sizes_of, within_memory
from expirespan.cli.config import (
    ALGORITHMS,
    BEST,
    CHECKPOINT,
    EVALUATION_SEED,
    TIMELINE_EVERY,
    Stages,
    TrainConfig,
    check_resumable,
    default_config,
    parse_stages,
    read_run,
    read_stages,
    steps_of,
    to_json,
)
from expirespan.cli.run_folder import CONFIGURATION, agreed, check_new, command, in_use, known, on_signals
from expirespan.cli.stages import Position, in_stage, position
from expirespan.cli.workers import check_rows, leave_one, run_workers, tell
from expirespan.envs import make_batched, make_viewed
from expirespan.envs.make import BrokenEnvironment
from expirespan.tab.recording import RecordEpisodes
from gymnasium.vector import VectorEnv
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter


def check_device(device: str) -> None:
    """Raise ValueError where there is no such device."""
    kind, _, number = device.partition(":")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and not (kind == "cuda" and gpus and number in ("", *map(str, range(gpus)))):
        raise ValueError(f"Expect `device` to be cpu, or cuda where there is a GPU, actual: {device!r}")


def load_model(
    run: Path, env: Any = None, device: str = "cpu", force_reset: bool = True, name: str = CHECKPOINT
) -> MemoryOnPolicyAlgorithm:
    """The agent of a run folder.  Raises FileNotFoundError where it has no such checkpoint yet."""
    return ALGORITHMS[read_run(run).algo].load(run / name, env=env, device=device, force_reset=force_reset)


def start_from(model: MemoryOnPolicyAlgorithm, run: Path, config: TrainConfig) -> None:
    """Give a new model the weights of another run's, and the unit of its values.

    Raises ValueError where they do not fit.
    """
    if (core := read_run(run).core) != config.core:
        raise ValueError(f"Expect `init_from` to be a run with the core {config.core}, actual: {core}")
    theirs, ours = options(read_run(run).memory), options(config.memory)
    if other := [name for name in ours if theirs[name] != ours[name]]:
        asked, actual = (", ".join(f"{name} {memory[name]}" for name in other) for memory in (ours, theirs))
        raise ValueError(f"Expect `init_from` to be a run with {asked}, actual: {actual}")
    tensors, document = read_checkpoint(run / CHECKPOINT)
    for name, space in zip(("observation_space", "action_space"), stored_spaces(document), strict=True):
        if getattr(model, name) != space:
            raise ValueError(f"Expect `init_from` to be a run with the {name} {getattr(model, name)}, actual: {space}")
    theirs, ours = document["arguments"]["normalize_observations"], model.normalize_observations
    if model.policy.measuring() and theirs != ours:  # the weights would read numbers of another scale
        raise ValueError(f"Expect `init_from` to be a run with normalize_observations {ours}, actual: {theirs}")
    weights = under("policy", tensors)
    if model.policy.time_value is not None:  # 0 at first, and not there in runs of older versions
        weights.setdefault("time_value.weight", model.policy.time_value.weight.detach())
    model.policy.load_state_dict(weights)
    model.reward_scale.adopt(document["reward_scale"])


def environments(config: TrainConfig) -> VectorEnv:
    """Those of this process."""
    rows = config.num_envs // processes.count()
    return make_batched(config.env, rows, parse_env_args(config.env_args), config.view_size)


def new_model(config: TrainConfig) -> MemoryOnPolicyAlgorithm:
    """An untrained agent in its environments."""
    return ALGORITHMS[config.algo](
        "MemoryPolicy",
        environments(config),
        seed=config.seed,
        device=processes.own_device(config.device or "cpu"),
        policy_kwargs={"core": config.core, "memory": config.memory},
        **asdict(config.learning) | asdict(config.pressure),
    )


def agent(stages: Stages, number: int, run: Path) -> MemoryOnPolicyAlgorithm:
    """The agent of a stage: the one of the checkpoint, or else a new one with the weights of the stage before."""
    config, at = stages[number - 1], position(run / CHECKPOINT)
    if at.stage == number:
        device = processes.own_device(config.device or "cpu")
        return load_model(run, environments(config), device, force_reset=False)
    model = new_model(config)
    source = run if at.stage else config.init_from
    if source is not None:
        start_from(model, source, config)
    if at.stage:
        model.stage, model.stage_began, model.num_timesteps = number, at.steps, at.steps
    return model


def check_stages(stages: Stages) -> None:
    """Raise ValueError where a later stage can't be trained as it stands, or not with the network of the first."""
    wanted: dict[str, Any] = {}
    if len(stages) == 1:  # what is wrong with it shows as it begins
        return
    for number, config in enumerate(stages, 1):
        with in_stage(number):
            model = new_model(config)
            assert model.env is not None
            model.env.close()
            found = {
                "observation space": model.observation_space,
                "action space": model.action_space,
                "kinds of observations": model.policy.observations,
            }
            wanted = wanted or found
            for name, theirs in found.items():
                if theirs != wanted[name]:
                    raise ValueError(f"Expect `env` to have the {name} {wanted[name]} of stage 1, actual: {theirs}")


def resumed(asked: TrainConfig, run: Path) -> Stages:
    """The stages of a run folder, for as many steps, on the device and with as many recordings as are asked for.

    Raises ValueError where anything else is, or fewer steps than those before the last stage.
    """
    plain = options(default_config([]))
    check_resumable([name for name, value in options(asked).items() if name not in plain or value != plain[name]])
    *earlier, last = read_stages(run)
    if asked.total_steps is not None:
        at = position(run / CHECKPOINT)
        before = at.began if at.stage == len(earlier) + 1 else sum(steps_of(earlier))
        if asked.total_steps <= before:
            said = f"more than {before}, the steps before the last stage"
            raise ValueError(f"Expect `total_steps` to be {said}, actual: {asked.total_steps}")
        last = replace(last, total_steps=asked.total_steps - before)
    again: dict[str, Any] = {} if asked.timeline_every is None else {"timeline_every": asked.timeline_every}
    return tuple(replace(stage, device=asked.device or stage.device, **again) for stage in (*earlier, last))


def new_folder(config: TrainConfig) -> Path:
    """The folder of a new run.  Raises ValueError where it holds anything."""
    return check_new(config.out or Path("runs") / f"{config.env.rsplit('/')[-1]}-{datetime.now():%Y%m%d-%H%M%S}")


class Events(TensorBoardOutputFormat):
    """SB3's TensorBoard output, less the events past the steps at which a run that was killed goes on.

    `steps` is None for a new run.  Training goes on where events can't be written.
    """

    def __init__(self, run: Path, steps: int | None) -> None:  # SB3's would begin a file that stays empty
        self.writer = SummaryWriter(str(run), purge_step=None if steps is None else steps + 1)
        self._is_closed = self._failed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write what was logged; from the first failure on nothing, which is said once."""
        if self._failed:
            return
        try:
            super().write(key_values, key_excluded, step)
        except OSError as error:
            self._failed = True
            said = "training goes on, its curves end here"
            print(f"TensorBoard's events can't be written at {step:,} steps, {said}: {error}", file=sys.stderr)


class StoppedByEnvironment(Exception):
    """Training stopped since something raised an error that is not of this project: its environment, most likely."""


def train(*stages: TrainConfig) -> int | None:
    """Train through these stages (`parse_stages`), one for a plain run, or go on training.

    Returns the number of the signal that stopped it, None at its end.  Raises ValueError, before any training, where a
    stage can't be trained or not after the ones before, or where another training goes on in the folder; later, too,
    where there is no memory for it.  Several processes (processes.py) train one agent.
    """
    if (resume := stages[0].resume) is not None:
        stages = resumed(stages[0], resume)
    earlier = known(resume, stages[-1].out)
    run = earlier or agreed(partial(new_folder, stages[-1]))
    for stage in stages:
        check_rows("num_envs", stage.num_envs, processes.count())
    check_device(stages[0].device or "cpu")
    torch.set_num_threads(stages[0].threads)
    with ExitStack() as held, within_memory(sizes_of(stages[-1])):
        # Before its checkpoint is read, which another training may be about to replace.
        if earlier and not processes.rank():
            held.enter_context(in_use(run))
        return train_in(run, stages, held, resumes=earlier is not None)


def train_in(run: Path, stages: Stages, held: ExitStack, resumes: bool) -> int | None:
    """`train` in a folder, which is kept from other processes until `held` is closed."""
    at = position(run / CHECKPOINT)
    number = at.next_stage(steps_of(stages))
    if number > len(stages):
        tell(f"{run} has already trained for {at.steps} steps; ask for more with --total-steps")
        return None
    if not at.stage:
        check_stages(stages)
        if resumes:
            tell(f"{run} holds no checkpoint: training begins anew, at step 0")
    model = agent(stages, number, run)
    if first := processes.rank() == 0:
        if not resumes:
            held.enter_context(in_use(run))
        replace_file(run / CONFIGURATION, lambda path: path.write_text(to_json(stages)))
    tell_what_differs(model, at, stages[number - 1].env if at.stage == number else "")
    saving = CheckpointCallback(run / CHECKPOINT, run / BEST, stages[0].checkpoint_every)
    logger = Logger(str(run), [Events(run, model.num_timesteps if resumes else None)] if first else [])
    with on_signals(saving.stop.interrupt), telling_how_to_go_on(run):
        processes.gathered(None)  # from now on a signal to any of them is heard by all
        tell(f"Training into {run}; watch it with: {command('tensorboard')} --logdir {quote(str(run))}")
        progress = train_stage(model, stages, number, saving, logger)
        while number < len(stages) and not saving.stop.agree():
            number += 1
            model = agent(stages, number, run)
            progress = train_stage(model, stages, number, saving, logger)
    saving.stopped = saving.stopped or number < len(stages)  # or asked to in the last rollout of a stage
    if first:
        print(*closing_lines(run, saving, progress), sep="\n")
    return saving.stop.signal if saving.stopped else None


def tell_what_differs(model: MemoryOnPolicyAlgorithm, at: Position, env: str) -> None:
    """Say where training goes on from this position otherwise than it would have without an interruption.

    `env` is the environment that its episodes were of; "" where others begin.
    """
    inexactly = "so that what follows is not what an uninterrupted run would have done"
    if env and model._last_obs is None:
        why = f"{env} can't restore where its episodes stood"
        if at.processes != processes.count():
            why = f"another number of processes than {at.processes} can't go on with theirs"
        tell(f"Training goes on from {at.steps:,} steps with new episodes: {why}, {inexactly}")
    if (threads := torch.get_num_threads()) != (at.threads or threads):
        said = f"with {threads} threads of torch instead of {at.threads}, which add up in another order"
        tell(f"Training goes on from {at.steps:,} steps {said}, {inexactly}")


@contextmanager
def telling_how_to_go_on(run: Path) -> Iterator[None]:
    """Let an error in training say what is saved and how to go on from there."""
    try:
        yield
    except Exception as error:
        hint = f"Training stopped. {how_to_go_on(run)}"
        if foreign_place(error):
            raise StoppedByEnvironment(hint) from error
        tell(hint, file=sys.stderr)
        raise


def train_stage(
    model: MemoryOnPolicyAlgorithm, stages: Stages, number: int, saving: CheckpointCallback, logger: Logger
) -> ProgressCallback:
    """Train what is left of a stage, or until a signal, and save.  Returns what can tell how it went."""
    config, (*_, total) = stages[number - 1], steps_of(stages[:number])
    name = f"stage {number} of {len(stages)}" if len(stages) > 1 else ""
    if name:
        tell(f"{name.capitalize()}: {config.env} {' '.join(config.env_args)}".rstrip() + f", {total:,} steps")
    model.set_logger(logger)
    progress = ProgressCallback(total, name)
    left = model.stage_began + total - model.num_timesteps
    beside = [*recording(model, config), progress] if processes.rank() == 0 else []
    try:
        model.learn(left, callback=[saving, *beside], reset_num_timesteps=False)
    finally:
        progress.close()
    assert model.env is not None
    model.env.close()
    if not saving.stopped:
        logger.dump(model.num_timesteps)
        saving.save()
    return progress


def recording(model: MemoryOnPolicyAlgorithm, config: TrainConfig) -> list[RecordEpisodes]:
    """What records episodes for TensorBoard, if it is asked for and the core keeps memories of single steps."""
    every = TIMELINE_EVERY if config.timeline_every is None else config.timeline_every
    if not every or not model.policy.core.keeps_memories:
        return []
    env = partial(make_viewed, config.env, parse_env_args(config.env_args), config.view_size)
    return [RecordEpisodes(env, every, EVALUATION_SEED + config.seed)]


def closing_lines(run: Path, saving: CheckpointCallback, progress: ProgressCallback) -> Iterator[str]:
    """Where training stands and what can be done next."""
    steps, folder, again_by = saving.saved_at, quote(str(run)), command("expirespan-train")
    where = f", in {progress.title}" if progress.title else ""
    if saving.stopped:
        yield f"Stopped and saved at {steps:,} steps{where}; go on with: {again_by} --resume {folder}"
    else:
        yield f"Trained for {steps:,} steps{where}"
    yield from progress.closing_lines()
    yield "Next:"
    yield f"  {command('expirespan-evaluate')} {folder} --memory-report --timeline   # what it earns and what it keeps"
    yield f"  {command('tensorboard')} --logdir {folder}   # curves, and the Memory tab with recorded episodes"
    if not saving.stopped:
        again = "as many steps again" + (", all of them of the last stage" if where else "")
        yield f"  {again_by} --resume {folder} --total-steps {2 * steps}   # {again}"


def workers_of(stages: Stages) -> int:
    """The processes that are asked for on this machine: of a resumed run those that trained it, else 1."""
    config = stages[0]
    before = 1 if config.resume is None else position(config.resume / CHECKPOINT).processes
    return config.workers or before


def train_in_workers(stages: Stages, args: list[str], workers: int) -> None:
    """Train in several processes on this machine.  Raises ValueError where what is asked for can't be shared out."""
    for stage in stages:
        check_rows("num_envs", stage.num_envs, workers)
    if (run := stages[0].resume) is None:
        run = new_folder(stages[-1])
        args = [*args, "--out", str(run)]
    run_workers("expirespan-train", "expirespan.train_agent", args, workers, run, how_to_go_on)


def how_to_go_on(run: Path) -> str:
    """What of an interrupted training is saved, and the command that goes on from there."""
    steps = position(run / CHECKPOINT).steps
    saved = f"Its checkpoint is of {steps:,} steps" if steps else "There is no checkpoint yet"
    return f"{saved}; go on with: {command('expirespan-train')} --resume {quote(str(run))}"


def main(args: list[str] | None = None) -> None:
    """The command line: parse, train, and turn errors about arguments into one line.

    Exits with 128 and the number of the signal where one stopped the training, which is saved; with 130 for a Ctrl-C
    before it begins or after it was saved.
    """
    asked = sys.argv[1:] if args is None else args
    try:
        stages = parse_stages(asked)
        if (workers := workers_of(stages)) > 1 and not processes.launched():
            train_in_workers(stages, asked, workers)
            return
        with processes.joined_by_torchrun():
            stopped = train(*stages)
    except KeyboardInterrupt:
        print("expirespan-train: interrupted", file=sys.stderr)
        sys.exit(130)
    except StoppedByEnvironment as error:
        traceback.print_exception(error.__cause__)
        sys.exit(str(error))
    except processes.OthersEnded:  # whoever started them says which
        sys.exit(1)
    except (ValueError, TypeError, OSError, BrokenEnvironment) as error:
        leave_one("expirespan-train", error)
    else:
        processes.leave(0 if stopped is None else 128 + stopped)
        if stopped is not None:
            sys.exit(128 + stopped)


if __name__ == "__main__":
    main()
