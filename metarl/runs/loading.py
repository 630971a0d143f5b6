"""What a run has learned, read from its folder."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from metarl.learners.config import RunConfig
from metarl.learners.learner import BaseLearner
from metarl.learners.registry import LEARNERS, make_learner
from metarl.runs.checkpoint import checkpoints_in, load_checkpoint, load_newest
from metarl.runs.folder import CONFIG, read_metrics
from metarl.runs.stopping import best_iteration
from metarl.support.errors import UsageError
from metarl.support.modules import Source, named_modules, options_of_a_run
from metarl.support.options import option
from metarl.support.types import Json, State


def load(
    run_folder: str | Path,
    checkpoint: str | int = "newest",
    problem: object | None = None,
    trust: bool = False,
    **changes: object,
) -> BaseLearner:
    """Loads the learner of a run from a checkpoint.

    Args:
        run_folder: of a run that has ended or is still in progress.
        checkpoint: an iteration, `newest`, or `best`, by the measure on held-out tasks in training.
        problem: that of a few-shot run, if its config.json does not name one.
        trust: whether the run may name modules of the working folder, and callables of packages
            that are not made for metarl. The modules that the program has imported are trusted,
            unless they are those of installed packages.
        changes: options that a resumed run may change, such as `threads` and `test_later_lr`.

    Raises:
        UsageError: there is no such run, it has no such checkpoint, or it names a module that is
            not trusted.

    """
    folder = Path(run_folder)
    with options_of_a_run(source_of(folder, trust)):
        config = read_config(folder)
        # The run may have been trained on another machine.
        portable = {"device": "auto", "sampling_device": "cpu"}
        known = {field.name for field in dataclasses.fields(config)}
        options: Json = {name: value for name, value in portable.items() if name in known}
        if missing := [name for name in changes if name not in known]:
            raise UsageError(f"{option(missing[0])}: the run in {folder} has no such option")
        learner = make_learner(dataclasses.replace(config, **(options | changes)), problem=problem)
    learner.load_state(_read_checkpoint(folder, str(checkpoint), learner))
    return learner


def source_of(folder: Path, trust: bool = False, words: Sequence[str] = ()) -> Source:
    """What names the modules of a run, beside the words of a command line."""
    return Source(f"the run in {folder}", trust, named_modules(words))


def read_config(folder: Path) -> RunConfig:
    """Reads the options of a run from its config.json, as the configuration of its learner.

    Raises:
        UsageError: there is no such run, or its learner is unknown.

    """
    try:
        options: Json = json.loads((folder / CONFIG).read_text())["config"]
    except OSError:
        raise UsageError(f"{folder} is not a run folder: it has no {CONFIG}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / CONFIG} cannot be read: {error}") from None
    if "learner" not in options:
        raise UsageError(
            f"{folder / CONFIG} names no learner, because an earlier version wrote it: add "
            '"learner": "maml" (or "rl2", "few_shot") to its "config"'
        )
    config_class = LEARNERS.find(options["learner"]).Config
    return config_class.from_json(options | {"run_dir": str(folder)})


def initialise(learner: BaseLearner, folder: Path) -> None:
    """Begins with what the run in the folder has learned, by its newest checkpoint."""
    other = load(folder)
    other.close()
    if type(other) is not type(learner):
        raise UsageError(f"--init-from {folder}: {other.name} is another learner")
    try:
        learner.initialise(other)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--init-from {folder} does not fit this run: {reason}") from error


def _read_checkpoint(folder: Path, which: str, learner: BaseLearner) -> State:
    """The state of a run at an iteration, its newest, or its best one."""
    kept = checkpoints_in(folder / "checkpoints")
    if not kept:
        raise UsageError(f"{folder} has no checkpoint yet")
    if which == "newest":
        state = load_newest(folder / "checkpoints")
        assert state is not None, "there are checkpoints"
        return state
    by_iteration = {int(path.name): path for path in kept}
    if which == "best":
        history = [m for m in read_metrics(folder) if m["iteration"] in by_iteration]
        best = best_iteration(learner, history)
        if best is None:
            raise UsageError(f"no checkpoint of {folder} was evaluated in training: name one")
        return load_checkpoint(by_iteration[best])
    if not which.isdecimal() or int(which) not in by_iteration:
        has = ", ".join(map(str, by_iteration))
        raise UsageError(f"--checkpoint {which}: {folder} has newest, best, {has}")
    return load_checkpoint(by_iteration[int(which)])
