"""Services that record a run's metrics besides its folder: Weights & Biases and MLflow."""

import importlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from metarl.support.distribution import DISTRIBUTION
from metarl.support.errors import UsageError
from metarl.support.files import replace_durably
from metarl.support.parts import Parts, takes

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """A run as a service records it.

    It is made from the service's id of the run (None for a new run), the run folder, and the
    options of the run.
    """

    id: str
    """The service's id of the run, which a resumed run continues."""

    def write(self, metrics: Mapping[str, float]) -> None:
        """Sends the metrics of one iteration."""

    def close(self, failed: bool) -> None:
        """Ends the run."""


class WandbSink:
    """Weights & Biases, which copies all that is written for TensorBoard, including figures."""

    package = "wandb"

    def __init__(self, run_id: str | None, folder: Path, options: Mapping[str, object]):
        """Begins a run, or continues `run_id`; call it before the TensorBoard writer is created."""
        wandb = _package(self.package)
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
        """Does nothing: Weights & Biases copies the metrics from TensorBoard."""

    def close(self, failed: bool) -> None:
        """Sends the remaining data and ends the run."""
        self._run.finish(exit_code=int(failed))


class MLflowSink:
    """MLflow: records the options as parameters, and the metrics by iteration."""

    package = "mlflow"

    def __init__(self, run_id: str | None, folder: Path, options: Mapping[str, object]):
        """Begins a run, or continues `run_id`."""
        self._mlflow = mlflow = _package(self.package)
        self.id: str = mlflow.start_run(run_id=run_id, run_name=str(folder)).info.run_id
        if run_id is None:  # MLflow refuses a second value of a parameter
            mlflow.log_params(options)

    def write(self, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of one iteration."""
        values = {name: value for name, value in metrics.items() if name != "iteration"}
        self._mlflow.log_metrics(values, step=int(metrics["iteration"]))

    def close(self, failed: bool) -> None:
        """Ends the run as finished or failed."""
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


SINKS = Parts[Callable[[str | None, Path, Mapping[str, object]], Sink]](
    "--sinks",
    "metarl.sinks",
    {"wandb": WandbSink, "mlflow": MLflowSink},
    takes("run_id", "folder", "options"),
    "a class that is made from (run_id, folder, options)",
    "MODULE:CLASS",
)
"""The extras that install the packages of metarl's own have the names of these."""


def check_sinks(names: Iterable[str]) -> None:
    """Checks the names.

    Raises:
        UsageError: there is no sink of that name.

    """
    for name in names:
        SINKS.find(name)


class Sinks:
    """The sinks of one run.

    A sink that cannot begin is an error. A sink that fails later is dropped with a warning, because
    the run folder has the metrics, and training should go on.
    """

    def __init__(self) -> None:
        self._open: dict[str, Sink] = {}

    def open(self, names: Iterable[str], folder: Path, options: Mapping[str, object]) -> None:
        """Begins or continues the run at each sink; `folder`/<sink>.id keeps the sink's id of it.

        Raises:
            UsageError: a package is not installed, or a sink cannot begin the run.

        """
        sinks = {name: SINKS.find(name) for name in names}
        for sink in sinks.values():  # before any of them begins
            if isinstance(package := getattr(sink, "package", None), str):
                _package(package)
        for name, sink in sinks.items():
            kept = folder / f"{name.replace(':', '-')}.id"
            try:
                run_id = kept.read_text().strip() if kept.exists() else None
                self._open[name] = sink(run_id, folder, options)
                replace_durably(kept, f"{self._open[name].id}\n".encode())
            except Exception as error:  # of any type that the service's package raises
                raise UsageError(f"--sinks {name} cannot begin: {_line(error)}") from error

    def write(self, metrics: Mapping[str, float]) -> None:
        """Sends the metrics of one iteration to each sink."""
        self._each(lambda sink: sink.write(metrics))

    def close(self, failed: bool = False) -> None:
        """Ends the run at each sink."""
        self._each(lambda sink: sink.close(failed))
        self._open.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name, sink in list(self._open.items()):
            try:
                call(sink)
            except Exception as error:  # of any type that the service's package raises
                del self._open[name]
                text = "%s gets no more metrics of this run; the run folder has all of them: %s"
                logger.warning(text, name, _line(error))


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        install = f'pip install "{DISTRIBUTION}[{name}]"'
        raise UsageError(f"--sinks {name} needs: {install} ({error})") from error


def _line(error: Exception) -> str:
    """The error's type and message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
