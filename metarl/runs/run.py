"""A run: a learner trained in a folder, resumed from it, ended in order by a signal."""

import dataclasses
import json
import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metarl.evaluation.figures import evaluation_figures
from metarl.learners.config import RunConfig
from metarl.learners.learner import BaseLearner
from metarl.learners.registry import find_learner, make_learner
from metarl.runs.alarms import already_raised, raised
from metarl.runs.checkpoint import load_newest
from metarl.runs.display import Display
from metarl.runs.folder import CONFIG, RunFolder
from metarl.runs.sinks import check_sinks
from metarl.support.distribution import installed_version
from metarl.support.errors import UsageError
from metarl.support.options import option
from metarl.support.types import Json

logger = logging.getLogger(__name__)

SAME_REQUEST_SECONDS = 1.0
"""Signals within this time after the first are the same request to stop."""


def train(config: RunConfig) -> BaseLearner:
    """Runs the configuration to its last iteration, in its run folder: see `run`."""
    check_sinks(config.sinks)
    learner = make_learner(config)
    run(learner)
    return learner


def load(run_folder: str | Path, **changes: Any) -> BaseLearner:
    """The learner of a run as its newest checkpoint has it.

    Args:
        run_folder: as `train` left it, or still writes it.
        changes: options that a resumed run may change, such as `threads` and `test_later_lr`.

    Raises:
        UsageError: there is no such run, or it has no checkpoint yet.

    """
    folder = Path(run_folder)
    config = read_config(folder)
    state = load_newest(folder / "checkpoints")
    if state is None:
        raise UsageError(f"{folder} has no checkpoint yet")
    # The run may have been trained on another machine.
    portable = {"device": "auto", "sampling_device": "cpu"}
    known = {field.name for field in dataclasses.fields(config)}
    changes = {name: value for name, value in portable.items() if name in known} | changes
    learner = make_learner(dataclasses.replace(config, **changes))
    learner.load_state(state)
    return learner


def read_config(folder: Path) -> RunConfig:
    """The options of a run, as its config.json has them; the learner's class has their types.

    Raises:
        UsageError: there is no such run, or its learner is not known here.

    """
    try:
        options: Json = json.loads((folder / CONFIG).read_text())["config"]
    except OSError:
        raise UsageError(f"{folder} is no run folder: it has no {CONFIG}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / CONFIG} cannot be read: {error}") from None
    if "learner" not in options:
        raise UsageError(
            f"{folder / CONFIG} names no learner, as an earlier version wrote it: add "
            '"learner": "maml" (or "rl2", "few_shot") to its "config"'
        )
    config_class = find_learner(options["learner"]).Config
    return config_class.from_json(options | {"run_dir": str(folder)})


def run(learner: BaseLearner) -> None:
    """Trains a learner to its last iteration, in its run folder.

    The first SIGINT or SIGTERM ends the run after the iteration under way, with a checkpoint; the
    process then exits with 128 + the signal's number. One more, over a second later, ends it at
    once; a job manager and a parent process may both pass the first on.

    Raises:
        UsageError: the run cannot be begun; nothing of an existing run is changed.

    """
    check_sinks(learner.config.sinks)
    folder = RunFolder(learner.config.run_folder)
    failed = True
    try:
        seconds = _begin(learner, folder)
        with _interruptible() as interrupted:
            _loop(learner, folder, seconds, interrupted)
        failed = False
    finally:
        folder.close(failed)
        learner.close()
    if interrupted() and learner.iteration < learner.config.iterations:
        number = interrupted()
        print(f"stopped after iteration {learner.iteration}; --resume goes on from there")
        raise SystemExit(128 + number)


def _begin(learner: BaseLearner, folder: RunFolder) -> float:
    """Restores or begins the run; the seconds it has taken before."""
    config = learner.config
    described = describe(learner)
    seconds = 0.0
    if folder.has_run:
        if not config.resume:
            raise UsageError(
                f"run folder {folder.path} holds a run: --resume continues it, another --run-dir "
                "begins a new one"
            )
        _compare(folder.read_config()["config"], described["config"], config.changeable)
        state = folder.load()
        if state is not None:
            if state["iteration"] > config.iterations:
                raise UsageError(
                    f"run folder {folder.path} has {state['iteration']} iterations, more than "
                    f"--iterations {config.iterations}: take as many, or another --run-dir"
                )
            learner.load_state(state)
            seconds = state["seconds"]
    elif config.resume:
        print(f"no run in {folder.path} to resume: beginning one")
    folder.open(
        described, learner.iteration, learner.measure, learner.test_steps, learner.eval_splits
    )
    print(
        f"{learner.name}, iterations {learner.iteration + 1} to {config.iterations}, in "
        f"{folder.path}",
        flush=True,
    )
    return seconds


def _loop(
    learner: BaseLearner, folder: RunFolder, seconds: float, interrupted: Callable[[], int]
) -> None:
    config = learner.config
    display = Display(config.iterations, learner.iteration, learner.measure)
    start, first = time.perf_counter() - seconds, learner.iteration
    history = folder.read_metrics()
    alarms = already_raised(history, config)
    try:
        last = learner.iteration >= config.iterations
        while not last:
            metrics = learner.iterate()
            if config.eval_every and learner.iteration % config.eval_every == 0:
                metrics |= _evaluated(learner, folder, display)
            metrics["seconds"] = time.perf_counter() - start
            folder.write(metrics)
            history.append(metrics)
            for name, message in raised(history, config).items():
                if name not in alarms:
                    alarms.add(name)
                    folder.say("alarms", f"**{name}**: {message}", learner.iteration)
                    display.say(f"iteration {learner.iteration}: {message}", "yellow")
            # Asked once: a signal after this line ends the next iteration, not this one unsaved.
            last = learner.iteration == config.iterations or interrupted() > 0
            if last or learner.iteration % config.checkpoint_every == 0:
                state = learner.state() | {"seconds": metrics["seconds"]}
                folder.save(learner.iteration, state)
                folder.prune(config.keep_checkpoints, _best_iteration(learner, history))
            pace = (metrics["seconds"] - seconds) / (learner.iteration - first)
            display.update(metrics, pace * (config.iterations - learner.iteration))
    finally:
        display.close()


def _evaluated(learner: BaseLearner, folder: RunFolder, display: Display) -> dict[str, float]:
    """Metrics of an evaluation on every split of the run, whose figures go to TensorBoard."""
    start = time.perf_counter()
    evaluations = [learner.evaluate(split=split) for split in learner.eval_splits]
    folder.show(evaluation_figures(evaluations, learner.measure), learner.iteration)
    metrics: dict[str, float] = {}
    for evaluation in evaluations:
        metrics |= evaluation.metrics()
        means = ", ".join(f"{returns.mean():.4g}" for returns in evaluation.returns)
        display.say(f"{evaluation.split} tasks after 0, 1, ... inner steps: {means}")
    return metrics | {"time/evaluation": time.perf_counter() - start}


def _best_iteration(learner: BaseLearner, history: list[dict[str, float]]) -> int | None:
    """The iteration with the best measure on held-out tasks after the last inner step."""
    tag = f"{learner.eval_splits[0]}/step_{learner.test_steps}/mean" if learner.eval_splits else ""
    evaluated = [metrics for metrics in history if tag in metrics]
    if not evaluated:
        return None
    best = max if learner.higher_is_better else min
    return int(best(evaluated, key=lambda metrics: metrics[tag])["iteration"])


def describe(learner: BaseLearner) -> Json:
    """What config.json holds: the resolved configuration and what it ran on."""
    own = learner.describe()
    resolved = dataclasses.asdict(learner.config) | {"run_dir": str(learner.config.run_folder)}
    packages = ("torch", "numpy", "gymnasium", "mujoco")
    return {
        "config": resolved | own.pop("config", {}),
        **own,
        "versions": {"metarl": installed_version()} | {name: version(name) for name in packages},
        "git_commit": _git_commit(),
    }


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], changeable: frozenset[str]) -> None:
    differing = []
    for name, value in new.items():
        # Through JSON a tuple is a list.
        same = old.get(name) == (list(value) if isinstance(value, tuple) else value)
        if name not in changeable and not same:
            differing.append(f"{option(name)} {old.get(name)}, not {value}")
    if differing:
        raise UsageError(f"cannot resume: the run has {'; '.join(differing)}")


def _git_commit() -> str | None:
    """The commit of metarl's own checkout, if it is one.

    Where metarl is installed in a virtual environment inside another repository, Git would answer
    with the commit of that one.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None
        git("ls-files", "--error-unmatch", "__init__.py")  # it is tracked there
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def _interruptible() -> Iterator[Callable[[], int]]:
    """In the block a first SIGINT or SIGTERM only makes the yielded function say its number."""
    received: list[int] = []
    first = 0.0

    def receive(number: int, _frame: Any) -> None:
        nonlocal first
        if received:
            if time.monotonic() - first > SAME_REQUEST_SECONDS:
                raise KeyboardInterrupt
            return
        received.append(number)
        first = time.monotonic()
        logger.warning("signal %d: stopping after this iteration", number)

    handlers = {
        number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
