"""Environments that misbehave: a message of a few lines, no orphan, and no lost checkpoint.

Each kind is trained in process and in a worker, and checked. A fork of a server that has imported
torch stands for the process of a command, and forks of it for the workers; a few kinds run in
processes that are started as a user's are.
"""

import re
import time
from pathlib import Path

import forked
import pytest
from misbehaving import KINDS

from metarl.runs.checkpoint import checkpoints_in, load_checkpoint

HERE = Path(__file__).parent
PATH = [HERE, HERE.parent]
FAMILY = "misbehaving:Misbehaves-v0"
LIMIT = 2.0
"""Seconds that a call of an environment may take here."""
SLOW = 90
"""Seconds after which a command counts as one that hangs."""

PRELUDE = f"""
import multiprocessing, os, sys
os.setsid()
open("session", "w").write(str(os.getpid()))
import metarl.cli.check, metarl.simulation.processes, metarl.simulation.checker
import metarl.learners.maml, metarl.support.foreign
real = multiprocessing.get_context
if FORKS:
    multiprocessing.get_context = lambda method=None: real("fork" if method == "spawn" else method)
for module in list(sys.modules.values()):
    if FORKS and getattr(module, "START_LIMIT", None) == 300.0:
        module.START_LIMIT = {LIMIT}
metarl.support.foreign.Calling.__init__.__defaults__ = ({LIMIT},)
metarl.simulation.processes.ProcessEnvironments.__init__.__defaults__ = ({LIMIT}, (), "it")
metarl.cli.check.SILENCE = 4 * {LIMIT}
from metarl.cli.main import main
main(sys.argv[1:])
"""

TRAIN = [
    *("--iterations", "2", "--meta-batch-size", "2", "--episodes", "2", "--hidden-sizes", "4"),
    *("--eval-every", "0", "--checkpoint-every", "1", "--device", "cpu", "--threads", "1"),
    *("--worker-timeout", str(LIMIT)),
]
RESETS = 8
"""In the first iteration: of two tasks, two episodes and two stages."""
SAMPLE = {
    ("raise exit-0 in step", "process"),
    ("raise without-text in reset", "process"),
    ("observation short of step", "process"),
    ("drawn text", "process"),
    ("hang sleep in step", "process"),
    ("terminated text", "process"),
    ("raise generator-exit in step", "workers"),
    ("end exit-0 in step", "check"),
}
SPAWNED = {
    ("raise unpicklable in step", "workers"),
    ("hang c in step", "workers"),
    ("end exit-0 in step", "workers"),
    ("hang sleep in close", "workers"),
    ("raise exit-0 in step", "check"),
    ("hang c in step", "check"),
    ("end kill in step", "check"),
}
"""Kinds that also run in processes started as a user's are."""


def cases():
    for mode in ("process", "workers", "check"):
        for kind in KINDS:
            if mode == "process" and kind in ("end exit-0 in step", "hang c in step"):
                continue  # nothing in the same process can see either: --workers can
            marks = () if (kind, mode) in SAMPLE else pytest.mark.faults
            yield pytest.param(kind, mode, False, marks=marks)
            if (kind, mode) in SPAWNED:
                yield pytest.param(kind, mode, True, marks=pytest.mark.faults)


def left_behind(folder):
    """Processes of the session of a command that ran in the folder, but zombies."""
    session = (folder / "session").read_text()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, own = (process / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if own == session and state != "Z":
            found.append(process.name)
    return found


def ending(kind, mode, result):
    """How a command ended, and why that is what it is."""
    output = result.stdout + result.stderr
    if result.returncode == -9 and "kill" not in kind:
        return "hang", output
    if "Traceback (most recent call last)" in output or "BrokenProcessPool" in output:
        return "traceback", output
    if "fork" in kind:  # what it forks may hang where threads run
        return "survived" if "called fork, and" in output else "silent", output
    if result.returncode == 0:
        return "survived" if survives(kind, mode) else "silent", output
    if mode == "process" and re.match("end (exit-3|kill)", kind):
        return "survived", output  # the status alone says so
    said = result.stdout if mode == "check" and "FAULT" in result.stdout else result.stderr
    flat = re.sub(r"\s+", "", said)  # a table breaks its lines
    lines = [line for line in result.stderr.splitlines() if not line.startswith("WARNING")]
    enough = "misbehaving" in flat or "kinds:Kind" in flat
    if kind.startswith("raise") and "task_space" not in kind:
        enough &= bool(re.search(r"misbehaving\.py:\d+", flat))
    per_step = re.search(r"^(?!end).*(in|of) (step|reset)|reward|terminated|truncated", kind)
    if mode != "check" and per_step:
        enough &= "goal=" in flat and "seed" in flat
    dumped = any(line.startswith("Fatal Python error") for line in lines)  # where C code failed
    if not enough or (not dumped and (len(lines) > 5 or len(said) > 6000)):
        return "silent", output
    return "survived", output


def survives(kind, mode):
    """Whether nothing is wrong: what a fork has made ends by itself, and a check closes nothing."""
    if kind in ("million task numbers", "task_space unbounded"):
        return True
    return "in close" in kind and mode == "check"


@pytest.mark.parametrize(("kind", "mode", "started"), list(cases()))
def test_an_environment_that_misbehaves(kind, mode, started, tmp_path, monkeypatch, ended):
    monkeypatch.setattr(forked, "SECONDS", SLOW)
    code = PRELUDE.replace("FORKS", str(not started))
    late = not re.search("in (__init__|sample_task|close|task_space)|drawn|space", kind)
    if mode == "check":
        (tmp_path / "kinds.py").write_text(
            "import gymnasium\nimport misbehaving\ngymnasium.register('Kind-v0', "
            f"'misbehaving:Misbehaves', max_episode_steps=3, kwargs={{'kind': {kind!r}}})\n"
        )
        arguments = ["check", "kinds:Kind-v0"]
    else:
        after = str(RESETS if late else 0)
        arguments = ["train", "--family", FAMILY, "--family-options", "kind", kind, "after", after]
        arguments += [*TRAIN, "--run-dir", str(tmp_path / "run")]
        arguments += ["--workers", "1"] if mode == "workers" else []
    result = forked.python("-c", code, *arguments, cwd=tmp_path, path=PATH)
    how, why = ending(kind, mode, result)
    deadline = time.monotonic() + 5
    while left_behind(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left_behind(tmp_path), "an orphan"
    if late and mode != "check" and kind != "end fork in step":
        kept = checkpoints_in(tmp_path / "run" / "checkpoints")
        assert kept, f"no checkpoint\n{why}"
        for checkpoint in kept:
            load_checkpoint(checkpoint)
    ended(how, f"{result.returncode}\n{why[-3000:]}")
