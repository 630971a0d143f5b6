"""A meta-training run: recorded in a folder, resumed from it, ended in order by a signal."""

import dataclasses
import json
import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.figures import evaluation_figures
from metarl.learners.config import RESUMABLE, Config
from metarl.learners.maml import Learner
from metarl.runs.alarms import already_raised, raised
from metarl.runs.checkpoint import load_newest
from metarl.runs.display import Display
from metarl.runs.folder import CONFIG, RunFolder
from metarl.runs.sinks import check_sinks
from metarl.support.distribution import installed_version
from metarl.support.errors import UsageError
from metarl.support.options import option

logger = logging.getLogger(__name__)

SAME_REQUEST_SECONDS = 1.0
"""Signals that follow the first within this are the same request to stop."""


class Trainable(Protocol):
    """A learner that a run can train, record and resume."""

    config: Any
    """A frozen dataclass with the options of a run."""
    iteration: int
    name: str
    """What is learned, and where."""
    measure: str
    """What the curves show: `<measure>/before` and `<measure>/after` are among the metrics."""
    test_steps: int
    """Inner steps of an evaluation."""
    eval_splits: tuple[str, ...]
    """Splits that are evaluated during training."""

    def iterate(self) -> dict[str, float]:
        """One meta-iteration; its metrics."""

    def evaluate(self, *, split: str) -> Evaluation:
        """Tasks of a split after 0, 1, ... inner steps."""

    def describe(self) -> dict[str, Any]:
        """What config.json holds beside the options."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""


def train(config: Config) -> Learner:
    """Runs the configuration to its last iteration, in its run folder: see `run`."""
    learner = Learner(config)
    run(learner)
    return learner


def load(run_folder: str | Path, **changes: Any) -> Learner:
    """The learner of a run as its newest checkpoint has it.

    Args:
        run_folder: as `train` left it, or still writes it.
        changes: options that change no number of training, as `threads` and `test_later_lr`.

    Raises:
        UsageError: there is no such run, it has no checkpoint yet, or it is of another kind.

    """
    folder = Path(run_folder)
    described = read_options(folder)
    state = load_newest(folder / "checkpoints")
    if state is None:
        raise UsageError(f"{folder} has no checkpoint yet")
    options = described | {"device": "auto", "sampling_device": "cpu"} | changes
    learner = Learner(Config.from_json(options | {"run_dir": str(folder)}))
    learner.load_state(state)
    return learner


def read_options(folder: Path) -> dict[str, Any]:
    """The options of a run that `train` began, as config.json has them.

    Raises:
        UsageError: there is no such run, or it is of another kind.

    """
    try:
        options: dict[str, Any] = json.loads((folder / CONFIG).read_text())["config"]
    except OSError:
        raise UsageError(f"{folder} is no run folder: it has no {CONFIG}") from None
    except ValueError as error:
        raise UsageError(f"{folder / CONFIG} cannot be read: {error}") from None
    if "algorithm" not in options:
        raise UsageError(f"{folder} is not the run of a policy that adapts by gradients")
    return options


def run(learner: Trainable) -> None:
    """Trains a learner to its last iteration, in its run folder.

    The first SIGINT or SIGTERM ends the run after the iteration under way, with a checkpoint; the
    process then exits with 128 + the signal's number. One more, over a second later, ends it at
    once; a job manager and a parent process may both pass the first on.

    Raises:
        UsageError: the run cannot be begun; nothing of an existing run is changed.

    """
    check_sinks(getattr(learner.config, "sinks", ()))
    folder = RunFolder(learner.config.run_folder)
    failed = True
    try:
        seconds = _begin(learner, folder)
        with _interruptible() as interrupted:
            _loop(learner, folder, seconds, interrupted)
        failed = False
    finally:
        folder.close(failed)
    if interrupted() and learner.iteration < learner.config.iterations:
        number = interrupted()
        print(f"stopped after iteration {learner.iteration}; --resume goes on from there")
        raise SystemExit(128 + number)


def _begin(learner: Trainable, folder: RunFolder) -> float:
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
        _compare(folder.read_config()["config"], described["config"])
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
    learner: Trainable, folder: RunFolder, seconds: float, interrupted: Callable[[], int]
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
                before = time.perf_counter()
                evaluations = [learner.evaluate(split=split) for split in learner.eval_splits]
                for evaluation in evaluations:
                    metrics |= evaluation.metrics()
                figures = evaluation_figures(evaluations, learner.measure)
                folder.show(figures, learner.iteration)
                for evaluation in evaluations:
                    means = ", ".join(f"{returns.mean():.4g}" for returns in evaluation.returns)
                    display.say(f"{evaluation.split} tasks after 0, 1, ... inner steps: {means}")
                metrics["time/evaluation"] = time.perf_counter() - before
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
            pace = (metrics["seconds"] - seconds) / (learner.iteration - first)
            display.update(metrics, pace * (config.iterations - learner.iteration))
    finally:
        display.close()


def describe(learner: Trainable) -> dict[str, Any]:
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


def _compare(old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = []
    for name, value in new.items():
        # Through JSON a tuple is a list.
        same = old.get(name) == (list(value) if isinstance(value, tuple) else value)
        if name not in RESUMABLE and not same:
            differing.append(f"{option(name)} {old.get(name)}, not {value}")
    if differing:
        raise UsageError(f"cannot resume: the run has {'; '.join(differing)}")


def _git_commit() -> str | None:
    """The commit that the library's sources are of, if they are a checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


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
