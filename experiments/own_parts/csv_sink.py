"""A sink of one's own: the metrics as a table with a row for each number.

From this folder:

    metarl train --family envs:Navigation2D-v0 --sinks csv_sink:CsvSink --iterations 5
"""

import csv
from collections.abc import Mapping
from pathlib import Path

FILE = "metrics.csv"


class CsvSink:
    """Appends (iteration, name, value) to metrics.csv of the run folder."""

    def __init__(self, run_id: str | None, folder: Path, options: Mapping[str, object]):
        """Begins the table, or continues that of the run `run_id`."""
        self.id = run_id or FILE
        self._file = open(folder / self.id, "a", newline="")  # noqa: SIM115 (until `close`)
        self._table = csv.writer(self._file)
        if run_id is None:
            self._table.writerow(("iteration", "name", "value"))

    def write(self, metrics: Mapping[str, float]) -> None:
        """Appends the metrics of one iteration."""
        iteration = int(metrics["iteration"])
        self._table.writerows((iteration, name, value) for name, value in metrics.items())
        self._file.flush()

    def close(self, failed: bool) -> None:
        """Ends the run."""
        self._file.close()
