"""Small runs in processes of their own, and what their folders hold."""

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path

import torch
from forked import server
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

OPTIONS = {
    "family": "envs:Navigation2D-v0",
    "algorithm": "maml-pg",
    "meta_batch_size": 2,
    "episodes": 2,
    "horizon": 3,
    "hidden_sizes": (4,),
    "threads": 1,
    "device": "cpu",
    "iterations": 5,
    "eval_every": 2,
    "eval_tasks": 2,
    "checkpoint_every": 2,
    "keep_checkpoints": 1,
}
"""Five iterations: evaluations after 2 and 4, checkpoints after 2, 4 and 5, one of which is kept
beside the best."""

TIMED = ("seconds", "throughput", "time/")
"""What begins the names of metrics that two equal runs need not share."""
LAST = 5


def in_process(function, *arguments, output=None, seconds=120):
    """Calls the function in a fork of a process that has imported all; returns the exit code."""
    process = server.Process(target=_call, args=(function, arguments, output))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return "hangs"
    return process.exitcode


def _call(function, arguments, output):
    if output is not None:
        opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(opened, number)
    try:
        function(*arguments)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()


def train(folder, calls=None, **changes):
    """Trains a run as the command does, with one line for an error of the user."""
    from matplotlib.figure import Figure

    from metarl import Config
    from metarl.cli.command_line import one_line_errors
    from metarl.runs import run

    torch.set_num_threads(1)
    # A figure of its own, because a whole one takes most of the time of a small run.
    run.evaluation_figures = lambda *_: {"test": Figure((0.2, 0.2))}
    options = {**OPTIONS, "run_dir": folder, **changes}
    algorithm = options.pop("algorithm")
    with one_line_errors():
        if calls is not None:
            calls.install()
        with contextlib.redirect_stdout(sys.stderr) if calls is None else contextlib.nullcontext():
            run.train(Config.of(algorithm, **options))


def files_of(folder):
    """The names of the files of a run; all files of events are one."""
    names = {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
    return {"events" if name.startswith("events.") else name for name in names}


def metrics_of(folder):
    """metrics.jsonl without times."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(TIMED)}
        for line in lines
    ]


def config_of(folder):
    """config.json without what a resumed run has of its own."""
    config = json.loads((Path(folder) / "config.json").read_text())
    del config["git_commit"]  # metarl's, which may be worked on during the test
    return config | {"config": _lasting(config["config"])}


def _lasting(options):
    own = ("run_dir", "resume")
    return {name: value for name, value in options.items() if name not in own}


def checkpoints_of(folder):
    """The states of the checkpoints without times, as plain types."""
    states = {}
    for path in sorted((Path(folder) / "checkpoints").iterdir()):
        state = torch.load(path / "state.pt", weights_only=True)
        del state["seconds"]
        state["config"] = _lasting(state["config"])
        states[path.name] = _plain(state)
    return states


def _plain(value):
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def shown(folder):
    """What TensorBoard's Python loader reads: points of scalars, images, the last of each text."""
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in tags["scalars"]
        if not tag.startswith(TIMED)
    }
    images = {
        tag: [(event.step, event.encoded_image_string) for event in events.Images(tag)]
        for tag in tags["images"]
    }
    texts = {
        tag: [event.tensor_proto.SerializeToString() for event in events.Tensors(tag)][-1]
        for tag in tags["tensors"]
        if "config/" not in tag  # it names the folder
    }
    return scalars, images, texts, sorted(tags["tensors"])


def content(folder):
    """All that two equal runs share, by what it is."""
    scalars, images, texts, tags = shown(folder)
    return {
        "files": files_of(folder),
        "metrics": metrics_of(folder),
        "config": config_of(folder),
        "checkpoints": checkpoints_of(folder),
        "scalars": scalars,
        "images": images,
        "texts": texts,
        "tags": tags,
    }


def differing(folder, expected):
    """Which parts of the content differ from the expected one."""
    try:
        own = content(folder)
    except Exception as error:
        return [f"cannot be read: {error!r}"]
    return [name for name in expected if own[name] != expected[name]]
