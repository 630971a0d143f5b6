"""`metarl train`, and the main function of experiment scripts."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from metarl.cli.command_line import one_line_errors
from metarl.cli.parsing import parse, peek
from metarl.learners.config import FamilyRunConfig, RunConfig
from metarl.learners.learner import BaseLearner
from metarl.learners.maml_config import MAMLConfig
from metarl.learners.presets import find_algorithm
from metarl.learners.registry import find_learner
from metarl.runs.folder import CONFIG
from metarl.runs.run import read_config, train
from metarl.support.errors import UsageError
from metarl.support.ranks import is_leader


@dataclass(frozen=True)
class _Choices:
    """The options that determine the defaults of the others."""

    learner: str | None = None
    algorithm: str | None = None
    family: str | None = None
    run_dir: Path | None = None
    resume: bool = False


def run(arguments: Sequence[str]) -> None:
    """Trains a learner."""
    run_experiment(None, None, arguments, "train")


def run_experiment(
    default: RunConfig | None = None,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
    command: str | None = None,
) -> BaseLearner:
    """The main function of an experiment: parses the command line over `default` and trains.

    A wrong command line ends the program with one line and exit status 2. The usage names
    `command`, a subcommand of metarl, or the script if it is not given.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with one_line_errors():
        config = parse_config(default, description, arguments, command)
        learner = train(config)
    if not is_leader():
        return learner
    folder = config.run_folder
    print(f"next: metarl evaluate {folder}, metarl adapt {folder}, tensorboard --logdir {folder}")
    return learner


def parse_config(
    default: RunConfig | None,
    description: str | None,
    arguments: Sequence[str],
    command: str | None,
) -> RunConfig:
    """The configuration of a command line; the learner and the algorithm determine its defaults.

    Raises:
        UsageError: the command line is wrong.

    """
    choices = peek(_Choices, arguments)
    if choices.resume and choices.run_dir and (choices.run_dir / CONFIG).exists():
        # Options that are not given keep the values of the run.
        resumed = read_config(choices.run_dir)
        return parse(type(resumed), arguments, description, resumed, command)
    if choices.resume and choices.run_dir and default is None and choices.family is None:
        raise UsageError(
            f"{choices.run_dir} holds no run to resume; --family FAMILY begins a new one there"
        )
    if default is None:
        learner = choices.learner or "maml"
        config_class = find_learner(learner).Config
        if not issubclass(config_class, FamilyRunConfig):
            raise UsageError(
                f"--learner {learner} does not train on task families: train it from a script, "
                "as experiments/few_shot.py does"
            )
        default = config_class(family=tyro.MISSING, learner=learner)
    if choices.algorithm is not None and isinstance(default, MAMLConfig):
        preset = find_algorithm(choices.algorithm)
        default = dataclasses.replace(default, algorithm=choices.algorithm, **preset.options)
    return parse(type(default), arguments, description or type(default).__doc__, default, command)
