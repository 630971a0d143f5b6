"""Where a run's metrics go beside its folder, if asked: Weights & Biases and MLflow."""

import importlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from metarl.support.distribution import DISTRIBUTION
from metarl.support.errors import UsageError
from metarl.support.files import replace_durably

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """A service that has been told of a run."""

    id: str
    """Its name for the run, which a resumed run goes on with."""

    def write(self, metrics: Mapping[str, float]) -> None:
        """Passes on one iteration."""

    def close(self, failed: bool) -> None:
        """Ends the run."""


class WandbSink:
    """Weights & Biases, which reads along what is written for TensorBoard, figures included."""

    def __init__(self, wandb: Any, run_id: str | None, folder: Path, options: Mapping[str, Any]):
        """Begins the run, or goes on with `run_id`; before the TensorBoard writer is made."""
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "metarl"),
            name=str(folder),
            id=run_id,
            resume="allow",
            config=dict(options),
            sync_tensorboard=True,
        )
        self.id: str = self._run.id

    def write(self, metrics: Mapping[str, float]) -> None:
        """Nothing: they come by TensorBoard."""

    def close(self, failed: bool) -> None:
        """Sends what is left."""
        self._run.finish(exit_code=int(failed))


class MLflowSink:
    """MLflow: the options as parameters, the metrics by iteration."""

    def __init__(self, mlflow: Any, run_id: str | None, folder: Path, options: Mapping[str, Any]):
        """Begins the run, or goes on with `run_id`."""
        self._mlflow = mlflow
        self.id: str = mlflow.start_run(run_id=run_id, run_name=str(folder)).info.run_id
        if run_id is None:  # MLflow takes no second value of a parameter
            mlflow.log_params(options)

    def write(self, metrics: Mapping[str, float]) -> None:
        """Logs them."""
        values = {name: value for name, value in metrics.items() if name != "iteration"}
        self._mlflow.log_metrics(values, step=int(metrics["iteration"]))

    def close(self, failed: bool) -> None:
        """Says how the run ended."""
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


SINKS: dict[str, Callable[[Any, str | None, Path, Mapping[str, Any]], Sink]] = {
    "wandb": WandbSink,
    "mlflow": MLflowSink,
}
"""By the name of the package and of the extra that installs it."""


def check_sinks(names: Iterable[str]) -> None:
    """Raises a `UsageError` where a name is no sink's."""
    for name in names:
        if name not in SINKS:
            raise UsageError(f"--sinks {name} must be one of {', '.join(SINKS)}")


class Sinks:
    """The sinks of one run.

    One that cannot begin is an error; one that fails later is warned of and left out, for the run
    folder has the metrics and the training is worth more.
    """

    def __init__(self) -> None:
        self._open: dict[str, Sink] = {}

    def open(self, names: Iterable[str], folder: Path, options: Mapping[str, Any]) -> None:
        """Begins the run at each sink; its name for the run is kept as <sink>.id in `folder`.

        Raises:
            UsageError: a package is not installed, or a sink did not take the run.

        """
        names = dict.fromkeys(names)
        packages = {name: _package(name) for name in names}
        for name, package in packages.items():
            kept = folder / f"{name}.id"
            try:
                run_id = kept.read_text().strip() if kept.exists() else None
                self._open[name] = SINKS[name](package, run_id, folder, options)
                replace_durably(kept, f"{self._open[name].id}\n".encode())
            except Exception as error:  # a service's errors are its own
                raise UsageError(f"--sinks {name} cannot begin: {_line(error)}") from error

    def write(self, metrics: Mapping[str, float]) -> None:
        """Passes on one iteration."""
        self._each(lambda sink: sink.write(metrics))

    def close(self, failed: bool = False) -> None:
        """Ends the run at each sink."""
        self._each(lambda sink: sink.close(failed))
        self._open.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name, sink in list(self._open.items()):
            try:
                call(sink)
            except Exception as error:  # a service's errors are its own
                del self._open[name]
                text = "%s gets no more of this run, whose folder has all: %s"
                logger.warning(text, name, _line(error))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        install = f'pip install "{DISTRIBUTION}[{name}]"'
        raise UsageError(f"--sinks {name} needs: {install} ({error})") from error


def _line(error: Exception) -> str:
    """What it says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
