"""Evaluate the agent of a run folder: what it earns, what it keeps, and whether it keeps the right things."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import torch
import tyro
from expirespan.agents.learn.on_policy import MemoryOnPolicyAlgorithm
from expirespan.agents.policy import MemoryActorCriticPolicy
from expirespan.agents.vec_env import seen_by_policies
from expirespan.analysis import storage
from expirespan.analysis.evaluation import MAX_STEPS, check_keeps_memories, evaluate_policy
from expirespan.analysis.figures import as_json, figure_lines
from expirespan.analysis.frames import AgentView
from expirespan.analysis.inspection import Inspection, inspect_memory, inspection_lines, side_by_side
from expirespan.analysis.inspection import as_json as inspection_as_json
from expirespan.analysis.interventions import check_editable, cut_spans, forget_steps
from expirespan.analysis.pictures.curves import save_curves
from expirespan.analysis.pictures.filmstrip import save_episode_gif, save_filmstrip
from expirespan.analysis.pictures.timeline import save_timeline
from expirespan.analysis.play import Episode, Task, play_episode
from expirespan.checks import check_not_negative, check_whole
from expirespan.cli.arguments import check_target, leave, parse_env_args, read
from expirespan.cli.config import BEST, CHECKPOINT, EVALUATION_SEED, TrainConfig, budget_of, read_run
from expirespan.cli.evaluate_sequence import evaluate_run, is_sequence_run
from expirespan.envs import make_viewed
from expirespan.envs.make import BrokenEnvironment, step_limit
from expirespan.tab.summary import write_episode
from expirespan.train_agent import check_device, load_model
from gymnasium.vector import VectorEnv
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

WITHOUT_LIMIT = 10_000
"""Steps after which an episode is cut off where the environment names no limit."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate the agent of a run folder."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of expirespan-train."""
    episodes: int = 1000
    """Episodes to play."""
    seed: int = EVALUATION_SEED
    """Environment i is seeded with seed + i; training uses seeds from its own --seed on."""
    best: bool = False
    """Of the checkpoints of RUN, take the one whose latest 100 training episodes earned most, instead of the last, and
    so of the run that it is compared with.  It may hold more memories than a budget asks for."""
    sample: bool = False
    """Draw actions from the policy instead of taking the likeliest."""
    num_envs: int = 64
    """Environments stepped side by side."""
    env: str | None = None
    """Another environment than the one trained on, with the same observations and actions."""
    env_args: tuple[str, ...] = ()
    """Arguments of that environment, as NAME=VALUE."""
    max_episode_steps: int | None = None
    """Episodes that take so many steps are cut off and counted.  None for 100,000, or for 10,000 where the environment
    names no limit of its own: a greedy agent may walk in circles for ever."""
    device: str = "cpu"
    """Where the policy lives: cpu or cuda."""
    threads: int = 1
    """Threads of torch on the CPU."""
    json: Path | None = None
    """Write the figures to this file."""
    timeline: bool = False
    """Write RUN/timeline.png: the episode of --seed, with what each layer kept and for how long."""
    gif: bool = False
    """Write RUN/episode.gif: the same episode, with the frames it still remembers."""
    filmstrip: int | None = None
    """Write RUN/filmstrip.png: the frames that it still remembers at this step of that episode."""
    curves: bool = False
    """Write RUN/training.png: score and live memories over training."""
    memory_report: bool = False
    """Print what is kept, what decisions depend on, and what becomes of them once the memory is changed."""
    compare: Path | None = None
    """Another run folder: print the memory reports of both side by side, and draw both into RUN/training.png."""
    cut_span: float | None = None
    """Clamp all spans to this many steps first: what was written is gone this long after, plus the ramp.
    Concerns RUN alone, not what it is compared with."""
    forget: tuple[int, ...] = ()
    """Delete what was written at these steps of an episode before a later step can see it.  For the figures alone:
    pictures, recordings and reports show the agent as it is."""
    record: int = 0
    """Play this many episodes one by one, the first the one of the pictures, and write what the agent kept of each to
    RUN/episodes/SEED.npz."""
    attention: bool = False
    """Record also what each step attended to."""

    def __post_init__(self) -> None:
        for name in ("episodes", "num_envs", "threads"):
            check_whole(name, getattr(self, name), at_least=1)
        if self.max_episode_steps is not None:
            check_whole("max_episode_steps", self.max_episode_steps, at_least=1)
        for name in ("seed", "record"):
            check_whole(name, getattr(self, name), at_least=0)
        if self.filmstrip is not None:
            check_whole("filmstrip", self.filmstrip, at_least=0)
        for step in self.forget:
            check_whole("forget", step, at_least=0)
        if self.cut_span is not None:
            check_not_negative("cut_span", self.cut_span)
        self._check_combinations()
        parse_env_args(self.env_args)

    @property
    def checkpoint(self) -> str:
        """The file of a run that is evaluated."""
        return BEST if self.best else CHECKPOINT

    def _check_combinations(self) -> None:
        others = ("timeline", "gif", "filmstrip", "memory_report", "compare", "record")
        if self.forget and (asked := [name for name in others if getattr(self, name) != getattr(type(self), name)]):
            raise ValueError(f"Expect `forget` without what would not show it, actual: with {', '.join(asked)}")
        if (self.memory_report or self.compare is not None) and self.episodes < 2:
            raise ValueError(f"Expect `memory_report` to come with at least 2 `episodes`, actual: {self.episodes}")
        if self.compare is not None and self.compare.resolve() == self.run.resolve():
            raise ValueError(f"Expect `compare` to be another run folder than `run`, actual: {self.compare}")
        if self.attention and not self.record:
            raise ValueError("Expect `attention` to come with `record`, actual: record 0")
        if self.env_args and self.env is None:
            raise ValueError(f"Expect `env_args` to come with `env`, actual: {' '.join(self.env_args)}")


def check_surroundings(config: EvaluateConfig) -> None:
    """Raise ValueError where a device, run or folder that will be needed is not there."""
    check_device(config.device)
    if config.compare is not None:
        read_run(config.compare)
        if not (config.compare / config.checkpoint).is_file():
            raise ValueError(f"Expect `compare` to be a run with a {config.checkpoint}, actual: {config.compare}")
    if config.json is not None:
        check_target("json", config.json)


def check_spaces(policy: MemoryActorCriticPolicy, env: VectorEnv, compared: Path | None = None) -> None:
    """Raise ValueError where an agent, which may be that of the run compared with, can't play in an environment."""
    seen = seen_by_policies(env.single_observation_space, policy.observations)
    for name, ours in (("observation", seen), ("action", env.single_action_space)):
        theirs = getattr(policy, f"{name}_space")
        if ours != theirs and compared is not None:
            said = f"to be a run with the {name} space {ours}, actual: {compared} with {theirs}"
            raise ValueError(f"Expect `compare` {said}")
        if ours != theirs:
            raise ValueError(f"Expect `env` to have the {name} space {theirs}, actual: {ours}")


def task_of(config: EvaluateConfig, trained: TrainConfig) -> Task:
    """What the configuration asks to play.  Raises ValueError where its episodes can't give the pictures asked for."""
    env_id = config.env or trained.env
    env_args = parse_env_args(config.env_args if config.env else trained.env_args)
    env = make_viewed(env_id, env_args, trained.view_size)
    first, _ = env.reset(seed=config.seed)
    limit = step_limit(env)
    max_steps = config.max_episode_steps or (MAX_STEPS if limit is not None else WITHOUT_LIMIT)
    longest = min(max_steps, limit or max_steps)
    if config.filmstrip is not None and config.filmstrip >= longest:
        raise ValueError(
            f"Expect `filmstrip` to be less than {longest}, the most steps of an episode of {env_id}, "
            f"actual: {config.filmstrip}"
        )
    for name in ("gif", "filmstrip"):
        asked = getattr(config, name) not in (False, None)
        if asked and (env.render_mode != "rgb_array" if name == "gif" else AgentView(env)(first) is None):
            raise ValueError(f"Expect `{name}` with an environment that can be drawn, actual: {env_id}")
    env.close()
    return Task(env_id=env_id, env_args=env_args, view_size=trained.view_size, max_steps=max_steps)


def play(policy: MemoryActorCriticPolicy, config: EvaluateConfig, task: Task, env: gym.Env, seed: int) -> Episode:
    """Play and record one episode with all that the configuration asks to see of it."""
    return play_episode(
        policy,
        env,
        seed,
        not config.sample,
        task.max_steps,
        photographed=config.gif and seed == config.seed,
        attention=config.attention,
        frames=config.filmstrip is not None or config.record > 0,
    )


def play_first(policy: MemoryActorCriticPolicy, config: EvaluateConfig, task: Task) -> Episode | None:
    """The episode that all pictures show, if any are asked for.  Raises ValueError where it has no such step."""
    if not (config.timeline or config.gif or config.record or config.filmstrip is not None):
        return None
    env = task.viewed() if config.gif or config.record or config.filmstrip is not None else task.single()
    episode = play(policy, config, task, env, config.seed)
    env.close()
    steps = len(episode.trace.relevant)
    if config.filmstrip is not None and config.filmstrip >= steps:
        raise ValueError(
            f"Expect `filmstrip` to be less than {steps}, the steps of the episode of seed {config.seed}, "
            f"actual: {config.filmstrip}"
        )
    return episode


def draw(episode: Episode, config: EvaluateConfig, task: Task) -> Iterator[Path]:
    """Write the pictures asked for of one episode."""
    trace, run = episode.trace, config.run
    title = f"{task.env_id}: {len(trace.relevant)} steps, return {trace.rewards.sum():g}"
    if config.timeline:
        save_timeline(trace, run / "timeline.png", title)
        yield run / "timeline.png"
    if config.gif:
        save_episode_gif(trace, episode.scenes, episode.views, run / "episode.gif")
        yield run / "episode.gif"
    if config.filmstrip is not None:
        save_filmstrip(trace, config.filmstrip, run / "filmstrip.png", task.env_id)
        yield run / "filmstrip.png"


def record(first: Episode, model: MemoryOnPolicyAlgorithm, config: EvaluateConfig, task: Task) -> Iterator[Path]:
    """Write the episodes asked for, each into a file named by its seed and into TensorBoard's Memory tab.

    The first is at hand, the others are played.
    """
    env, folder = task.viewed(), config.run / "episodes"
    with SummaryWriter(str(folder)) as writer:
        for seed in range(config.seed, config.seed + config.record):
            episode = first if seed == first.seed else play(model.policy, config, task, env, seed)
            storage.save(episode.trace, folder / f"{seed}.npz")
            write_episode(writer, episode.trace, str(seed), model.num_timesteps)
            yield folder / f"{seed}.npz"
    env.close()


def _short_names(runs: list[Path]) -> dict[str, Path]:
    """The runs by the names of their folders, or by their paths where two are named alike."""
    names = {run.name: run for run in runs}
    return names if len(names) == len(runs) else {str(run): run for run in runs}


def report_memory(policy: MemoryActorCriticPolicy, config: EvaluateConfig, task: Task) -> dict[str, Any]:
    """Print the memory report of this agent, or that of two side by side.  Returns them by run."""

    def inspect(asked: MemoryActorCriticPolicy, run: Path) -> Inspection:
        budget, greedy = budget_of(read_run(run).pressure), not config.sample
        return inspect_memory(
            asked, task.single, task.batched, config.episodes, config.seed, greedy, budget, task.max_steps
        )

    found = {str(config.run): inspect(policy, config.run)}
    if config.compare is None:
        print("\n".join(inspection_lines(found[str(config.run)])))
    else:
        # On the same episodes, so that the two differ in nothing but the agent.
        other = load_model(config.compare, device=config.device, name=config.checkpoint).policy
        found[str(config.compare)] = inspect(other, config.compare)
        first, second = found
        print("\n".join(side_by_side(found[first], found[second], (first, second))))
    return {run: inspection_as_json(inspection) for run, inspection in found.items()}


def measure(policy: MemoryActorCriticPolicy, config: EvaluateConfig, task: Task) -> dict[str, Any]:
    """Play the episodes and return the figures."""
    env = task.batched(min(config.num_envs, config.episodes))
    check_spaces(policy, env)
    change = forget_steps(config.forget) if config.forget else None
    torch.manual_seed(config.seed)
    with tqdm(total=config.episodes, unit="episode", leave=False) as bar:
        result = evaluate_policy(
            policy, env, config.episodes, config.seed, not config.sample, bar.update, change, task.max_steps
        )
    env.close()
    return as_json(result)


def check_core(policy: MemoryActorCriticPolicy, config: EvaluateConfig) -> None:
    """Raise ValueError where what is asked for can't be had of the policy's core."""
    asked = {
        "timeline": config.timeline,
        "gif": config.gif,
        "filmstrip": config.filmstrip is not None,
        "record": config.record,
    }
    for option in (option for option, wanted in asked.items() if wanted):
        check_keeps_memories(policy, f"for `{option}`")
    if config.forget or config.memory_report or config.compare:
        check_editable(policy)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Play the episodes, print the report, write the files asked for.  Returns the figures."""
    trained = read_run(config.run)
    check_surroundings(config)
    torch.set_num_threads(config.threads)
    task = task_of(config, trained)
    model = load_model(config.run, device=config.device, name=config.checkpoint)
    check_core(model.policy, config)
    if config.cut_span is not None:
        model.policy = cut_spans(model.policy, config.cut_span)
    with closing(task.batched(1)) as env:
        check_spaces(model.policy, env)
        if config.compare is not None:  # before this run is played, which may take minutes
            other = load_model(config.compare, device=config.device, name=config.checkpoint).policy
            check_spaces(other, env, config.compare)
    first = play_first(model.policy, config, task)
    made = {
        "run": str(config.run),
        "steps": model.num_timesteps,
        "env": task.env_id,
        "max_episode_steps": task.max_steps,
    }
    summary = made | {"seed": config.seed, "greedy": not config.sample} | measure(model.policy, config, task)
    print("\n".join(figure_lines(summary)))
    if config.memory_report or config.compare:
        summary["memory_report"] = report_memory(model.policy, config, task)
    if config.json is not None:
        config.json.write_text(json.dumps(summary, indent=2) + "\n")
        print(f"wrote {config.json}")
    for path in files(first, model, config, task):
        print(f"wrote {path}")
    return summary


def files(first: Episode | None, model: MemoryOnPolicyAlgorithm, config: EvaluateConfig, task: Task) -> Iterator[Path]:
    """Write the pictures and recordings asked for."""
    if first is not None:
        if first.trace.episode_end == "truncated" and len(first.trace.relevant) == task.max_steps:
            print(f"the episode of seed {first.seed} was cut off after {task.max_steps:,} steps")
        yield from draw(first, config, task)
    if config.curves:
        runs = [config.run] if config.compare is None else [config.run, config.compare]
        save_curves(_short_names(runs), config.run / "training.png")
        yield config.run / "training.png"
    if first is not None and config.record:
        yield from record(first, model, config, task)


def main(args: list[str] | None = None) -> None:
    """The command line: parse, evaluate, and turn errors about arguments into one line."""
    args = sys.argv[1:] if args is None else args
    try:
        if is_sequence_run(args):
            evaluate_run(args, check_device)
        else:
            evaluate(read(EvaluateConfig, args, "expirespan-evaluate"))
    except (ValueError, TypeError, OSError, BrokenEnvironment) as error:
        leave("expirespan-evaluate", error)
    except KeyboardInterrupt:
        print("expirespan-evaluate: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
