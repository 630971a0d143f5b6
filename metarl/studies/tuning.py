"""Search for the options with which a learner adapts best: a study of Optuna, many runs at a time.

Each trial is a run in a folder of its own, with its own values of the options that are searched.
Optuna proposes the values, and ends trials early that stay behind (Akiba et al. 2019, "Optuna: A
next-generation hyperparameter optimization framework", arXiv 1907.10902).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.evaluation.evaluation import judging_split
from metarl.learners.base import BaseLearner
from metarl.learners.config import FamilyRunConfig, expect_any_config
from metarl.learners.registry import make_learner
from metarl.runs.folder import holds_run
from metarl.runs.lock import is_in_use
from metarl.runs.run import run
from metarl.runs.stopping import held_out_tag
from metarl.studies.jobs import IN_USE, Job, expect_success, run_jobs
from metarl.studies.search import Value, corners, parse_search, with_values
from metarl.support.distribution import DISTRIBUTION
from metarl.support.errors import NonFiniteError, UsageError
from metarl.support.files import expect_writable
from metarl.support.options import at_least

if TYPE_CHECKING:
    import optuna

Configure = Callable[[Mapping[str, Value]], FamilyRunConfig]
"""The configuration of a run in which the searched options have these values."""

STUDY = "study.log"
"""File of the study, which Optuna's own tools read."""
OF_VALUES = frozenset(("eval_tasks", "eval_splits", "eval_trials", "test_later_lr"))
"""Options on which no number of training depends, but the values that are compared."""
ASKED = "asked"
"""Attribute of the study: what was searched, in which runs."""


@dataclass(frozen=True)
class Tuning:
    """Search for the options of `metarl train` with which a learner adapts best.

    All other options are those of `metarl train`, the same for every trial.
    """

    search: tuple[str, ...]
    """Options to search: NAME=LOW:HIGH, NAME=LOW:HIGH:log, or NAME=A,B,C; an option of the family
    is family_options.NAME, one of the network policy_options.NAME."""
    trials: int = 20
    """Runs, each with its own values of these options."""
    prune: bool = True
    """End a trial early that stays below the median of the trials before it."""
    processes: int = 0
    """Trials at a time; 0 runs one per core."""
    run_dir: Path | None = None
    """Folder of the study, which holds the run folders; by default tunings/FAMILY."""
    storage: str | None = None
    """URL of a database for the study, as Optuna takes it; by default a file in the folder, which
    several machines can share."""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            UsageError: an option is wrong; the message names it and what would be right.

        """
        at_least("--trials", self.trials, 1)
        at_least("--processes", self.processes, 0)


@dataclass(frozen=True)
class Trial:
    """A trial as the table of results shows it."""

    number: int
    state: str
    """complete, pruned, running or fail, as Optuna names it."""
    value: float | None
    """Mean of the measure on held-out tasks after the last inner step; None if there is none."""
    params: dict[str, Value]
    """The values of the options that are searched."""
    folder: Path


def tune_config(config: FamilyRunConfig, *search: str, **options: Any) -> list[Trial]:
    """Searches for options as `metarl tune` does; all other options are those of `config`.

    Args:
        config: of every trial; its `run_dir` is the folder of the study.
        search: what is searched, for example `inner_lr=0.01:1:log`.
        options: those of `Tuning`, for example `trials=20`; `run_dir` here comes before that of
            `config`.

    Raises:
        UsageError: as `tune`.

    """
    expect_any_config(config, "metarl.tune")
    tuning = Tuning(search=search, **options)
    folder = tuning.run_dir or config.run_dir or default_folder(config)
    return tune(tuning, Path(folder), functools.partial(with_values, config))


def default_folder(config: FamilyRunConfig) -> Path:
    """The folder of a study of such runs, if none is given."""
    return Path("tunings", config.family.rpartition(":")[2])


def tune(tuning: Tuning, folder: Path, configure: Configure) -> list[Trial]:
    """Runs the trials that are not finished yet; returns all of them, the best first.

    Each trial has a process of its own. SIGINT, SIGTERM and SIGHUP end every run with a checkpoint;
    another call continues from there. Several machines may work on one folder.

    Raises:
        UsageError: the search is wrong, the study in the folder is another one, Optuna is not
            installed, or a run failed.

    """
    _require_optuna()
    base = configure({})
    distributions = parse_search(tuning.search, base)
    if holds_run(folder):
        raise UsageError(f"{folder} holds a run: give another --run-dir for the study")
    for values in corners(distributions):  # reports wrong values before hours of work
        make_learner(configure(values)).close()
    if not base.eval_every or base.eval_every > base.iterations or not base.eval_splits:
        raise UsageError(
            f"--eval-every {base.eval_every} evaluates no trial of {base.iterations} iterations, "
            f"whose values are compared: --eval-every {base.iterations} evaluates each at its end"
        )
    learner = make_learner(base)
    with _begun(folder):
        study = open_study(folder, tuning, higher_is_better=learner.higher_is_better, create=True)
    learner.close()
    _check_same(study, tuning, base)
    job_numbers: dict[Job, int] = {}

    def jobs() -> Iterator[Job]:
        for number in _numbers(study, folder, tuning.trials, distributions):
            trial = trial_folder(folder, number)
            trial.mkdir(exist_ok=True)
            job = Job(
                f"trial {number}",
                run_trial,
                (tuning, folder, number, configure),
                trial / f"log-{socket.gethostname()}.txt",
            )
            job_numbers[job] = number
            yield job

    def described(job: Job) -> str:
        trial = study.trials[job_numbers[job]]
        value = "" if trial.value is None else f", {trial.value:.4g}"
        return f"{trial.state.name.lower()}{value}"

    codes = run_jobs(jobs(), at_a_time=tuning.processes, described=described)
    # Between being asked for and being trained, a trial looks like one that was interrupted:
    # another machine may take it.
    expect_success({job: code for job, code in codes.items() if code != IN_USE})
    return results(study, folder)


@contextlib.contextmanager
def _begun(folder: Path) -> Iterator[None]:
    """Makes the folder; removes it if the block finds a mistake before anything is in it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with expect_writable(folder, "study"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except UsageError:
        for path in made:
            path.rmdir()
        raise


def run_trial(tuning: Tuning, folder: Path, number: int, configure: Configure) -> None:
    """Trains one trial from where it stopped, and tells the study its value."""
    import optuna

    study = open_study(folder, tuning)
    frozen = study.trials[number]
    # Only a trial that is asked for anew has a public constructor.
    trial = optuna.trial.Trial(study, frozen._trial_id)
    config = configure(frozen.params | {"run_dir": str(trial_folder(folder, number))})
    learner = make_learner(config)
    tag = held_out_tag(learner)
    pruned = False

    def report(learner: BaseLearner, metrics: Mapping[str, float]) -> str | None:
        nonlocal pruned
        if tag in metrics and learner.iteration not in frozen.intermediate_values:
            trial.report(metrics[tag], learner.iteration)
        pruned = tuning.prune and learner.iteration < config.iterations and trial.should_prune()
        return "below the median of the trials before: pruned" if pruned else None

    try:
        run(learner, [report])
    except NonFiniteError as error:
        print(f"the trial failed: {error}")
        study.tell(number, state=optuna.trial.TrialState.FAIL)
        return
    if pruned:
        study.tell(number, state=optuna.trial.TrialState.PRUNED)
        return
    split = judging_split(learner.eval_splits)
    assert split is not None  # `tune` has checked it
    evaluation = learner.evaluate(config.eval_tasks, split=split)
    learner.close()
    study.tell(number, evaluation.metrics()[tag], skip_if_finished=True)


def trial_folder(folder: Path, number: int) -> Path:
    """The run folder of a trial."""
    return folder / f"trial-{number:04d}"


def results(study: optuna.Study, folder: Path) -> list[Trial]:
    """The trials: the finished ones by their values, the best first, then the others."""
    best_first = -1 if study.direction.name == "MAXIMIZE" else 1

    def place(trial: Trial) -> tuple[bool, float]:
        complete = trial.state == "complete" and trial.value is not None
        return not complete, best_first * (trial.value or 0.0)

    trials = [
        Trial(t.number, t.state.name.lower(), t.value, t.params, trial_folder(folder, t.number))
        for t in study.trials
    ]
    return sorted(trials, key=place)


def open_study(
    folder: Path, tuning: Tuning, *, higher_is_better: bool = True, create: bool = False
) -> optuna.Study:
    """The study of the folder, in its file or in the storage that `tuning` names.

    Raises:
        UsageError: the storage cannot be opened.

    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = tuning.storage or optuna.storages.JournalStorage(
            JournalFileBackend(str(folder / STUDY))
        )
        if not create:
            return optuna.load_study(
                study_name=folder.name, storage=storage, pruner=optuna.pruners.MedianPruner()
            )
        return optuna.create_study(
            study_name=folder.name,
            storage=storage,
            direction="maximize" if higher_is_better else "minimize",
            load_if_exists=True,
        )
    except Exception as error:  # of any type that the database's driver raises
        where = tuning.storage or folder / STUDY
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"study {where} cannot be opened: {reason}") from error


def _check_same(study: optuna.Study, tuning: Tuning, base: FamilyRunConfig) -> None:
    """Checks that the study in the storage searches the same, in the same runs."""
    free = base.changeable - OF_VALUES
    fixed = {n: v for n, v in base.to_json().items() if n not in free}
    fixed["iterations"] = base.iterations
    asked = json.loads(json.dumps({"search": sorted(tuning.search), **fixed}, default=str))
    held = study.user_attrs.setdefault(ASKED, asked)
    # What a study of an earlier version does not tell is as it is asked for.
    if differing := [name for name in asked if asked[name] != held.get(name, asked[name])]:
        name = differing[0]
        raise UsageError(
            f"the study has --{name.replace('_', '-')} {held.get(name)}, not {asked[name]}: give "
            "another --run-dir for another study"
        )
    study.set_user_attr(ASKED, asked)


def _numbers(
    study: optuna.Study,
    folder: Path,
    trials: int,
    distributions: dict[str, optuna.distributions.BaseDistribution],
) -> Iterator[int]:
    """Numbers of trials to run: first those that were interrupted, then new ones."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if not is_in_use(trial_folder(folder, trial.number)):
            yield trial.number
    while True:
        with _locked(folder / "lock"):  # two machines must not both begin the last one
            if len(study.trials) >= trials:
                return
            number = study.ask(distributions).number
        yield number


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _require_optuna() -> None:
    """Checks that Optuna is installed.

    Raises:
        UsageError: it is not.

    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        install = f'pip install "{DISTRIBUTION}[tune]"'
        raise UsageError(f"metarl tune needs Optuna: {install} ({error})") from error
