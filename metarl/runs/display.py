"""Progress of a run on standard output."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from metarl.support.text import counted


class Display:
    """Progress of a run: a line per iteration, and in a terminal a bar below the lines.

    The bar moves within an iteration with each rollout. How many an iteration has is known after
    the first one.
    """

    def __init__(self, iterations: int, start: int = 0, measure: str = "return"):
        self._iterations, self._done = iterations, start
        self._measure = measure
        self._rollouts, self._of_an_iteration = 0, 0
        self._live: Progress | None = None
        if sys.stdout.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:.1f} %"),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._live = Progress(*columns, console=Console(), expand=True)
            self._bar = self._live.add_task("", total=iterations, completed=start)
            self._show(start, "begins")
            self._live.start()

    def on_rollout(self, stage: int) -> None:
        """Shows that a rollout of the current iteration is done, that after `stage` inner steps."""
        self._rollouts += 1
        # The update follows the last rollout, and takes about as long as one.
        expected = max(self._of_an_iteration, self._rollouts) + 1
        self._show(
            self._done + self._rollouts / expected, f"sampled after {counted(stage, 'inner step')}"
        )

    def update(self, metrics: Mapping[str, float], seconds_left: float) -> None:
        """Shows an iteration."""
        self._done = int(metrics["iteration"])
        self._of_an_iteration = max(self._of_an_iteration, self._rollouts)
        self._rollouts = 0
        before, after = (f"{metrics[f'{self._measure}/{x}']:.4g}" for x in ("before", "after"))
        speed = metrics.get("throughput/env_steps_per_second")
        shown = "" if speed is None else f"{speed:,.0f} steps/s"
        minutes, seconds = divmod(round(seconds_left), 60)
        self.say(
            f"iteration {self._done}/{self._iterations}  before {before}  after {after}  "
            f"{shown}  left {minutes}:{seconds:02d}"
        )
        self._show(self._done, "done")

    def say(self, text: str, style: str = "none") -> None:
        """Prints a line, above the bar if there is one.

        Where the output is a file on a full disk, the line is dropped: the run folder has it.
        """
        try:
            if self._live is not None:
                self._live.console.print(text, style=style, markup=False, highlight=False)
            else:
                print(text, flush=True)
        except BrokenPipeError:
            raise
        except OSError:
            pass

    def close(self) -> None:
        """Ends the bar."""
        if self._live is not None:
            self._live.stop()

    def _show(self, completed: float, what: str) -> None:
        if self._live is not None:
            number = min(int(completed) + (what != "done"), self._iterations)
            self._live.update(
                self._bar, completed=completed, description=f"iteration {number}: {what}"
            )
