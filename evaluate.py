"""Evaluate the agent of a run folder: what it earns, what it keeps, and whether it keeps the right things."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from expirespan.agents.evaluation import Evaluation, evaluate_policy, record_episode
from expirespan.agents.inspection import Inspection, as_json, inspect_memory, inspection_lines, side_by_side
from expirespan.agents.interventions import cut_spans, forget_steps
from expirespan.agents.on_policy import MemoryOnPolicyAlgorithm
from expirespan.agents.policy import MemoryActorCriticPolicy
from expirespan.agents.vec_env import seen_by_policies
from expirespan.envs import make_batched, make_single, make_viewed
from expirespan.memory import storage
from expirespan.memory.analysis import mean_interval, share_interval
from expirespan.memory.checks import check_not_negative, check_whole
from expirespan.memory.curves import save_curves
from expirespan.memory.filmstrip import save_episode_gif, save_filmstrip
from expirespan.memory.tab.summary import write_episode
from expirespan.memory.timeline import save_timeline
from expirespan.train_agent import (
    BEST,
    CHECKPOINT,
    EVALUATION_SEED,
    TrainConfig,
    check_device,
    load_model,
    parse_env_args,
    read_run,
)
from gymnasium.vector import VectorEnv
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


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
    """Of the checkpoints of RUN, take the one whose latest 100 training episodes earned most, instead of the last.  It
    may hold more memories than a budget asks for."""
    sample: bool = False
    """Draw actions from the policy instead of taking the likeliest."""
    num_envs: int = 64
    """Environments stepped side by side."""
    env: str | None = None
    """Another environment than the one trained on, with the same observations and actions."""
    env_args: tuple[str, ...] = ()
    """Arguments of that environment, as NAME=VALUE."""
    device: str = "cpu"
    """Where the policy lives: cpu or cuda."""
    threads: int = 1
    """Threads of torch on the CPU."""
    json: Path | None = None
    """Write the figures to this file."""
    timeline: bool = False
    """Write RUN/timeline.png: one episode, with what each layer kept and for how long."""
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
    """Play this many more episodes one by one and write what the agent kept of each to RUN/episodes/SEED.npz."""
    attention: bool = False
    """Record also what each step attended to."""

    def __post_init__(self) -> None:
        for name in ("episodes", "num_envs", "threads"):
            check_whole(name, getattr(self, name), at_least=1)
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

    def _check_combinations(self) -> None:
        others = ("timeline", "gif", "filmstrip", "memory_report", "compare", "record")
        if self.forget and (asked := [name for name in others if getattr(self, name) != getattr(type(self), name)]):
            raise ValueError(f"Expect `forget` without what would not show it, actual: with {', '.join(asked)}")
        if (self.memory_report or self.compare is not None) and self.episodes < 2:
            raise ValueError(f"Expect `memory_report` to come with at least 2 `episodes`, actual: {self.episodes}")
        if self.compare is not None and self.compare == self.run:
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
    if config.json is not None and not config.json.parent.is_dir():
        raise ValueError(f"Expect `json` to be a file in an existing folder, actual: {config.json}")


def nice_bins(lengths: np.ndarray, most: int = 5) -> list[tuple[int, int]]:
    """At most `most` bins with round limits over whole lengths, as (first, last), both included."""
    low, high = int(lengths.min()), int(lengths.max())
    steps = (int(base * 10**power) for power in range(10) for base in (1, 2, 2.5, 5) if base * 10**power >= 1)
    width = next(step for step in steps if math.ceil(high / step) - (low - 1) // step <= most)
    return [(first + 1, first + width) for first in range((low - 1) // width * width, high, width)]


def summarize(result: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation, as JSON knows them."""
    successes = result.successes
    summary: dict[str, Any] = {
        "episodes": len(successes),
        "mean_return": dict(zip(("mean", "low", "high"), mean_interval(result.returns), strict=True)),
        "success": dict(
            zip(("mean", "low", "high"), share_interval(int(successes.sum()), len(successes)), strict=True)
        ),
        "mean_steps": float(result.steps.mean()),
        "outcomes": {name: float(values.mean()) for name, values in result.outcomes.items()},
        "keeping_everything": float(result.everything.mean()),
        "steps_per_second": result.steps_per_second,
        "layers": [
            {
                "live_mean": float(live.mean()),
                "live_p95": float(np.percentile(live, 95)),
                "live_max": int(live.max()),
                "evictions": int(evictions),
                "retention_score": None if math.isnan(score) else float(score),
            }
            for live, evictions, score in zip(result.live.T, result.evictions, result.retention, strict=True)
        ],
    }
    lengths = result.outcomes.get("length")
    if lengths is not None:
        bins = ((first, last, (lengths >= first) & (lengths <= last)) for first, last in nice_bins(lengths))
        summary["success_by_length"] = [
            {"from": first, "to": last, "episodes": int(chosen.sum()), "success": float(successes[chosen].mean())}
            for first, last, chosen in bins
            if chosen.any()
        ]
    return summary


def report(summary: dict[str, Any]) -> Iterator[str]:
    """The figures as lines to read."""
    reward, success = summary["mean_return"], summary["success"]
    yield f"episodes          {summary['episodes']}, {summary['mean_steps']:.1f} steps each on average"
    yield f"mean return       {reward['mean']:.3f}  (95 % interval {reward['low']:.3f} to {reward['high']:.3f})"
    yield f"success           {success['mean']:.1%}  (95 % interval {success['low']:.1%} to {success['high']:.1%})"
    for name, mean in summary["outcomes"].items():
        yield f"{name.replace('_', ' '):17} {mean:.3g} on average"
    for row in summary.get("success_by_length", []):
        yield f"  length {row['from']:>5} to {row['to']:<5} {row['success']:7.1%}  of {row['episodes']} episodes"
    yield "memory            live mean   p95   max   evictions   retention score"
    for number, layer in enumerate(summary["layers"], 1):
        score = "-" if layer["retention_score"] is None else f"{layer['retention_score']:.3f}"
        live = f"{layer['live_mean']:9.1f} {layer['live_p95']:5.0f} {layer['live_max']:5d}"
        yield f"  layer {number}         {live} {layer['evictions']:11d}   {score:>15}"
    yield f"  everything      {summary['keeping_everything']:9.1f}"
    yield f"steps per second  {summary['steps_per_second']:.0f}"


def check_spaces(policy: MemoryActorCriticPolicy, env: VectorEnv) -> None:
    """Raise ValueError where an agent can't play in an environment."""
    seen = seen_by_policies(env.single_observation_space, policy.observations)
    for name, ours in (("observation", seen), ("action", env.single_action_space)):
        theirs = getattr(policy, f"{name}_space")
        if ours != theirs:
            raise ValueError(f"Expect `env` to have the {name} space {theirs}, actual: {ours}")


def draw_episode(
    policy: MemoryActorCriticPolicy,
    config: EvaluateConfig,
    env_id: str,
    env_args: dict[str, Any],
    view_size: int | None,
) -> Iterator[Path]:
    """Play one episode and write the pictures asked for."""
    env = make_single(env_id, env_args, view_size, render_mode="rgb_array" if config.gif else None)
    scenes: list[np.ndarray] = []
    views: list[np.ndarray] = []

    def photograph() -> None:
        scene: Any = env.render()
        scenes.append(scene)
        pov = getattr(env.unwrapped, "get_pov_render", None)
        views.append(scene if pov is None else pov(16))

    trace = record_episode(policy, env, config.seed, not config.sample, photograph if config.gif else lambda: None)
    env.close()
    if config.timeline:
        title = f"{env_id}: {len(trace.relevant)} steps, return {trace.rewards.sum():g}"
        save_timeline(trace, config.run / "timeline.png", title)
        yield config.run / "timeline.png"
    if config.gif:
        save_episode_gif(trace, scenes, views, config.run / "episode.gif")
        yield config.run / "episode.gif"


def draw_more(
    policy: MemoryActorCriticPolicy,
    config: EvaluateConfig,
    env_id: str,
    env_args: dict[str, Any],
    view_size: int | None,
) -> Iterator[Path]:
    """Write the filmstrip and the curves of training, where asked for."""
    if config.filmstrip is not None:
        env = make_viewed(env_id, env_args, view_size)
        trace = record_episode(policy, env, config.seed, not config.sample, frames=True)
        env.close()
        save_filmstrip(trace, config.filmstrip, config.run / "filmstrip.png", env_id)
        yield config.run / "filmstrip.png"
    if config.curves:
        runs = [config.run] if config.compare is None else [config.run, config.compare]
        save_curves(_short_names(runs), config.run / "training.png")
        yield config.run / "training.png"


def _short_names(runs: list[Path]) -> dict[str, Path]:
    """The runs by the names of their folders, or by their paths where two are named alike."""
    names = {run.name: run for run in runs}
    return names if len(names) == len(runs) else {str(run): run for run in runs}


def report_memory(
    policy: MemoryActorCriticPolicy,
    config: EvaluateConfig,
    env_id: str,
    env_args: dict[str, Any],
    view_size: int | None,
    budget: int | None,
) -> dict[str, Any]:
    """Print the memory report of this agent, or that of two side by side.  Returns them by run."""

    def inspect(asked: MemoryActorCriticPolicy) -> Inspection:
        return inspect_memory(
            asked,
            lambda: make_single(env_id, env_args, view_size),
            lambda rows: make_batched(env_id, rows, env_args, view_size),
            config.episodes,
            config.seed,
            not config.sample,
            budget,
        )

    found = {str(config.run): inspect(policy)}
    if config.compare is None:
        print("\n".join(inspection_lines(found[str(config.run)])))
    else:
        # On the same episodes, so that the two differ in nothing but the agent.
        other = load_model(config.compare, device=config.device).policy
        played = make_batched(env_id, 1, env_args, view_size)
        check_spaces(other, played)
        played.close()
        found[str(config.compare)] = inspect(other)
        first, second = found
        print("\n".join(side_by_side(found[first], found[second], (first, second))))
    return {run: as_json(inspection) for run, inspection in found.items()}


def record_episodes(
    model: MemoryOnPolicyAlgorithm,
    config: EvaluateConfig,
    env_id: str,
    env_args: dict[str, Any],
    view_size: int | None,
) -> Iterator[Path]:
    """Play the episodes asked for; each goes to a file named by its seed, and into TensorBoard's Memory tab."""
    env = make_viewed(env_id, env_args, view_size)
    folder = config.run / "episodes"
    with SummaryWriter(str(folder)) as writer:
        for seed in range(config.seed, config.seed + config.record):
            trace = record_episode(model.policy, env, seed, not config.sample, attention=config.attention, frames=True)
            storage.save(trace, folder / f"{seed}.npz")
            write_episode(writer, trace, str(seed), model.num_timesteps)
            yield folder / f"{seed}.npz"
    env.close()


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Play the episodes, print the report, write the files asked for.  Returns the figures."""
    trained: TrainConfig = read_run(config.run)
    check_surroundings(config)
    torch.set_num_threads(config.threads)
    env_id = config.env or trained.env
    args = parse_env_args(config.env_args if config.env else trained.env_args)
    num_envs = min(config.num_envs, config.episodes)
    env = make_batched(env_id, num_envs, args, trained.view_size)
    model = load_model(config.run, device=config.device, name=BEST if config.best else CHECKPOINT)
    if config.cut_span is not None:
        model.policy = cut_spans(model.policy, config.cut_span)
    policy = model.policy
    check_spaces(policy, env)
    torch.manual_seed(config.seed)
    with tqdm(total=config.episodes, unit="episode", leave=False) as bar:
        change = forget_steps(config.forget) if config.forget else None
        result = evaluate_policy(policy, env, config.episodes, config.seed, not config.sample, bar.update, change)
    env.close()
    made = {"run": str(config.run), "steps": model.num_timesteps, "env": env_id}
    summary = made | {"seed": config.seed, "greedy": not config.sample} | summarize(result)
    print("\n".join(report(summary)))
    if config.memory_report or config.compare:
        asked = trained.pressure.memory_budget if model.pressure.has_budget else None
        budget = None if asked is None else max(1, math.floor(asked))
        summary["memory_report"] = report_memory(policy, config, env_id, args, trained.view_size, budget)
    if config.json is not None:
        config.json.write_text(json.dumps(summary, indent=2) + "\n")
        print(f"wrote {config.json}")
    if config.timeline or config.gif:
        for path in draw_episode(policy, config, env_id, args, trained.view_size):
            print(f"wrote {path}")
    for path in draw_more(policy, config, env_id, args, trained.view_size):
        print(f"wrote {path}")
    if config.record:
        for path in record_episodes(model, config, env_id, args, trained.view_size):
            print(f"wrote {path}")
    return summary


def main(args: list[str] | None = None) -> None:
    """The command line: parse, evaluate, and turn errors about arguments into one line."""
    try:
        evaluate(tyro.cli(EvaluateConfig, args=args, prog="expirespan-evaluate"))
    except (ValueError, TypeError, FileNotFoundError) as error:
        sys.exit(f"expirespan-evaluate: {error}")
    except KeyboardInterrupt:
        sys.exit("expirespan-evaluate: stopped before the end")


if __name__ == "__main__":
    main()
