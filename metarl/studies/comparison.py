"""Comparison of algorithms and controls on one family, at equal environment steps."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metarl.learners.config import Budget, FamilyRunConfig
from metarl.learners.learner import MetaLearner
from metarl.learners.maml import MAMLLearner
from metarl.learners.maml_config import MAMLConfig
from metarl.learners.presets import ALGORITHMS, CONTROLS, RL2, find_algorithm, shipped_options
from metarl.learners.registry import LEARNERS, make_learner
from metarl.maml.inner_loop import without_step_sizes
from metarl.outer.registry import options_of_others
from metarl.runs.folder import EVALUATION, read_evaluation, read_options
from metarl.runs.loading import expect_continues
from metarl.runs.lock import FolderLock
from metarl.runs.report import write_report
from metarl.runs.run import run
from metarl.runs.tensorboard import Charts, event_files, open_events
from metarl.studies.curves import Line, adaptation_curve, draw, read_run, write_figures
from metarl.studies.jobs import LOG, Job, expect_success, run_jobs
from metarl.support.errors import NonFiniteError, UsageError, expect_instance, expect_list, nearest
from metarl.support.files import expect_writable
from metarl.support.options import option
from metarl.support.types import Json
from metarl.tasks.family import expect_named, make_family

RATES = (3.0, 1.0, 0.3, 0.1, 0.03)
"""Step sizes among which the fine-tuning of a control chooses, as factors on --inner-lr."""
TUNING_TASKS = 20
FINE_TUNED = ("random", "pretrained")
"""Controls whose training does not depend on the step size of the adaptation."""
FINE_TUNED_LR = "fine_tuned_lr"
"""Entry of evaluation.json: the step size with which a control was fine-tuned."""
CHOSEN = (
    *("learner", "algorithm", "outer", "trials", "seed", "resume"),
    *("target", "patience", "time_limit"),  # the environment steps would differ
)
"""Options of a run that a comparison does not share, beside those of its own."""
CHANGE_NO_RESULT = MAMLConfig.changeable - {"test_later_lr"}


@dataclass(frozen=True)
class Comparison:
    """Compare algorithms and controls on one task family at equal environment steps."""

    family: str
    """Task family, MODULE:ID."""
    family_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Options of the family, alternating names and values."""
    preset: Literal["none", "tuned"] = "none"
    """`tuned` trains each algorithm and control with the options that the family ships for it, if
    there are some."""
    algorithms: tuple[str, ...] = ("maml-trpo",)
    """Algorithms, as `metarl algorithms` lists them; each has its own preset."""
    controls: tuple[str, ...] = ()
    """Controls: any of random, pretrained, oracle and rl2."""
    seeds: int = 3
    """Number of seeds: 1 to this number."""
    iterations: int = 100
    """Meta-updates of a run with one inner step; other runs have as many as fit in the same number
    of environment steps."""
    meta_batch_size: int = 20
    """Tasks per meta-iteration."""
    episodes: int = 20
    """Episodes of each task before adaptation, and again after each inner step."""
    horizon: int | None = None
    """Steps after which an episode is truncated; by default those of the family."""
    inner_lr: float | None = None
    """Step size of the inner loop for all algorithms; by default that of each preset. The controls
    random and pretrained are fine-tuned with the best of several step sizes around it, which is
    chosen on training tasks."""
    eval_tasks: int = 40
    """Held-out tasks per seed."""
    inner_steps: int = 3
    """Inner steps of the evaluation; for rl2, episodes of experience."""
    test_later_lr: float = 0.5
    """Factor on the step size of all inner steps after the first, as in Finn et al."""
    processes: int = 0
    """Runs at a time; 0 runs one per core."""
    run_dir: Path | None = None
    """Folder of the comparison, which holds the run folders; by default comparisons/FAMILY."""
    options: Json = field(default_factory=dict)
    """Further options of the runs, those of their configurations: `{"policy": "net:Net"}`. A run
    whose learner lacks one goes without it."""

    def __post_init__(self) -> None:
        """Checks every number and name.

        Raises:
            UsageError: an option is wrong; the message names it and what would be right.

        """
        expect_named(self.family)
        for name in ("seeds", "eval_tasks", "inner_steps", "iterations"):
            if getattr(self, name) < 1:
                raise UsageError(f"{option(name)} {getattr(self, name)} must be at least 1")
        if self.processes < 0:
            raise UsageError(f"--processes {self.processes} must be at least 0")
        for name in ("algorithms", "controls"):
            expect_list(getattr(self, name), option(name))
        known = (*CONTROLS, RL2)
        for name in self.controls:
            if name not in known:
                listed = f"{', '.join(known)}{nearest(name, known)}"
                raise UsageError(f"--controls {name} must be one of {listed}")
        algorithms = (*ALGORITHMS, *LEARNERS.announced())
        for name in self.algorithms:
            if name in known:
                raise UsageError(f"--algorithms {name} is a control: give --controls {name}")
            if name not in algorithms and ":" not in name:
                listed = f"{', '.join(algorithms)}{nearest(name, algorithms)}"
                raise UsageError(f"--algorithms {name} must be one of {listed}")
        if not self.names:
            raise UsageError(
                "--algorithms and --controls are both empty: name at least one of either"
            )
        for name in self.names:
            if self.names.count(name) > 1:
                raise UsageError(f"{name} is named more than once")
        for given in self.options:
            if given in CHOSEN or given in vars(self):
                raise UsageError(f"{option(given)}: a comparison chooses it for each run")
            for name in (ALGORITHMS | CONTROLS).keys() & self.names:
                if given in find_algorithm(name).options:
                    raise UsageError(f"{option(given)}: it is what makes {name}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all algorithms and controls."""
        return (*self.algorithms, *self.controls)

    @property
    def folder(self) -> Path:
        """`run_dir`, or a folder named after the family."""
        return Path(self.run_dir or Path("comparisons", self.family.rpartition(":")[2]))

    def run_folder(self, name: str, seed: int) -> Path:
        """The folder of one run."""
        return self.folder / name / f"seed-{seed}"

    def config_class(self, name: str) -> type[FamilyRunConfig]:
        """That of an algorithm, a control or a learner.

        Raises:
            UsageError: the learner does not train on task families.

        """
        if name in ALGORITHMS | CONTROLS:
            return MAMLConfig
        config_class = LEARNERS.find(name).Config
        if not issubclass(config_class, FamilyRunConfig):
            raise UsageError(f"{name} cannot be compared: it does not train on task families")
        return config_class

    def option_names(self, name: str) -> set[str]:
        """The options that the runs of an algorithm, a control or a learner have."""
        names = {field.name for field in dataclasses.fields(self.config_class(name))}
        if name in ALGORITHMS | CONTROLS:
            outer = find_algorithm(name).options.get("outer", MAMLConfig.outer)
            names -= options_of_others(outer).keys()
        return names

    def expect_option(self, given: str) -> None:
        """Checks that a run of the comparison has the option.

        Raises:
            UsageError: none has.

        """
        known = {n for name in self.names for n in self.option_names(name)}
        if given not in known:
            hint = nearest(given, known | vars(self).keys())
            raise UsageError(f"no run of the comparison has an option {option(given)}{hint}")

    def config(self, name: str, seed: int) -> FamilyRunConfig:
        """The configuration of one run; `name` is an algorithm, a control or a learner."""
        config_class = self.config_class(name)
        tuned: Mapping[str, Any] = {}
        if self.preset == "tuned":
            family = make_family(self.family, 1, **self.family_options)
            tuned = shipped_options(family, name)
        shared: Json = {
            "family": self.family,
            "family_options": self.family_options,
            "horizon": self.horizon,
            "seed": seed,
            "threads": 1,
            "eval_every": 0,
            "run_dir": self.run_folder(name, seed),
            "resume": True,
            "preset": self.preset if tuned else "none",
            **{n: value for n, value in self.options.items() if n in self.option_names(name)},
        }
        tasks = self.meta_batch_size * self.episodes
        if config_class is not MAMLConfig:
            budget = Budget(2 * self.iterations * tasks, tasks, self.inner_steps + 1)
            return config_class.at_budget(budget, learner=name, **shared)
        preset = {**find_algorithm(name).options, **tuned}
        stages = 1 + preset.get("inner_steps", 1)
        if self.inner_lr is not None:
            shared["inner_lr"] = self.inner_lr
        sizes: Json = {
            "iterations": 0 if name == "random" else max(1, 2 * self.iterations // stages),
            "meta_batch_size": self.meta_batch_size,
            "episodes": self.episodes,
            "test_later_lr": self.test_later_lr,
        }
        return MAMLConfig.of(name, **(shared | sizes))


def compare(comparison: Comparison) -> list[Line]:
    """Trains and evaluates all runs that are not finished yet; returns a line for each name.

    Writes comparison.png, .pdf, .csv and TensorBoard events to the folder.

    Raises:
        UsageError: see `train_runs`.

    """
    expect_instance(comparison, Comparison, "metarl.compare takes a metarl.Comparison")
    seeds = range(1, comparison.seeds + 1)
    train_runs(comparison, [(name, seed) for name in comparison.names for seed in seeds])
    lines = [
        Line(name, [read_run(comparison.run_folder(name, seed)) for seed in seeds])
        for name in comparison.names
    ]
    write_figures(lines, comparison.folder / "comparison", comparison.family)
    _write_page(comparison, lines)
    return lines


def train_runs(comparison: Comparison, runs: Sequence[tuple[str, int]]) -> None:
    """Trains and evaluates those of `runs`, names and seeds, that are not finished yet.

    Each has a process of its own. SIGINT, SIGTERM and SIGHUP end every run with a checkpoint;
    another call with the same comparison continues from there.

    Raises:
        UsageError: a run cannot begin, or it failed; the other runs are finished first.

    """
    for name, seed in runs:  # reports wrong options before hours of work
        comparison.config(name, seed)
    for given in comparison.options:
        comparison.expect_option(given)
    comparison = with_horizon(comparison)
    for name, seed in runs:  # and one of another comparison, before its other runs are mixed in
        expect_continues(comparison.run_folder(name, seed), comparison.config(name, seed))
    jobs: dict[Job, tuple[str, int]] = {}
    for name, seed in runs:
        folder = comparison.run_folder(name, seed)
        with expect_writable(folder, "run folder"):
            folder.mkdir(parents=True, exist_ok=True)
        arguments = (comparison, name, seed)
        jobs[Job(f"{name}, seed {seed}", outcome, arguments, folder / LOG)] = name, seed
    processes = comparison.processes
    codes = run_jobs(list(jobs), lambda job: is_finished(comparison, *jobs[job]), processes)
    expect_success(codes)


def with_horizon(comparison: Comparison) -> Comparison:
    """The comparison with the horizon of its family, which its runs name, if it has none."""
    family = make_family(comparison.family, comparison.horizon, **comparison.family_options)
    return dataclasses.replace(comparison, horizon=family.horizon)


def outcome(comparison: Comparison, name: str, seed: int) -> None:
    """Trains one run from where it stopped, and evaluates it.

    Raises:
        InUseError: another process does that.

    """
    config = comparison.config(name, seed)
    # That of the run ends with the training.
    lock = FolderLock(config.run_folder, "comparison.lock")
    try:
        _train_and_evaluate(comparison, name, config)
    finally:
        lock.release()


def _train_and_evaluate(comparison: Comparison, name: str, config: FamilyRunConfig) -> None:
    learner = make_learner(config)
    assert isinstance(learner, MetaLearner)
    run(learner)
    # If this process is stopped, an earlier evaluation must not count as that of this run.
    (config.run_folder / EVALUATION).unlink(missing_ok=True)
    about: dict[str, float] = {}
    if name in FINE_TUNED:
        assert isinstance(learner, MAMLLearner)
        about[FINE_TUNED_LR] = tune(learner, comparison.inner_steps)
    steps = comparison.inner_steps if learner.adapts else 0
    evaluation = learner.evaluate(comparison.eval_tasks, steps)
    write_report(config.run_folder, learner, [evaluation], about=about)
    learner.close()


def tune(learner: MAMLLearner, steps: int) -> float:
    """Sets the step size of the inner loop to the best one on training tasks, and returns it.

    Raises:
        NonFiniteError: some task diverges with each of the step sizes.

    """
    rates = [rate * learner.config.inner_lr for rate in RATES]
    learner.parameters = without_step_sizes(learner.parameters)  # they would come before the rates
    inner = learner.inner

    def final_return(rate: float) -> float:
        learner.inner = dataclasses.replace(inner, learning_rate=rate)
        try:
            return float(learner.evaluate(TUNING_TASKS, steps, "train").returns[-1].mean())
        except NonFiniteError as error:
            print(f"not fine-tuned with an inner step size of {rate:g}: {error}")
            return -math.inf

    finals = {rate: final_return(rate) for rate in rates}
    best = max(finals, key=finals.__getitem__)
    if finals[best] == -math.inf:
        raise NonFiniteError(f"fine-tuning diverges, with {min(rates):g} as the step size too")
    learner.inner = dataclasses.replace(inner, learning_rate=best)
    print(f"fine-tuned with an inner step size of {best:g}")
    return best


def is_finished(comparison: Comparison, name: str, seed: int) -> bool:
    """Whether the run was evaluated after its last iteration, with the options of `comparison`."""
    folder, config = comparison.run_folder(name, seed), comparison.config(name, seed)
    data = read_evaluation(folder)
    if data is None:
        return False
    asked = json.loads(json.dumps(config.to_json(), default=str))
    held = read_options(folder)
    test = data["splits"].get("test", {"steps": [], "tasks": []})
    steps = 1 if name == "oracle" else comparison.inner_steps + 1
    return bool(
        all(held.get(o) == value for o, value in asked.items() if o not in CHANGE_NO_RESULT)
        and data.get("iteration") == config.iterations
        and len(test["steps"]) == steps
        and len(test["tasks"]) == comparison.eval_tasks
        # `metarl evaluate` writes this file too, of other actions and adaptations, and with a step
        # size that it does not tune. It names the actions.
        and "actions" not in data
        and (name not in FINE_TUNED or FINE_TUNED_LR in data)
    )


def _write_page(comparison: Comparison, lines: list[Line]) -> None:
    """Writes TensorBoard events of the comparison, in which steps are inner steps."""
    with expect_writable(comparison.folder, "comparison"):
        for old in event_files(comparison.folder):
            old.unlink(missing_ok=True)
        writer = open_events(comparison.folder)
    names = [line.name for line in lines]
    charts: Charts = {
        "return after each inner step": ["Multiline", [f"comparison/{n}/mean" for n in names]]
    }
    for line in lines:
        tags = [f"comparison/{line.name}/{end}" for end in ("mean", "low", "high")]
        charts[line.name] = ["Margin", tags]
        for k, row in enumerate(_curve(line)):
            for tag, value in zip(tags, row, strict=True):
                writer.add_scalar(tag, float(value), k)
    writer.add_custom_scalars({"Comparison": charts})
    writer.add_figure("comparison", draw(lines, comparison.family), close=False)
    writer.close()


def _curve(line: Line) -> np.ndarray:
    evaluation = line.evaluation()
    assert evaluation is not None, "every run was evaluated"
    return adaptation_curve(evaluation)


def table_rows(lines: list[Line]) -> list[tuple[str, ...]]:
    """A row for each line of the comparison.

    It has the name, the mean and its interval after each inner step, the final mean of each seed,
    the environment steps and the minutes.
    """
    rows = []
    curves = [_curve(line) for line in lines]
    longest = max(map(len, curves))
    digits = 3 if max(np.abs(curve).max() for curve in curves) < 10 else 1
    for line, curve in zip(lines, curves, strict=True):
        shown = ([f"{value:.{digits}f}" for value in row] for row in curve)
        cells = [f"{mean} [{low}, {high}]" for mean, low, high in shown]
        cells += [""] * (longest - len(cells))
        ends = ", ".join(f"{end:.{digits}f}" for end in line.means()[:, -1])
        last = [run.metrics[-1] if run.metrics else {} for run in line.runs]
        env_steps, seconds = (
            float(np.mean([m.get(name, 0.0) for m in last])) for name in ("env_steps", "seconds")
        )
        rows.append((line.name, *cells, ends, f"{env_steps:,.0f}", f"{seconds / 60:.1f}"))
    return rows
