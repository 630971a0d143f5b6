"""Algorithms and controls beside each other on one family, at equal environment steps."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from metarl.learners.config import Budget, FamilyRunConfig
from metarl.learners.learner import MetaLearner
from metarl.learners.maml import MAMLLearner
from metarl.learners.maml_config import MAMLConfig
from metarl.learners.presets import ALGORITHMS, CONTROLS, RL2, find_algorithm
from metarl.learners.registry import LEARNERS, find_learner, known_learners, make_learner
from metarl.runs.folder import CONFIG, EVALUATION
from metarl.runs.report import write_report
from metarl.runs.run import run
from metarl.studies.curves import Line, adaptation_curve, draw, read_run, write_figures
from metarl.studies.jobs import Job, run_jobs
from metarl.support.errors import UsageError, nearest
from metarl.support.options import option
from metarl.support.types import Json
from metarl.tasks.family import make_family

LOG = "log.txt"
RATES = (3.0, 1.0, 0.3, 0.1, 0.03)
"""Step sizes that fine-tuning of a control chooses from, in units of the inner step size."""
TUNING_TASKS = 20
FINE_TUNED = ("random", "pretrained")
"""Controls that are not trained to be adapted with one step size."""
FINE_TUNED_LR = "fine_tuned_lr"
"""Of evaluation.json: the step size that a fine-tuned control was given."""
CHANGE_NO_RESULT = MAMLConfig.changeable - {"test_later_lr"}


@dataclass(frozen=True)
class Comparison:
    """What is compared, and for how long."""

    family: str
    """Task family, MODULE:ID."""
    family_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """The family's variant, name and value in turn."""
    algorithms: tuple[str, ...] = ("maml-trpo",)
    """Names, as `metarl algorithms` lists them; each with its own preset."""
    controls: tuple[str, ...] = ()
    """Of random, pretrained, oracle and rl2."""
    seeds: int = 3
    """Seeds 1 to this."""
    iterations: int = 100
    """Meta-updates of a run with one inner step; others have as many as take the same number of
    environment steps."""
    meta_batch_size: int = 20
    """Tasks of a meta-iteration."""
    episodes: int = 20
    """Episodes of each task, before and again after each inner step."""
    horizon: int | None = None
    """Steps after which an episode is truncated; the family's own if not given."""
    inner_lr: float | None = None
    """Step size of the inner loop, for all; that of each preset if not given. random and
    pretrained are fine-tuned with the best of several step sizes around it, on training tasks."""
    eval_tasks: int = 40
    """Held-out tasks of each seed."""
    inner_steps: int = 3
    """Inner steps of the evaluation; rl2 has one episode for each."""
    test_later_lr: float = 0.5
    """Steps after the first have this times the step size, as in Finn et al."""
    processes: int = 0
    """Runs at a time; 0 is one for each core."""
    run_dir: Path | None = None
    """Each run in a folder below it; comparisons/<family> if not given."""

    def __post_init__(self) -> None:
        """Checks every number and name.

        Raises:
            UsageError: names the option, its value and what would be right.

        """
        for name in ("seeds", "eval_tasks", "inner_steps", "iterations"):
            if getattr(self, name) < 1:
                raise UsageError(f"{option(name)} {getattr(self, name)} must be at least 1")
        if self.processes < 0:
            raise UsageError(f"--processes {self.processes} must be at least 0")
        known = (*CONTROLS, RL2)
        for name in self.controls:
            if name not in known:
                listed = f"{', '.join(known)}{nearest(name, known)}"
                raise UsageError(f"--controls {name} must be one of {listed}")
        algorithms = (*ALGORITHMS, *(name for name in known_learners() if name not in LEARNERS))
        for name in self.algorithms:
            if name in known:
                raise UsageError(f"--algorithms {name} is a control: --controls {name}")
            if name not in algorithms and ":" not in name:
                listed = f"{', '.join(algorithms)}{nearest(name, algorithms)}"
                raise UsageError(f"--algorithms {name} must be one of {listed}")
        if not self.names:
            raise UsageError("--algorithms and --controls are empty: nothing to compare")
        for name in self.names:
            if self.names.count(name) > 1:
                raise UsageError(f"{name} is named more than once")

    @property
    def names(self) -> tuple[str, ...]:
        """All that is compared."""
        return self.algorithms + self.controls

    @property
    def folder(self) -> Path:
        """`run_dir`, or the folder that the family names."""
        return self.run_dir or Path("comparisons", self.family.rpartition(":")[2])

    def run_folder(self, name: str, seed: int) -> Path:
        """That of one run."""
        return self.folder / name / f"seed-{seed}"

    def config(self, name: str, seed: int) -> FamilyRunConfig:
        """The configuration of one run: of a named algorithm, or of a learner of that name."""
        shared: Json = {
            "family": self.family,
            "family_options": self.family_options,
            "horizon": self.horizon,
            "seed": seed,
            "threads": 1,
            "eval_every": 0,
            "run_dir": self.run_folder(name, seed),
            "resume": True,
        }
        tasks = self.meta_batch_size * self.episodes
        if name not in ALGORITHMS | CONTROLS:
            config_class = find_learner(name).Config
            if not issubclass(config_class, FamilyRunConfig):
                raise UsageError(f"{name} is not a learner of task families: it cannot be compared")
            budget = Budget(2 * self.iterations * tasks, tasks, self.inner_steps + 1)
            return config_class.at_budget(budget, learner=name, **shared)
        stages = 1 + find_algorithm(name).options.get("inner_steps", 1)
        if self.inner_lr is not None:
            shared["inner_lr"] = self.inner_lr
        return MAMLConfig.of(
            name,
            iterations=0 if name == "random" else max(1, 2 * self.iterations // stages),
            meta_batch_size=self.meta_batch_size,
            episodes=self.episodes,
            test_later_lr=self.test_later_lr,
            **shared,
        )


def compare(comparison: Comparison) -> list[Line]:
    """Trains and evaluates whatever is not finished yet, in processes; a line for each name.

    Writes comparison.png, .pdf, .csv, and a page of TensorBoard into the folder. A first SIGINT or
    SIGTERM ends every run with a checkpoint; the same command goes on from there.

    Raises:
        UsageError: a run cannot be begun or failed; the others are finished.

    """
    runs = [(n, s) for n in comparison.names for s in range(1, comparison.seeds + 1)]
    for name, seed in runs:  # errors of the options come before hours of work
        comparison.config(name, seed)
    family = make_family(comparison.family, comparison.horizon, **comparison.family_options)
    comparison = dataclasses.replace(comparison, horizon=family.horizon)
    jobs = []
    for name, seed in runs:
        folder = comparison.run_folder(name, seed)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"run folder {folder} cannot be written: {error.strerror}") from error
        arguments = (comparison, name, seed)
        jobs.append(Job(f"{name}, seed {seed}", outcome, arguments, folder / LOG))
    codes = run_jobs(jobs, lambda job: is_finished(*job.arguments), comparison.processes)
    for job, code in codes.items():
        if code:
            last = (job.log.read_text().strip() or "no output").splitlines()[-1]
            raise UsageError(f"{job.name} ended with status {code}: {last} (in {job.log})")
    lines = [
        Line(name, [read_run(comparison.run_folder(name, s + 1)) for s in range(comparison.seeds)])
        for name in comparison.names
    ]
    write_figures(lines, comparison.folder / "comparison", comparison.family)
    _write_page(comparison, lines)
    return lines


def outcome(comparison: Comparison, name: str, seed: int) -> None:
    """One run, from where it is to its evaluation."""
    config = comparison.config(name, seed)
    learner = make_learner(config)
    assert isinstance(learner, MetaLearner)
    run(learner)
    # An evaluation from before must not pass for that of this run if this process is stopped.
    (config.run_folder / EVALUATION).unlink(missing_ok=True)
    about: Json = {}
    if name in FINE_TUNED:
        assert isinstance(learner, MAMLLearner)
        about[FINE_TUNED_LR] = tune(learner, comparison.inner_steps)
    steps = comparison.inner_steps if learner.adapts else 0
    evaluation = learner.evaluate(comparison.eval_tasks, steps)
    write_report(config.run_folder, learner, [evaluation], about=about)
    learner.close()


def tune(learner: MAMLLearner, steps: int) -> float:
    """Gives the inner loop the step size that is best on training tasks, and returns it."""
    rates = [rate * learner.config.inner_lr for rate in RATES]
    inner = learner.inner

    def final_return(rate: float) -> float:
        learner.inner = dataclasses.replace(inner, learning_rate=rate)
        return float(learner.evaluate(TUNING_TASKS, steps, "train").returns[-1].mean())

    best = max(rates, key=final_return)
    learner.inner = dataclasses.replace(inner, learning_rate=best)
    print(f"fine-tuned with inner step size {best:g}")
    return best


def is_finished(comparison: Comparison, name: str, seed: int) -> bool:
    """Whether the run's evaluation is there, of its last iteration, and all as it is asked for."""
    folder, config = comparison.run_folder(name, seed), comparison.config(name, seed)
    if not (folder / EVALUATION).exists():
        return False
    asked = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    held = json.loads((folder / CONFIG).read_text())["config"]
    data = json.loads((folder / EVALUATION).read_text())
    test = data["splits"].get("test", {"steps": [], "tasks": []})
    steps = 1 if name == "oracle" else comparison.inner_steps + 1
    return bool(
        all(held.get(o) == value for o, value in asked.items() if o not in CHANGE_NO_RESULT)
        and data["iteration"] == config.iterations
        and len(test["steps"]) == steps
        and len(test["tasks"]) == comparison.eval_tasks
        # `metarl evaluate` writes the file too, and tunes nothing.
        and (name not in FINE_TUNED or FINE_TUNED_LR in data)
    )


def _write_page(comparison: Comparison, lines: list[Line]) -> None:
    """The comparison as a run of its own beside the others, whose x axis are the inner steps."""
    for old in comparison.folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = SummaryWriter(str(comparison.folder))
    names = [line.name for line in lines]
    charts: Json = {
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
    """A row for each line.

    Its name, mean and interval after each step, each seed's mean in the end, environment steps and
    minutes.
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
