"""A run: trains a learner in a folder, resumes it from there, and stops cleanly at a signal."""

import logging
import multiprocessing
import os
import reprlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.figures import evaluation_figures
from metarl.learners.base import BaseLearner
from metarl.learners.config import RunConfig, expect_any_config
from metarl.learners.registry import make_learner
from metarl.runs.alarms import already_raised, raised
from metarl.runs.display import Display
from metarl.runs.folder import RunFolder
from metarl.runs.loading import as_json, differences, initialise, restore
from metarl.runs.sinks import check_sinks
from metarl.runs.stopping import best_iteration, reason_to_stop
from metarl.support.distribution import installed_version
from metarl.support.errors import NonFiniteError, UsageError, expect_list
from metarl.support.modules import import_object
from metarl.support.parallel import Ranks
from metarl.support.parts import takes
from metarl.support.ranks import has_begun_before, is_leader, note_begin, ranks
from metarl.support.signals import SAME_REQUEST_SECONDS, requests_to_end
from metarl.support.spawned import end_unguarded
from metarl.support.types import Json

logger = logging.getLogger(__name__)

ENOUGH = -1
"""Stands for a callback's request to stop, where a signal has its number."""

FIGURES = 16
"""So many evaluations have figures in TensorBoard, before gaps between them begin to grow."""

Callback = Callable[[BaseLearner, Mapping[str, float]], str | None]
"""Called after each iteration with its metrics; a text, the reason, ends the run there."""


def train(
    config: RunConfig, callbacks: Sequence[Callback] = (), problem: object | None = None
) -> BaseLearner:
    """Trains the learner of a configuration in its run folder; see `run`.

    `problem` is that of a few-shot run whose configuration names none.
    """
    expect_any_config(config, "metarl.train")
    check_sinks(config.sinks)
    learner = make_learner(config, problem)
    run(learner, callbacks)
    return learner


def run(learner: BaseLearner, callbacks: Sequence[Callback] = ()) -> None:
    """Trains a learner in its run folder, to its last iteration or until a callback ends the run.

    Of the processes that torchrun has started, the first one alone has the folder, prints, and
    calls the callbacks. When torchrun starts them again, they go on from the newest checkpoint.

    SIGINT, SIGTERM or SIGHUP (a closed terminal) end the run with a checkpoint after the current
    iteration; the process then exits with status 128 + the signal's number. It also exits, without
    a checkpoint, if the iteration has not ended after `stop_timeout`, for example because an
    environment hangs. Another signal more than a second later ends it at once. Earlier ones are
    ignored, because a job manager and a parent process may both forward the same request.

    Raises:
        UsageError: the run cannot begin; an existing run in the folder is not changed.

    """
    expect_list(callbacks, "callbacks")
    end_unguarded()
    with _interruptible(learner.config.stop_timeout) as received:

        def stopped(enough: bool = False) -> int:
            """A signal that one of the processes has received, or ENOUGH; 0 to go on."""
            requests = processes.exchange(received() or ENOUGH * enough)
            return next(filter(None, requests), 0)

        for callback in callbacks:
            _expect_callback(callback, f"callback {_name_of(callback)}")
        named = [_find_callback(name) for name in learner.config.callbacks]
        processes = ranks(learner.config.rank_timeout)
        try:
            if processes.number > 1 and learner.config.eval_every:
                _expect_shared_evaluations(learner)
            if is_leader():
                last = _lead(learner, processes, stopped, [*callbacks, *named])
            else:
                last = _follow(learner, processes, stopped)
        finally:
            learner.close()
    if last > 0 and learner.iteration < learner.config.iterations:
        if is_leader():
            print(f"stopped after iteration {learner.iteration}; --resume continues from there")
        raise SystemExit(128 + last)


def _expect_shared_evaluations(learner: BaseLearner) -> None:
    """Checks, before hours of training, that the processes can share the evaluations."""
    tasks = learner.config.eval_tasks
    try:
        learner.expect_shares(tasks)
    except UsageError as error:
        raise UsageError(f"--eval-tasks {tasks}: {error}") from None


def _find_callback(name: str) -> Callback:
    found = import_object(name, "--callbacks")
    if not callable(found):
        raise UsageError(
            f"--callbacks {name} cannot be called: it is of type {type(found).__name__}"
        )
    callback: Callback = found
    _expect_callback(callback, f"--callbacks {name}")
    return callback


def _expect_callback(callback: Callback, name: str) -> None:
    if not takes("learner", "metrics")(callback):
        raise UsageError(f"{name} must be a function of (learner, metrics)")


def _name_of(callback: Callback) -> str:
    return getattr(callback, "__name__", type(callback).__name__)


def _called(callback: Callback, learner: BaseLearner, metrics: Mapping[str, float]) -> str | None:
    """What a callback returns; it gets a copy of the metrics, which it may change."""
    reason = callback(learner, dict(metrics))
    if reason is not None and not isinstance(reason, str):
        raise UsageError(
            f"callback {_name_of(callback)} returned a {type(reason).__name__}: it must return "
            "None, or a text to end the run"
        )
    return reason


def _lead(
    learner: BaseLearner,
    processes: Ranks,
    stopped: Callable[[bool], int],
    callbacks: Sequence[Callback],
) -> int:
    """Trains in the run folder; the number of the signal that ended it, ENOUGH or 0."""
    check_sinks(learner.config.sinks)
    folder = RunFolder(learner.config.run_folder)
    failed = True
    try:
        described = describe(learner)
        seconds = _begin(learner, folder, described)
        begun = learner.iteration > 0 or learner.config.init_from is not None
        processes.exchange(learner.state() if begun else None)
        options = as_json(described["config"])
        last = _loop(learner, folder, seconds, options, stopped, callbacks)
        failed = False
    finally:
        folder.close(failed)
    return last


def _follow(learner: BaseLearner, processes: Ranks, stopped: Callable[[], int]) -> int:
    """Does the share of a process that does not lead; what ended the run, as `_lead`."""
    state = processes.exchange(None)[0]
    if state is not None:
        learner.load_state(state)
    last = 0
    while learner.iteration < learner.config.iterations and not last:
        learner.iterate()
        if _evaluates(learner):
            for split in learner.eval_splits:
                _evaluation(learner, split)
        last = stopped()
    return last


def _evaluates(learner: BaseLearner) -> bool:
    """Whether the iteration just done ends with an evaluation."""
    every = learner.config.eval_every
    return every > 0 and learner.iteration % every == 0


def _begin(learner: BaseLearner, folder: RunFolder, described: Json) -> float:
    """Begins or resumes the run; returns the seconds that it has taken before."""
    config = learner.config
    seconds = 0.0
    if folder.has_run:
        if folder.has_begun and not (config.resume or has_begun_before()):
            raise UsageError(
                f"run folder {folder.path} holds a run: --resume continues it; to begin a new one, "
                "give another --run-dir or delete the folder"
            )
        state = folder.load()
        if folder.has_begun:
            # The checkpoint knows its options, config.json may have been changed since.
            held = state["config"] if state and "config" in state else folder.read_options()
            if differing := differences(held, described["config"], config):
                raise UsageError(f"cannot resume: the run has {'; '.join(differing)}")
        if state is not None:
            if state["iteration"] > config.iterations:
                raise UsageError(
                    f"run folder {folder.path} has {state['iteration']} iterations, more than "
                    f"--iterations {config.iterations}: give at least as many, or another --run-dir"
                )
            restore(learner, state, folder.path)
            seconds = state.get("seconds", 0.0)
    elif config.resume:
        print(f"{folder.path} holds no run to resume: beginning a new one")
    if config.init_from is not None and not learner.iteration:
        iteration = initialise(learner, Path(config.init_from))
        print(f"begins with checkpoint {iteration} of {config.init_from}")
    folder.open(
        described,
        learner.iteration,
        learner.measure,
        learner.test_steps,
        learner.eval_splits,
        config.hyperparameters,
    )
    note_begin()
    work = f"iterations {learner.iteration + 1} to {config.iterations}"
    if learner.iteration == config.iterations:
        work = f"all {config.iterations} iterations are done; a larger --iterations continues"
    better = "higher" if learner.higher_is_better else "lower"
    print(f"{learner.name}, {work}, in {folder.path}")
    print(
        f"before, after: mean {learner.measure} before and after adaptation, {better} is better",
        flush=True,
    )
    return seconds


def _loop(
    learner: BaseLearner,
    folder: RunFolder,
    seconds: float,
    options: Json,
    stopped: Callable[[bool], int],
    callbacks: Sequence[Callback],
) -> int:
    """Iterates to the end; the number of the signal that came before it, ENOUGH or 0."""
    config, last = learner.config, 0
    display = Display(config.iterations, learner.iteration, learner.measure)
    start, first = time.perf_counter() - seconds, learner.iteration
    history = folder.read_metrics()
    alarms = already_raised(history, config)
    try:
        while learner.iteration < config.iterations and not last:
            learner.on_rollout = display.on_rollout
            metrics = learner.iterate()
            learner.on_rollout = None
            if _evaluates(learner):
                metrics |= _evaluated(learner, folder, display)
            metrics["seconds"] = time.perf_counter() - start
            folder.write(metrics)
            history.append(metrics)
            for name, message in raised(history, config).items():
                if name not in alarms:
                    alarms.add(name)
                    folder.say("alarms", f"**{name}**: {message}", learner.iteration)
                    display.say(f"iteration {learner.iteration}: {message}", "yellow")
            reasons = [reason_to_stop(history, learner)]
            reasons += [_called(call, learner, metrics) for call in callbacks]
            for reason in filter(None, reasons):
                display.say(f"iteration {learner.iteration}: {reason}")
            # Read once: a later signal must not end the run before this iteration is saved.
            last = stopped(any(reasons))
            ends = last or learner.iteration == config.iterations
            if ends or learner.iteration % config.checkpoint_every == 0:
                state = learner.state() | {"seconds": metrics["seconds"], "config": options}
                folder.save(learner.iteration, state)
                best = best_iteration(learner, history, folder.saved_iterations())
                folder.prune(config.keep_checkpoints, best)
            pace = (metrics["seconds"] - seconds) / (learner.iteration - first)
            display.update(metrics, pace * (config.iterations - learner.iteration))
    finally:
        display.close()
    return last


def _evaluated(learner: BaseLearner, folder: RunFolder, display: Display) -> dict[str, float]:
    """Evaluates every split of the run and adds figures to TensorBoard; returns the metrics."""
    start = time.perf_counter()
    every = [_evaluation(learner, split) for split in learner.eval_splits]
    evaluations = [evaluation for evaluation in every if evaluation is not None]
    if evaluations and has_figures(learner.iteration // learner.config.eval_every):
        folder.show(evaluation_figures(evaluations, learner.measure), learner.iteration)
    metrics: dict[str, float] = {}
    for evaluation in evaluations:
        metrics |= evaluation.metrics()
        means = ", ".join(f"{returns.mean():.4g}" for returns in evaluation.returns)
        display.say(f"{evaluation.split} tasks after 0, 1, ... inner steps: {means}")
    if learner.config.non_finite != "stop":
        metrics["non_finite/evaluations"] = float(len(every) - len(evaluations))
    return metrics | {"time/evaluation": time.perf_counter() - start}


def has_figures(number: int) -> bool:
    """Whether TensorBoard gets the figures of an evaluation, the first of which has number 1.

    It gets the first 16, every second one until the 32nd, every fourth until the 64th, and so on:
    16 + 8 log2(n / 16) of n, so that long runs do not fill the disk.
    """
    return number % (1 << ((number - 1) // FIGURES).bit_length()) == 0


def _evaluation(learner: BaseLearner, split: str) -> Evaluation | None:
    """None if a number was infinite or NaN, and --non-finite is not to stop the run."""
    try:
        evaluation = learner.evaluate(split=split)
        if not isinstance(evaluation, Evaluation):
            given = reprlib.repr(evaluation)
            name = type(learner).__name__
            raise UsageError(f"{name}.evaluate must return an Evaluation, not {given}")
        return evaluation
    except NonFiniteError as error:
        if learner.config.non_finite == "stop":
            raise
        logger.warning("%s", error)
        return None


def describe(learner: BaseLearner) -> Json:
    """The content of config.json: the resolved options, the learner, versions and the commit."""
    own = learner.describe()
    packages = ("torch", "numpy", "gymnasium", "mujoco")
    return {
        "config": learner.config.to_json() | own.pop("config", {}),
        **own,
        "versions": {"metarl": installed_version()} | {name: version(name) for name in packages},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of metarl's own checkout; None if it is not a checkout.

    If metarl is installed in a virtual environment inside another repository, Git would report the
    commit of that repository.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None
        git("ls-files", "--error-unmatch", "__init__.py")  # fails if it is not tracked
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def _interruptible(seconds: float) -> Iterator[Callable[[], int]]:
    """In the block, the first request to end only sets what the yielded function returns.

    It returns the signal's number, or 0 before any signal. If the block does not end within
    `seconds`, the process does.
    """
    received: list[int] = []
    first = 0.0

    def receive(number: int) -> None:
        nonlocal first
        if received:
            if time.monotonic() - first > SAME_REQUEST_SECONDS:
                raise KeyboardInterrupt("a second signal ended the run without a checkpoint")
            return
        received.append(number)
        first = time.monotonic()
        logger.warning("signal %d: stopping after this iteration", number)

    def leave(number: int) -> None:
        print(
            f"error: the iteration has not ended {seconds:g} s after signal {number} "
            "(--stop-timeout), or another signal came: the run ends with the checkpoints it has",
            file=sys.stderr,
            flush=True,
        )
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(128 + number)

    with requests_to_end(receive, seconds, leave):
        yield lambda: received[0] if received else 0
