"""An iteration in one process with several threads, and in as many processes of torchrun.

Both have as many cores; they run in turns. The limit is an efficiency of 90 %: seconds of one
process over those of several. With `--latency` the processes are two hosts, network namespaces of
this machine whose packets are delayed by so much.
"""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import tyro
from network import ENVIRONMENT, two_hosts
from scaling import Inputs

ITERATION = Path(__file__).with_name("iteration.py")
MODEL = Path(__file__).parent / "results" / "scaling.json"
LIMIT = 0.9


def main(
    ranks: int = 2,
    pairs: int = 5,
    iterations: int = 3,
    threads: int = 1,
    family: str = "envs:HalfCheetahDir-v0",
    latency: float | None = None,
) -> None:
    """Prints the seconds of each pair and the median of their ratios.

    Args:
        ranks: processes of torchrun.
        pairs: how often both run.
        iterations: of each run, after one to warm up.
        threads: of each process of torchrun; the single process has `ranks` times as many.
        family: which family is trained.
        latency: milliseconds from one host to the other, one way; without it, all processes are on
            one host.

    """
    if latency is not None and ranks != 2:
        sys.exit("error: --latency is between two hosts: leave --ranks out")
    options = ["--family", family, "--iterations", str(iterations), "--warmup", "1"]
    ratios = []
    for pair in range(pairs):
        alone = seconds(
            [[sys.executable, str(ITERATION), *options, "--threads", str(ranks * threads)]]
        )
        together = [str(ITERATION), *options, "--threads", str(threads)]
        with contextlib.ExitStack() as stack:
            if latency is None:
                torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
                commands = [[sys.executable, *torchrun, str(ranks), *together]]
            else:
                hosts = stack.enter_context(two_hosts(latency / 1000))
                commands = [host.torchrun(sys.executable, hosts[0], together) for host in hosts]
            several = seconds(commands)
        ratios.append(alone / several)
        print(f"pair {pair + 1}: alone {alone:.3f} s, {ranks} processes {several:.3f} s")
    middle = statistics.median(ratios)
    print(
        f"efficiency   {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f}); limit: at least "
        f"{LIMIT}"
    )
    if latency is not None:
        model = Inputs(**json.loads(MODEL.read_text()))
        left = model.after_messages(40, latency / 1000)
        print(f"model        {left:.3f}: {model.collectives} messages, 40 tasks of HalfCheetahDir")


def seconds(commands: list[list[str]]) -> float:
    """Median seconds of a whole iteration of commands that run at once; one of them prints it."""
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (ENVIRONMENT if len(commands) > 1 else {}),
        )
        for command in commands
    ]
    results = [process.communicate() for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("\n".join(errors for _, errors in results))
    (value,) = re.findall(r"^whole +([\d.]+) s", "".join(out for out, _ in results), re.MULTILINE)
    return float(value)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
