"""What a run has learned, read from its folder."""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from torch import Tensor

from metarl.learners.base import BaseLearner
from metarl.learners.config import RunConfig
from metarl.learners.learner import MetaLearner, differing_spaces
from metarl.learners.registry import LEARNERS, make_learner
from metarl.policies.modules import MODULES
from metarl.runs.checkpoint import checkpoints_in, load_checkpoint, load_newest
from metarl.runs.folder import CONFIG, read_options
from metarl.runs.metrics import read_metrics
from metarl.runs.stopping import best_iteration
from metarl.support.errors import UsageError
from metarl.support.finite import numbers_in
from metarl.support.modules import Source, named_modules, options_of_a_run
from metarl.support.options import option
from metarl.support.schema import expect
from metarl.support.text import one_line
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
        UsageError: there is no such run, it has no such checkpoint, its config.json is not that
            with which the checkpoint was trained, or it names a module that is not trusted.

    """
    folder = Path(run_folder)
    with options_of_a_run(source_of(folder, trust)):
        config = read_config(folder)
        newest = _newest(folder)
        _expect_trained_with(config, newest, folder)
        # The run may have been trained on another machine.
        portable = {"device": "auto", "sampling_device": "cpu"}
        known = {field.name for field in dataclasses.fields(config)}
        options: Json = {name: value for name, value in portable.items() if name in known}
        if missing := [name for name in changes if name not in known]:
            raise UsageError(f"{option(missing[0])}: the run in {folder} has no such option")
        learner = make_learner(dataclasses.replace(config, **(options | changes)), problem=problem)
    state = newest
    if str(checkpoint) != "newest":
        state = _read_checkpoint(folder, str(checkpoint), learner)
        _expect_trained_with(config, state, folder)
    restore(learner, state, folder)
    return learner


def source_of(folder: Path, trust: bool = False, words: Sequence[str] = ()) -> Source:
    """What names the modules of a run, beside the words of a command line."""
    return Source(f"the run in {folder}", trust, named_modules(words))


def read_config(folder: Path) -> RunConfig:
    """Reads the options of a run from its config.json, as the configuration of its learner.

    Raises:
        UsageError: there is no such run, or its learner is unknown.

    """
    options = read_options(folder)
    if "learner" not in options:
        raise UsageError(
            f"{folder / CONFIG} names no learner, because an earlier version wrote it: add "
            '"learner": "maml" (or "rl2", "few_shot") to its "config"'
        )
    if not isinstance(options["learner"], str):
        raise UsageError(f"{folder / CONFIG} is damaged: its learner is not text")
    config_class = LEARNERS.find(options["learner"]).Config
    try:
        return config_class.from_json(options | {"run_dir": str(folder)})
    except ValueError as error:
        raise UsageError(f"{folder / CONFIG} is damaged: {error}") from error


def differences(
    before: Mapping[str, object], now: Mapping[str, object], config: RunConfig
) -> list[str]:
    """The options that a resumed run must not change and that differ: `--inner-lr 0.1, not 0.2`.

    Args:
        before: the options of the run, as JSON has them.
        now: other ones.
        config: the configuration that `now` is of.

    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    differing = []
    for name, value in now.items():
        # An option that came later, or with another package, had its default before.
        old, new = before.get(name, as_json(defaults.get(name))), as_json(value)
        if name in config.changeable or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            differing += [
                f"{option(name)} {key} {old.get(key)}, not {new.get(key)}"
                for key in {**old, **new}
                if old.get(key) != new.get(key)
            ]
        else:
            differing.append(f"{option(name)} {one_line(str(old))}, not {one_line(str(new))}")
    return differing


def expect_continues(folder: Path, config: RunConfig) -> None:
    """Checks that what a folder holds, if anything, is a run with these options.

    Raises:
        UsageError: it is a run with others; the message names them.

    """
    if not (folder / CONFIG).exists():
        return
    if differing := differences(read_options(folder), as_json(config.to_json()), config):
        remedy = "give another --run-dir, or delete it"
        raise UsageError(f"{folder} holds a run with {'; '.join(differing)}: {remedy}")


def as_json(value: object) -> Any:
    """What JSON makes of the value: a list of a tuple, a text of a path."""
    return json.loads(json.dumps(value, default=str))


def _expect_trained_with(config: RunConfig, state: State, folder: Path) -> None:
    """Checks that the options of a run folder are those with which a checkpoint was trained."""
    if "config" not in state:  # an earlier version wrote it
        return
    if differing := differences(state["config"], config.to_json(), config):
        raise UsageError(
            f"checkpoint {state['iteration']} of {folder} was trained with "
            f"{'; '.join(differing)}: correct {CONFIG}, which was changed since"
        )


def restore(learner: BaseLearner, state: State, folder: Path) -> None:
    """Continues from the state of a checkpoint.

    Raises:
        UsageError: the state is not that of such a learner; names what differs.

    """
    # A memory that grows is empty at first.
    own = {name: _form(value) for name, value in _tensors(learner.state()) if value.numel()}
    held = {name: _form(value) for name, value in _tensors(state)}
    differing = [
        f"{name} is {held[name]}, not {form}" if name in held else f"it lacks {name}"
        for name, form in own.items()
        # What came with a later version is lacking as a whole.
        if held.get(name) != form and name.split(".")[0] in state
    ]
    where = f"checkpoint {state['iteration']} of {folder} does not fit this run"
    if differing:
        raise UsageError(f"{where}: {'; '.join(differing[:10])}")
    try:
        learner.load_state(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise UsageError(f"{where}: {type(error).__name__}: {one_line(str(error))}") from error


def _tensors(state: State) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of a state, each with its keys."""
    yield from ((name, x) for name, x in numbers_in(state) if isinstance(x, Tensor))


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def initialise(learner: BaseLearner, folder: Path) -> int:
    """Begins with what the run in the folder has learned, by its newest checkpoint.

    Returns:
        The iteration of the checkpoint.

    Raises:
        UsageError: it does not fit; names the options of the policy that differ.

    """
    other = load(folder)
    other.close()
    if type(other) is not type(learner):
        raise UsageError(f"--init-from {folder}: {other.name} is another learner")
    held, now = as_json(other.config.to_json()), as_json(learner.config.to_json())
    names = learner.config.of_policy
    if "auto" in (held.get("policy"), now.get("policy")):  # the network may be the same
        names -= {"policy"}
    own = {name: now[name] for name in names}
    try:
        if differing := differences(held, own, learner.config):
            raise ValueError(f"its policy has {'; '.join(differing)}")
        learner.initialise(other)
    except (ValueError, RuntimeError) as error:
        reason = _other_spaces(learner, other) or " ".join(str(error).split())
        raise UsageError(f"--init-from {folder} does not fit this run: {reason}") from error
    return other.iteration


def _other_spaces(learner: BaseLearner, other: BaseLearner) -> str:
    """In which spaces the family of another learner differs, which says more than shapes do."""
    if not isinstance(learner, MetaLearner) or not isinstance(other, MetaLearner):
        return ""
    differing = [
        f"another {name.replace('_', ' ')}, {theirs}, not {mine}"
        for name, mine, theirs in differing_spaces(learner.family, other.family)
    ]
    return f"it has {' and '.join(differing)}" if differing else ""


def policy_of_run(folder: Path, config: RunConfig, named: Collection[str]) -> Json:
    """The options of a run's policy that `config` has too, apart from those that are `named`.

    Raises:
        UsageError: there is no such run, or it names a policy that is not trusted.

    """
    options = read_options(folder)
    hints = get_type_hints(type(config), include_extras=True)
    taken: Json = {n: options[n] for n in config.of_policy - set(named) if n in options}
    for name, value in taken.items():
        try:
            expect(value, hints[name], f'"{name}"')
        except ValueError as error:
            raise UsageError(f"{folder / CONFIG} is damaged: {error}") from error
    if ":" in taken.get("policy", ""):
        with options_of_a_run(source_of(folder)):
            MODULES.find(taken["policy"])
    return {name: tuple(x) if isinstance(x, list) else x for name, x in taken.items()}


def _newest(folder: Path) -> State:
    state = load_newest(folder / "checkpoints")
    if state is None:
        raise UsageError(f"{folder} has no checkpoint yet")
    return state


def _read_checkpoint(folder: Path, which: str, learner: BaseLearner) -> State:
    """The state of a run at an iteration, or its best one."""
    by_iteration = {int(path.name): path for path in checkpoints_in(folder / "checkpoints")}
    if which == "best":
        best = best_iteration(learner, read_metrics(folder), by_iteration)
        if best is None:
            raise UsageError(f"no checkpoint of {folder} was evaluated in training: name one")
        return load_checkpoint(by_iteration[best])
    if not which.isdecimal() or int(which) not in by_iteration:
        has = ", ".join(map(str, by_iteration))
        raise UsageError(f"--checkpoint {which}: {folder} has newest, best, {has}")
    return load_checkpoint(by_iteration[int(which)])
