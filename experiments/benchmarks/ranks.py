"""An iteration in one process with several threads, and in as many processes of torchrun.

Both have as many cores; they run in turns. The limit is an efficiency of 90 %: seconds of one
process over those of several.
"""

import re
import statistics
import subprocess
import sys
from pathlib import Path

import tyro

ITERATION = Path(__file__).with_name("iteration.py")
LIMIT = 0.9


def main(
    ranks: int = 2,
    pairs: int = 5,
    iterations: int = 3,
    threads: int = 1,
    family: str = "envs:HalfCheetahDir-v0",
) -> None:
    """Prints the seconds of each pair and the median of their ratios.

    Args:
        ranks: processes of torchrun.
        pairs: how often both run.
        iterations: of each run, after one to warm up.
        threads: of each process of torchrun; the single process has `ranks` times as many.
        family: which family is trained.

    """
    options = ["--family", family, "--iterations", str(iterations), "--warmup", "1"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    ratios = []
    for pair in range(pairs):
        alone = seconds([], [*options, "--threads", str(ranks * threads)])
        together = seconds(torchrun, [*options, "--threads", str(threads)])
        ratios.append(alone / together)
        print(f"pair {pair + 1}: alone {alone:.3f} s, {ranks} processes {together:.3f} s")
    middle = statistics.median(ratios)
    print(
        f"efficiency   {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f}); limit: at least "
        f"{LIMIT}"
    )


def seconds(launcher: list[str], options: list[str]) -> float:
    """Median seconds of a whole iteration."""
    command = [sys.executable, *launcher, str(ITERATION), *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    (value,) = re.findall(r"^whole +([\d.]+) s", result.stdout, re.MULTILINE)
    return float(value)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
