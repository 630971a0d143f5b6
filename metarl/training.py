"""A meta-training run: recorded in a folder, resumed from it, ended in order by a signal."""

import dataclasses
import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from metarl.config import RESUMABLE, Config, option
from metarl.errors import UsageError
from metarl.learner import Learner
from metarl.record import Display, RunFolder

logger = logging.getLogger(__name__)


def train(config: Config) -> Learner:
    """Runs the configuration to its last iteration, in its run folder.

    The first SIGINT or SIGTERM ends the run after the iteration under way, with a checkpoint; the
    process then exits with 128 + the signal's number. A second one ends it at once.

    Raises:
        UsageError: the run cannot be begun; nothing of an existing run is changed.

    """
    learner = Learner(config)
    folder = RunFolder(config.run_folder)
    try:
        seconds = _begin(learner, folder)
        with _interruptible() as interrupted:
            _loop(learner, folder, seconds, interrupted)
    finally:
        folder.close()
    if interrupted() and learner.iteration < config.iterations:
        number = interrupted()
        print(f"stopped after iteration {learner.iteration}; --resume goes on from there")
        raise SystemExit(128 + number)
    return learner


def _begin(learner: Learner, folder: RunFolder) -> float:
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
            learner.load_state(state)
            seconds = state["seconds"]
    elif config.resume:
        print(f"no run in {folder.path} to resume: beginning one")
    folder.open(described, learner.iteration, config.inner_steps)
    print(
        f"{learner.family.id} on {learner.device}, iterations {learner.iteration + 1} to "
        f"{config.iterations}, in {folder.path}",
        flush=True,
    )
    return seconds


def _loop(
    learner: Learner, folder: RunFolder, seconds: float, interrupted: Callable[[], int]
) -> None:
    config = learner.config
    display = Display(config.iterations, learner.iteration)
    start, first = time.perf_counter() - seconds, learner.iteration
    try:
        while learner.iteration < config.iterations and not interrupted():
            metrics = learner.iterate()
            last = learner.iteration == config.iterations or interrupted()
            if config.eval_every and learner.iteration % config.eval_every == 0:
                before = time.perf_counter()
                metrics |= learner.evaluate().metrics()
                metrics["time/evaluation"] = time.perf_counter() - before
            metrics["seconds"] = time.perf_counter() - start
            folder.write(metrics)
            if last or learner.iteration % config.checkpoint_every == 0:
                state = learner.state() | {"seconds": metrics["seconds"]}
                folder.save(learner.iteration, state)
            pace = (metrics["seconds"] - seconds) / (learner.iteration - first)
            display.update(metrics, pace * (config.iterations - learner.iteration))
    finally:
        display.close()


def describe(learner: Learner) -> dict[str, Any]:
    """What config.json holds: the resolved configuration and what it ran on."""
    config, family = learner.config, learner.family
    resolved = dataclasses.asdict(config) | {
        "run_dir": str(config.run_folder),
        "horizon": family.horizon,
    }
    declaration = getattr(family.prototype.unwrapped, "family", None)
    return {
        "config": resolved,
        "family": {
            "id": family.id,
            "options": dataclasses.asdict(declaration) if declaration else family.options,
            "task_space": {name: str(space) for name, space in family.task_space.items()},
            "splits": family.splits,
            "observation_space": str(family.prototype.observation_space),
            "action_space": str(family.prototype.action_space),
        },
        "versions": {
            name: version(name) for name in ("metarl", "torch", "numpy", "gymnasium", "mujoco")
        },
        "git_commit": _git_commit(),
        "device": {
            "learner": str(learner.device),
            "name": torch.cuda.get_device_name() if learner.device.type == "cuda" else "cpu",
            "threads": learner.workers.threads,
        },
    }


def _compare(old: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in new.items():
        # Through JSON a tuple is a list.
        same = old.get(name) == (list(value) if isinstance(value, tuple) else value)
        if name not in RESUMABLE and not same:
            raise UsageError(
                f"cannot resume: the run has {option(name)} {old.get(name)}, not {value}"
            )


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

    def receive(number: int, _frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        logger.warning("signal %d: stopping after this iteration", number)

    handlers = {
        number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
