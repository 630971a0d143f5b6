"""`metarl tune`: searches for the options with which a learner adapts best."""

import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from metarl.cli.config_file import expanded, naming_file
from metarl.cli.parsing import parse_known, without_repeats
from metarl.cli.train import parse_config
from metarl.learners.config import FamilyRunConfig
from metarl.studies.search import Value, by_option
from metarl.studies.tuning import Trial, Tuning, default_folder, tune
from metarl.support.errors import UsageError
from metarl.support.options import option, truth

SHOWN = 5
"""Number of trials in the table of the best."""


def run(arguments: Sequence[str]) -> None:
    """Runs the trials, and prints the best ones and the command that trains with their options."""
    with naming_file(arguments):
        tuning, fixed = parse_known(Tuning, expanded(arguments), Tuning.__doc__, command="tune")
        base = configure(fixed, {})
    fixed = without_repeats(type(base), fixed)
    folder = tuning.run_dir or default_folder(base)
    trials = tune(tuning, folder, functools.partial(configure, fixed))
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        raise UsageError(f"no trial in {folder} was completed")
    _print_best(complete[:SHOWN])
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"{len(trials)} trials ({counts}) in {folder}; the best one's options:")
    best = without_repeats(type(base), trial_arguments(fixed, complete[0].params))
    print(shlex.join(["metarl", "train", *best]))


def configure(fixed: Sequence[str], values: Mapping[str, Value]) -> FamilyRunConfig:
    """The configuration of a run with these options of `metarl train`, and these values."""
    config = _parsed(trial_arguments(fixed, values))
    # Not by an argument: that would take what is not given from the folder, which need not be ours.
    return dataclasses.replace(config, resume=config.resume or "run_dir" in values)


def trial_arguments(fixed: Sequence[str], values: Mapping[str, Value]) -> list[str]:
    """The options of `metarl train` with which a trial runs."""
    arguments = list(fixed)
    single, pairs = by_option(values)
    before = _parsed(fixed)
    for name, value in single.items():
        if isinstance(getattr(before, name), bool):
            arguments.append(option(name if truth(value) else f"no_{name}"))
        else:
            arguments += [option(name), *str(value).split()]
    for name, own in pairs.items():
        every = (getattr(before, name) | own).items()
        arguments += [option(name), *(str(part) for pair in every for part in pair)]
    return arguments


def _parsed(arguments: Sequence[str]) -> FamilyRunConfig:
    config = parse_config(None, None, arguments, "tune")
    if not isinstance(config, FamilyRunConfig):
        raise UsageError(f"--learner {config.learner}: it does not train on task families")
    return config


def _print_best(trials: Sequence[Trial]) -> None:
    """Prints a row for each trial: its value, its options and its folder."""
    table = Table(box=None)
    for name in ("value", *trials[0].params, "folder"):
        table.add_column(name, overflow="fold")
    for trial in trials:
        values = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in trial.params.values())
        table.add_row(f"{trial.value:.4g}", *values, str(trial.folder))
    Console(markup=False).print(table)
