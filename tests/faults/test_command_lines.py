"""Command lines that nobody should type: each ends in one line, or does what it says."""

import contextlib
import io
import os
import re
import shutil
import signal
import traceback

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import metarl
from metarl.cli import check
from metarl.cli import train as train_command
from metarl.cli.main import COMMANDS, main
from metarl.learners.presets import ALGORITHMS, CONTROLS
from metarl.simulation.checker import findings_of
from metarl.simulation.checks import CHECKS
from metarl.studies import comparison, tuning
from metarl.tasks.family import make_family

EXIT_CODES = {0, 1, 2}
LONGEST_LINE = 700
"""Characters of a message: values in it are cut."""
SECONDS = 60
"""After which a command counts as one that hangs."""
SMALL = [
    *("--meta-batch-size", "2", "--episodes", "2", "--horizon", "3", "--hidden-sizes", "4"),
    *("--device", "cpu", "--threads", "1", "--eval-every", "0", "--eval-tasks", "2"),
    *("--iterations", "1"),
]
BEGINNINGS = {
    "train": ["--family envs:Navigation2D-v0 --run-dir new", "--resume --run-dir run",
              "--learner rl2 --family envs:Navigation2D-v0 --run-dir new --trials 2 --episodes 2 "
              "--horizon 3",
              "--family envs:BernoulliBandit-v0 --run-dir new", ""],
    "evaluate": ["run --tasks 2 --adaptations 1 --steps 1", "run", ""],
    "adapt": ["run --out adapted", "run --task goal=0.1,0.2 --out adapted", ""],
    "compare": ["--family envs:Navigation2D-v0 --run-dir new", ""],
    "tune": ["--family envs:Navigation2D-v0 --run-dir new --search inner-lr=0.01:1", ""],
    "plot": ["run --out figure", ""],
    "families": ["", "envs"],
    "algorithms": [""],
    "show": ["envs:Navigation2D-v0 --out clip.gif --steps 2", ""],
    "check": ["envs:BernoulliBandit-v0", ""],
    "new-family": ["Reach", "Walk --mujoco", ""],
}  # fmt: skip
WHOLE = ("0", "1", "2", "3", "-1", "99999999999999999999", "9" * 400, "1.0", "1e1")
"""No size for which a machine lacks memory or time: it is no mistake of the command line."""
NUMBERS = (
    *("0", "1", "2", "-1", "0.5", "1e-300", "1e300", "-1e300", "1e38", "nan", "inf", "-inf", "1e5"),
    *("0x10", "1_000", "1,5", "1.5.2", "٣", "--1", "1e", "true", "None", "1 2"),
)
WORDS = (
    *("", " ", "-", "--", "=", ":", "::", ".", "..", "~", "*", "%s", "{}", "\\", "'", '"'),
    *("a" * 250, "a/" * 150, "é" * 200, "🦾", "\x07", "new\nline", "\x1b[31m", "run", "missing"),
    *("envs:Nothing-v0", "envs:", ":Navigation2D-v0", "nowhere:Navigation2D-v0", "os:getcwd"),
    *("envs:Navigation2D-v0", "torch.nn:Linear", "goal=0.1", "goal=x,y", "goal=", "=0.1"),
    *("/proc/self/mem", "/dev/null/run", "/root/../etc/passwd/run", "train", "promp", "mlp"),
)


TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=12)
"""A command line cannot have the character 0."""


def options_of(command, *learner):
    """The options that --help lists, and the kind of their values."""
    if not COMMANDS[command].has_options:
        return {"--mujoco": ""}
    output = io.StringIO()
    more = ["--family", "envs:Navigation2D-v0"] if command in ("train", "compare", "tune") else []
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([command, *more, *learner, "--help"])
    return dict(
        re.findall(r"(?m)^[^\w-]*(--[a-z][a-z0-9-]*)(?: (?:\{None\}\|)?(\S+))?", output.getvalue())
    )


def values_of(name, kind):
    """Values that an option may have, and others."""
    if name in LARGE:
        return st.sampled_from(("0", "-1", "x", "1.5"))
    fitting = {"INT": WHOLE, "[INT": WHOLE, "FLOAT": NUMBERS, "[FLOAT": NUMBERS}.get(kind, WORDS)
    if kind.startswith("{"):
        fitting = tuple(kind.strip("{}|,").split(","))
    anything = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(WORDS), TEXTS)
    return st.one_of(st.sampled_from(fitting), st.sampled_from(fitting), anything)


OPTIONS = {command: options_of(command) for command in COMMANDS}
LARGE = {"--workers", "--threads", "--seeds", "--processes", "--clips"}
"""Options whose numbers start processes or threads, or make files."""


@st.composite
def lines(draw):
    """A command, a beginning that is right or not, and options with values of any kind."""
    command = draw(st.sampled_from(list(COMMANDS)))
    words = [*draw(st.sampled_from(BEGINNINGS[command])).split()]
    if command == "train" and words:
        words += SMALL[-2:] if "--resume" in words else SMALL[8:] if "rl2" in words else SMALL
    known = OPTIONS[command]
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.integers(0, 9)) == 0:
            words.insert(draw(st.integers(0, len(words))), draw(st.sampled_from(WORDS)))
            continue
        name = draw(st.sampled_from(sorted(known)))
        number = draw(st.sampled_from((0, 1, 1, 1, 2))) if known[name] else 0
        own = [draw(values_of(name, known[name])) for _ in range(number)]
        words += [f"{name}={own[0]}"] if own and draw(st.booleans()) else [name, *own]
    return [command, *words]


def hang(*_):
    raise TimeoutError(f"more than {SECONDS} s")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a run."""
    folder = tmp_path_factory.mktemp("lines")
    config = metarl.Config(
        family="envs:Navigation2D-v0", iterations=1, run_dir=folder / "run", meta_batch_size=2,
        episodes=2, horizon=3, hidden_sizes=(4,), device="cpu", threads=1, eval_every=0,
    )  # fmt: skip
    metarl.train(config)
    shutil.copytree(folder / "run", folder / "kept")
    return folder


def outcome(words):
    """The exit code of a command, what it wrote to standard error, and its traceback if any."""
    output, errors = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main(words)
        return 0, errors.getvalue(), ""
    except SystemExit as exit:
        return exit.code or 0, errors.getvalue(), ""
    except BaseException:
        return 1, errors.getvalue(), traceback.format_exc()
    finally:
        signal.alarm(0)


def fault(words, folder):
    """What is wrong with how the command ended: (outcome, why); None if nothing is."""
    before = {path.name for path in folder.iterdir()}
    code, errors, trace = outcome(words)
    new = {path.name for path in folder.iterdir()} - before
    if trace:
        return "traceback", trace.splitlines()[-1]
    if code not in EXIT_CODES:
        return "silent", f"exit code {code}"
    messages = [line for line in errors.splitlines() if line.startswith("error: ")]
    if code and len(messages) != 1:
        return "silent", f"exit code {code} with {errors!r}"
    if any(len(line) > LONGEST_LINE for line in messages):
        return "silent", f"a message of {len(messages[0])} characters"
    if code == 2 and new and "is not finite" not in errors:  # a run that has begun
        return "lost", f"left {new} and said {messages}"
    return None


def begin_anew(folder):
    for path in folder.iterdir():
        if path.name not in ("run", "kept"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if {p.name for p in (folder / "run").iterdir()} != {
        p.name for p in (folder / "kept").iterdir()
    }:
        shutil.rmtree(folder / "run")
        shutil.copytree(folder / "kept", folder / "run")


def noted(words, folder, counts):
    """Tries a command line, and counts what came of it."""
    begin_anew(folder)
    wrong = fault(words, folder)
    if wrong is None:
        counts.add("survived", "")
    else:
        counts.add(wrong[0], f"{wrong[1]}\n    metarl {' '.join(map(repr, words))}")


def tried(examples, folder, counts, monkeypatch):
    """Tries so many command lines, the same ones each time."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)

    def no_jobs(*arguments, **options):
        raise SystemExit(0)  # the command line was right; what jobs do is tested elsewhere

    for module in (comparison, tuning, train_command):
        monkeypatch.setattr(module, "run_jobs", no_jobs)

    # Processes of `check` take seconds each: what they do is tested elsewhere, too.
    monkeypatch.setattr(check, "check_apart", lambda name: findings_of(make_family(name)))
    monkeypatch.delitem(CHECKS, "pickles")

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(lines())
    def each(words):
        noted(words, folder, counts)

    each()
    counts.expect_survival(at_least=examples)


@pytest.mark.faults
def test_command_lines(folder, counts, monkeypatch):
    tried(int(os.environ.get("FUZZ", 5000)), folder, counts, monkeypatch)


LEARNERS = ["--learner rl2", *(f"--algorithm {name}" for name in ALGORITHMS | CONTROLS)]


@pytest.mark.parametrize(
    "learner",
    [
        pytest.param(name, marks=() if name.endswith("promp") else pytest.mark.faults)
        for name in LEARNERS
    ],
)
def test_numbers_that_are_too_large(learner, folder, counts, monkeypatch):
    """Every number of every algorithm, beyond what float32 holds and just within."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    beginning = BEGINNINGS["train"][2 if "rl2" in learner else 0].split()
    sizes = SMALL[8:] if "rl2" in learner else SMALL
    numbers = [n for n, kind in options_of("train", *learner.split()).items() if "FLOAT" in kind]
    for name in numbers:
        for value in ("1e300", "3e38"):
            noted(["train", *beginning, *sizes, *learner.split(), name, value], folder, counts)
    assert {"--inner-lr", "--clip", "--gae-lambda"} & set(numbers)
    counts.expect_survival(at_least=2 * len(numbers))
