"""Runs the commands of metarl in processes that need not import torch and the like first.

A command that a user starts imports for seconds before it does anything. Here a server process
imports once, and each command runs in a fork of it.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

PRELOADED = [
    *("torch._dynamo", "torch.utils.tensorboard", "sympy", "matplotlib.backends.backend_agg"),
    *("matplotlib.backends.backend_pdf", "array_api_compat.torch", "imageio_ffmpeg", "typeguard"),
    *("metarl.cli.train", "metarl.cli.evaluate", "metarl.cli.adapt", "metarl.cli.compare"),
    *("metarl.cli.plot", "metarl.cli.check", "metarl.cli.new_family", "metarl.policies.export"),
    *("metarl.learners.maml", "metarl.learners.rl2", "metarl.learners.few_shot"),
    "sklearn.datasets",
]
"""Not `envs`, of which a user's folder may have another, nor MuJoCo, which decides how to draw."""

TRAIN_ALL_BUT_ONE = """
import sys
from metarl.cli.compare import parse_comparison
from metarl.studies.comparison import outcome
comparison = parse_comparison(sys.argv[1:])
for name in comparison.names[1:]:
    outcome(comparison, name, 1)
"""

SECONDS = 300
"""The longest time that a command may take."""

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(PRELOADED)


def python(*arguments, cwd=None, path=()):
    """What `subprocess.run` would return for the interpreter with these arguments.

    Use a real process for what is decided when Python starts or metarl is imported.

    Args:
        arguments: `-m MODULE`, `-c CODE` or a script, and what follows it.
        cwd: working folder of the command.
        path: folders that stand first in PYTHONPATH.

    """
    words = [str(argument) for argument in arguments]
    path = [str(folder) for folder in path]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        for output in outputs:
            output.touch()
        process = server.Process(
            target=_run, args=(words, cwd or os.getcwd(), dict(os.environ), path, outputs)
        )
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        stdout, stderr = (output.read_text() for output in outputs)
    return subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)


def metarl(*arguments, cwd=None, path=()):
    """The same for the `metarl` command."""
    return python("-m", "metarl", *arguments, cwd=cwd, path=path)


def compare(*options, cwd, path=()):
    """The same for `metarl compare` with one seed.

    It starts a process for each run that is not finished. All but the first are trained before, in
    one fork.
    """
    trained = python("-c", TRAIN_ALL_BUT_ONE, *options, cwd=cwd, path=path)
    return metarl("compare", *options, cwd=cwd, path=path) if not trained.returncode else trained


def _run(words, cwd, environment, path, outputs):
    """Makes this fork the process of a command line, and runs it."""
    for number, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY), number)
    os.chdir(cwd)
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()  # what "" of sys.path is to a child
    os.environ.clear()
    os.environ.update(environment)
    if path:
        os.environ["PYTHONPATH"] = os.pathsep.join([*path, environment.get("PYTHONPATH", "")])
    here = str(Path(__file__).parent)
    installed = [folder for folder in sys.path if folder != here]
    first, *rest = words
    if first == "-c":
        code, *sys.argv[1:] = rest
        sys.argv[0], sys.path = "-c", ["", *path, *installed]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        module, *sys.argv[1:] = rest
        sys.path = [os.getcwd(), *path, *installed]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path = [str(Path(first).resolve().parent), *path, *installed]
        runpy.run_path(first, run_name="__main__")
