"""`metarl train`, and the main function of experiment scripts."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import tyro

from metarl.cli.command_line import LAUNCHED, one_line_errors
from metarl.cli.config_file import expanded, naming_file
from metarl.cli.parsing import names_in, parse, parse_known, peek
from metarl.learners.base import BaseLearner
from metarl.learners.config import FamilyOption, FamilyRunConfig, RunConfig
from metarl.learners.learner import MetaLearner
from metarl.learners.maml_config import MAMLConfig
from metarl.learners.presets import find_algorithm, tuned_options
from metarl.learners.registry import LEARNERS
from metarl.outer.registry import OUTER_LOOPS, expect_own_options
from metarl.runs.folder import CONFIG, holds_run
from metarl.runs.loading import policy_of_run, read_config
from metarl.runs.metrics import read_intact_metrics
from metarl.runs.run import train
from metarl.studies.jobs import LOG, Job, expect_success, run_jobs
from metarl.support.errors import UsageError
from metarl.support.files import expect_writable
from metarl.support.modules import Source, is_of_the_program, named_modules, options_of_a_run
from metarl.support.options import option
from metarl.support.parallel import available_cores
from metarl.support.ranks import is_leader
from metarl.tasks.family import make_family

TUNED: Final = "tuned"
"""Value of --preset."""
BESIDE = """--seeds 1 2 3 trains a run for each seed, as many at a time as there are cores.
--config FILE takes options from a .yaml, .toml or .json file, as from a run's config.json.
--trust imports what a resumed or repeated run names from the working folder."""
TRUST: Final = "--trust"
"""Lets a run that is resumed or repeated name any module, as a command line does."""


@dataclass(frozen=True)
class _Choices:
    """The options that determine the defaults of the others."""

    learner: str | None = None
    algorithm: str | None = None
    outer: str | None = None
    preset: str | None = None
    family: str | None = None
    family_options: dict[str, FamilyOption] = field(default_factory=dict)
    run_dir: Path | None = None
    resume: bool = False
    init_from: Path | None = None


@dataclass(frozen=True)
class _Several:
    """Options of several runs at once, which no run has itself."""

    seeds: tuple[int, ...]

    @property
    def distinct(self) -> tuple[int, ...]:
        """The seeds.

        Raises:
            UsageError: there is none, or one of them twice.

        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            named = " ".join(map(str, self.seeds))
            raise UsageError(f"--seeds {named} must name at least one seed, and each once")
        return self.seeds


def run(arguments: Sequence[str]) -> None:
    """Trains a learner."""
    run_experiment(None, None, arguments, "train")


def run_experiment(
    default: RunConfig | None = None,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
    command: str | None = None,
) -> BaseLearner | None:
    """The main function of an experiment: parses the command line over `default` and trains.

    A wrong command line ends the program with one line and exit status 2. The usage names
    `command`, a subcommand of metarl, or the script if it is not given. With `--seeds` each seed is
    trained by a process of its own, and there is no learner to return.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with (
        one_line_errors(),
        naming_file(given),
        options_of_a_run(source := _source(given, default)),
    ):
        arguments = [word for word in expanded(given) if word != TRUST]
        if any(word.split("=")[0] == "--seeds" for word in arguments):
            asks = [word for word in arguments if word in ("-h", "--help")]  # of all options
            rest = [word for word in arguments if word not in asks]
            several, others = parse_known(_Several, rest, None, command or "train")
            if any(word.split("=")[0] == "--seed" for word in given):
                raise UsageError("--seed and --seeds contradict each other: give one of them")
            configs = [
                parse_config(default, description, [*_of_seed(others, seed), *asks], command)
                for seed in several.distinct
            ]
            _print_tuned(configs[0])
            _train_each(configs, source)
            return None
        config = parse_config(default, description, arguments, command)
        if is_leader():
            _print_tuned(config)
        learner = train(config)
    if not is_leader():
        return learner
    # These commands import nothing from the working folder unless they are told to.
    own = any(map(is_of_the_program, named_modules(_texts(config))))
    run = f"{config.run_folder} {TRUST}" if own else f"{config.run_folder}"
    adapt = isinstance(learner, MetaLearner) and learner.adapts
    commands = [f"metarl {command} {run}" for command in ("evaluate", *["adapt"] * adapt)]
    print(f"next: {', '.join(commands)}, tensorboard --logdir {config.run_folder.parent}")
    return learner


def _texts(config: RunConfig) -> Iterator[str]:
    """The words in the options of a run."""
    for value in config.to_json().values():
        yield from (v for v in (value if isinstance(value, list | tuple) else [value])
                    if isinstance(v, str))  # fmt: skip


def _source(arguments: Sequence[str], default: RunConfig | None) -> Source:
    """Where modules are named: by the user, and by a run that the command resumes or repeats."""
    repeats = any(Path(word).name == CONFIG for word in arguments)
    trust = TRUST in arguments
    # A file of options that is not that of a run is the user's, as is the script with a default.
    words = [*arguments] if repeats else expanded(arguments)
    named = named_modules([*words, *(_texts(default) if default else ())])
    trusted = trust or not (repeats or "--resume" in words)
    return Source("the run", trusted, named, trusts_runs=trust)


def _of_seed(arguments: Sequence[str], seed: int) -> list[str]:
    """The command line of one of several seeds: its folder lies in that of --run-dir."""
    folder = peek(_Choices, arguments).run_dir
    own = [] if folder is None else ["--run-dir", str(folder / f"seed-{seed}")]
    return [*arguments, "--seed", str(seed), *own]


def _train_each(configs: Sequence[RunConfig], source: Source) -> None:
    """Trains each run in a process of its own, as many at a time as there are cores."""
    if LAUNCHED in os.environ:
        raise UsageError("--seeds trains one process for each run: start it without torchrun")
    at_a_time = min(available_cores(), len(configs))
    jobs = []
    for config in configs:
        with expect_writable(config.run_folder, "run folder"):
            config.run_folder.mkdir(parents=True, exist_ok=True)
        threads = config.threads or available_cores() // at_a_time
        one = dataclasses.replace(config, threads=threads)
        jobs.append(Job(f"seed {config.seed}", _train_one, (one, source), config.run_folder / LOG))
    again = "the same command with --resume"
    expect_success(run_jobs(jobs, at_a_time=at_a_time, described=progress_of, again=again))
    folders = " ".join(str(config.run_folder) for config in configs)
    print(f"next: metarl plot {folders}")


def progress_of(job: Job) -> str:
    """How far the run of a job has come."""
    (config, _), done = job.arguments, 0
    assert isinstance(config, RunConfig)
    if lines := read_intact_metrics(config.run_folder):
        done = int(lines[-1]["iteration"])
    if done >= config.iterations:
        return "finished"
    return f"ended after iteration {done} of {config.iterations}; {job.log} says why"


def _train_one(config: RunConfig, source: Source) -> None:
    with options_of_a_run(source):
        train(config)


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
    if choices.resume and choices.run_dir and holds_run(choices.run_dir):
        # Options that are not given keep the values of the run.
        resumed = read_config(choices.run_dir)
        if choices.preset not in (None, getattr(resumed, "preset", None)):
            raise UsageError(
                f"--preset {choices.preset}: a resumed run keeps its options; leave it out"
            )
        return parse(type(resumed), arguments, description, resumed, command)
    if choices.resume and choices.run_dir and default is None and choices.family is None:
        raise UsageError(
            f"{choices.run_dir} holds no run to resume; --family FAMILY begins a new one there"
        )
    if default is None:
        learner = choices.learner or "maml"
        config_class = LEARNERS.find(learner).Config
        _expect_defaults(config_class, f"--learner {learner}", ("learner", "family"))
        if not issubclass(config_class, FamilyRunConfig):
            default = config_class(learner=learner)
        else:
            default = config_class(family=tyro.MISSING, learner=learner)
    if choices.algorithm is not None and isinstance(default, MAMLConfig):
        preset = find_algorithm(choices.algorithm)
        default = dataclasses.replace(default, algorithm=choices.algorithm, **preset.options)
    named = choices.family or getattr(default, "family", None)
    if (
        isinstance(default, FamilyRunConfig)
        and (choices.preset or default.preset) == TUNED
        and isinstance(named, str)  # otherwise, parsing says that --family is missing
    ):
        family = make_family(named, 1, **(default.family_options | choices.family_options))
        default = dataclasses.replace(
            default, preset=TUNED, **tuned_options(family, default.shipped_name)
        )
    if isinstance(default, MAMLConfig):
        outer = choices.outer or default.outer
        _expect_defaults(OUTER_LOOPS.find(outer).Options, f"--outer {outer}")
        default = default.extended(outer)
        expect_own_options(outer, names_in(arguments))
    if choices.init_from is not None:
        default = _with_policy_of(choices.init_from, default, arguments)
    _expect_options_of(default, arguments)
    about = f"{description or _about(type(default))}\n\n{BESIDE}"
    return parse(type(default), arguments, about, default, command)


def _about(options: type) -> str:
    """The docstring of the options' class; a dataclass without one lists its fields there."""
    text = options.__doc__ or ""
    return "" if text.startswith(f"{options.__name__}(") else text


def _expect_defaults(options: type, whose: str, given: Sequence[str] = ()) -> None:
    """Checks that all options of a part of the run but the `given` ones have a default.

    Raises:
        UsageError: one has none.

    """
    for declared in dataclasses.fields(options):
        made = declared.default, declared.default_factory
        if made == (dataclasses.MISSING, dataclasses.MISSING) and declared.name not in given:
            raise UsageError(
                f"{whose}: its option {declared.name} has no default, as every option of a command "
                "line needs one"
            )


def _expect_options_of(config: RunConfig, arguments: Sequence[str]) -> None:
    """Checks that no option of the command line is one of another learner alone.

    Raises:
        UsageError: one is.

    """
    own = {field.name for field in dataclasses.fields(config)}
    unknown = names_in(arguments) - own
    for learner in LEARNERS.own if unknown else ():
        fields = {field.name for field in dataclasses.fields(LEARNERS.find(learner).Config)}
        for name in sorted(unknown & fields):
            raise UsageError(
                f"{option(name)} is an option of --learner {learner}, not of {config.learner}: "
                f"metarl train --learner {config.learner} --help lists its options"
            )


def _with_policy_of(folder: Path, default: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """The options with those of the policy of a run, where the command line does not name them."""
    # Of pairs, those of the command line are put in later.
    given = (default.of_policy & names_in(arguments)) - {"policy_options"}
    own = policy_of_run(folder, default, given)
    return dataclasses.replace(default, **own)


def _print_tuned(config: RunConfig) -> None:
    """Prints the options that the family ships, with the values that a run with them has."""
    if not isinstance(config, FamilyRunConfig) or config.preset != TUNED:
        return
    family = make_family(config.family, config.horizon, **config.family_options)
    names = tuned_options(family, config.shipped_name)
    values = ", ".join(f"{option(name)} {getattr(config, name)}" for name in names)
    print(f"preset of {config.family} for {config.shipped_name}: {values}")
