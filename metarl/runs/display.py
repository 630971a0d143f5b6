"""Progress of a run on standard output."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """Progress of a run: one live line in a terminal; elsewhere, one line per iteration."""

    def __init__(self, iterations: int, start: int = 0, measure: str = "return"):
        self._iterations = iterations
        self._measure = measure
        self._live: Progress | None = None
        if sys.stdout.isatty():
            columns = (
                TextColumn("iteration"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("before [bold]{task.fields[before]}"),
                TextColumn("after [bold]{task.fields[after]}"),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._live = Progress(*columns, console=Console(), expand=True)
            self._bar = self._live.add_task(
                "", total=iterations, completed=start, before="-", after="-", speed="-"
            )
            self._live.start()

    def update(self, metrics: Mapping[str, float], seconds_left: float) -> None:
        """Shows an iteration."""
        iteration = int(metrics["iteration"])
        before, after = (f"{metrics[f'{self._measure}/{x}']:.4g}" for x in ("before", "after"))
        speed = metrics.get("throughput/env_steps_per_second")
        shown = "" if speed is None else f"{speed:,.0f} steps/s"
        if self._live is not None:
            self._live.update(
                self._bar, completed=iteration, before=before, after=after, speed=shown
            )
            return
        minutes, seconds = divmod(round(seconds_left), 60)
        print(
            f"iteration {iteration}/{self._iterations}  before {before}  after {after}  "
            f"{shown}  left {minutes}:{seconds:02d}",
            flush=True,
        )

    def say(self, text: str, style: str = "none") -> None:
        """Prints a line above the live one."""
        if self._live is not None:
            self._live.console.print(text, style=style, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the live line."""
        if self._live is not None:
            self._live.stop()
