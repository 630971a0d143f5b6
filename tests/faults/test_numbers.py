"""Every number that is infinite or NaN is found where it arises, and nothing of it stays.

A grid of algorithms, faults and choices of --non-finite. `pytest -m faults` runs the whole of it.
"""

import copy
import json
import math

import number_parts  # noqa: F401 (registers the family)
import numpy as np
import pytest
import torch
from torch import nn

from metarl import Config, FewShotConfig, RL2Config, UsageError, load, make_learner, train
from metarl.cli.main import main
from metarl.learners.few_shot import FewShotLearner
from metarl.learners.presets import ALGORITHMS
from metarl.policies.action_distributions import Gaussian
from metarl.support.errors import NonFiniteError
from metarl.support.finite import expect_finite_state
from metarl.tasks.samples import Samples

FAMILY = "number_parts:NotFinite-v0"
TINY = {
    "meta_batch_size": 8, "episodes": 2, "hidden_sizes": (4,), "eval_every": 0, "device": "cpu",
    "threads": 1,
}  # fmt: skip
CHOICES = ("stop", "skip", "drop-task")

ENVIRONMENT = {
    f"{what} {number} at {at}": {"what": what, "number": number, "at": at}
    for what in ("reward", "observation")
    for number in ("nan", "inf", "-inf", "huge")
    for at in (1, 4)
    if (what, number) != ("observation", "huge") or at == 1
}
"""Options of the family; some tasks have the fault."""
PARTS = {
    "values nan": {"baseline": "number_parts:nan_values"},
    "inner gradient": {"estimator": "number_parts:nan_gradient"},
    "adapted": {"inner_update": "number_parts:infinite"},
    "meta-gradient": {"inner_update": "number_parts:without_derivative"},
}
"""Options of the run."""
SETTINGS = {
    "inner-lr 1e6": {"inner_lr": 1e6},
    "inner-lr 1e30": {"inner_lr": 1e30},
    "outer-lr 10": {"outer_lr": 10.0},
    "outer-lr 1e38": {"outer_lr": 1e38},
    "max-kl 1e30": {"max_kl": 1e30},
    "constant": {"family_options": {"what": "constant"}},
    "constant, inner-lr 1e6": {"family_options": {"what": "constant"}, "inner_lr": 1e6},
}
"""Options with which a run may or may not diverge."""
WORDS = {
    "reward nan at 1": "the environment gave a reward that is not finite: nan at step 0",
    "reward inf at 4": "the environment gave a reward that is not finite: inf at step 3",
    "reward huge at 1": "rewards have a sum that is not finite",
    "observation nan at 1": "the policy sees an observation that is not finite: nan at step 1",
    "observation -inf at 4": "the policy sees an observation that is not finite: -inf at step 4",
    "values nan": "an advantage is not finite",
    "inner gradient": "the gradient of inner step 1 is not finite",
    "adapted": "an adapted parameter after inner step 1 is not finite",
    "meta-gradient": "the meta-gradient is not finite",
    "θ": "the policy gave an action that is not finite",
    "log-probability": "an action has a log-probability that is not finite",
    "action": "the policy gave an action that is not finite",
}
PATCHES = ("action", "log-probability", "θ", "KL", "state")
SAMPLE = {
    ("promp", "reward nan at 1", "drop-task"),
    ("maml-trpo", "observation nan at 1", "stop"),
    ("es-maml", "reward inf at 4", "drop-task"),
    ("rl2", "reward nan at 1", "drop-task"),
    ("maml-trpo", "inner gradient", "skip"),
    ("maml-trpo", "adapted", "stop"),
    ("promp", "meta-gradient", "stop"),
    ("promp", "KL", "stop"),
    ("maml-pg", "log-probability", "stop"),
    ("promp", "inner-lr 1e6", "stop"),
    ("promp", "outer-lr 10", "stop"),
    ("maml-trpo", "values nan", "skip"),
    ("maml-pg", "state", "skip"),
}
"""Cells of the grid that the default suite has."""


def grid():
    faults = (*ENVIRONMENT, *PARTS, *SETTINGS, *PATCHES)
    for algorithm in (*ALGORITHMS, "rl2"):
        for fault in faults:
            for choice in CHOICES:
                cell = algorithm, fault, choice
                if applies(algorithm, fault):
                    yield pytest.param(*cell, marks=() if cell in SAMPLE else pytest.mark.faults)


def applies(algorithm, fault):
    """Whether the algorithm has the part, and the part a derivative that it uses."""
    if algorithm == "rl2":
        return fault in ENVIRONMENT or fault in ("action", "log-probability", "θ", "state")
    options = ALGORITHMS[algorithm].options
    if not options.get("inner_steps", 1):
        return fault not in ("inner gradient", "adapted", "meta-gradient")
    if fault == "meta-gradient":
        return options.get("estimator") != "first_order" and options.get("adapts") != "context"
    return fault != "inner gradient" or "estimator" not in options or options["estimator"] == "lvc"


def made(algorithm, fault, choice):
    options = TINY | {"non_finite": choice}
    options["family_options"] = ENVIRONMENT.get(fault, {"what": "nothing"})
    if algorithm == "rl2":
        sizes = {"trials": 8, "episodes": 2, "hidden_size": 4, "minibatches": 2}
        kept = {n: options[n] for n in ("family_options", "non_finite", "eval_every", "device")}
        return make_learner(RL2Config(FAMILY, **kept, **sizes, threads=1))
    if algorithm == "es-maml":
        options["meta_batch_size"] = 16  # each task twice
    own = PARTS.get(fault, SETTINGS.get(fault, {}))
    options |= {n: x for n, x in own.items() if n in Config.__dataclass_fields__}
    return make_learner(Config.of(algorithm, family=FAMILY, **options))


def plant(learner, fault, monkeypatch):
    """Faults that are no option."""
    if fault == "θ":
        for p in parameters_of(learner).values():
            p.data.fill_(3e38)
    if fault in ("action", "log-probability"):
        name = {"action": "sample", "log-probability": "log_prob"}[fault]
        method = getattr(Gaussian, name)
        monkeypatch.setattr(Gaussian, name, lambda self, x: method(self, x) * torch.nan)
    if fault == "KL":
        kl = Gaussian.kl
        # Where the two are different, so that only a step shows it.
        monkeypatch.setattr(Gaussian, "kl", lambda self, other: kl(self, other) ** 0.5 * torch.inf)
    if fault == "state":
        state = type(learner).state
        broken = {"moment": torch.tensor([1.0, torch.inf])}
        before = learner.iteration

        def later(self):
            return state(self) | (broken if self.iteration > before else {})

        monkeypatch.setattr(type(learner), "state", later)


def parameters_of(learner):
    return getattr(learner, "parameters", None) or dict(learner.network.named_parameters())


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's of numbers that overflow
@pytest.mark.parametrize(("algorithm", "fault", "choice"), list(grid()))
def test_what_is_not_finite_is_found_and_named(algorithm, fault, choice, monkeypatch, ended):
    learner = made(algorithm, fault, choice)
    plant(learner, fault, monkeypatch)
    before = copy.deepcopy(learner.state())
    is_planted = fault not in SETTINGS
    try:
        metrics = learner.iterate()
    except NonFiniteError as error:
        text = str(error)
        assert choice == "stop"
        assert same(before, learner.state()), "the state has changed"
        # Faults of some tasks name the first of them.
        # RL² sees the reward in single precision.
        if fault in WORDS and (algorithm, fault) != ("rl2", "reward huge at 1"):
            assert WORDS[fault] in text
        assert "iteration 1" in text
        assert FAMILY in text
        assert "; try " in text
        assert "\n" not in text
        if fault in ENVIRONMENT:
            assert ", seed 1, training, iteration 1, after " in text
            assert ", task " in text
            assert float(text.partition("goal=")[2].partition(")")[0]) > 0
        ended("survived")
        return
    finally:
        monkeypatch.undo()
    assert learner.iteration == 1
    skipped = metrics.get("non_finite/skipped")
    if skipped:
        rest = learner.state() | {"iteration": 0}
        assert same(before, rest)
        assert math.isnan(metrics["return/after"])
    else:
        expect_finite_state(metrics)
    if fault != "θ":
        expect_finite_state(learner.state())
    if is_planted and choice == "stop" and not escapes(algorithm, fault, metrics):
        ended("silent", f"{metrics}")
    if choice == "drop-task" and fault in ENVIRONMENT:
        dropped = metrics["non_finite/dropped_tasks"]
        assert not skipped
        # Goals are uniform in [-1, 1]: some tasks have the fault, and some do not.
        assert 0 < dropped < getattr(learner.config, "meta_batch_size", 8)
        learned = not same(before, learner.state() | {"iteration": 0, "env_steps": 0})
        assert learned or not metrics["outer/accepted"]
    ended("survived")


def escapes(algorithm, fault, metrics):
    """Whether the algorithm rightly has nothing to say of a fault."""
    if fault == "observation huge at 1":
        return False
    if fault == "KL":  # a line search refuses such a step, and evolution measures none
        return (
            algorithm == "es-maml" or metrics.get("outer/accepted") == 0 or "reptile" in algorithm
        )
    return algorithm == "random" and fault == "meta-gradient"


class Slopes:
    """A few-shot problem: y = a x, with a fault in every third task."""

    name, measure, head, groups, higher_is_better = "slopes", "mse", (), (), False

    def __init__(self, fault="nan"):
        self.fault = fault
        self.module = nn.Linear(1, 1)
        self.loss = nn.functional.mse_loss

    def sample(self, number, generator, split):
        x = np.stack([generator(i).standard_normal((6, 1)) for i in range(number)])
        a = np.stack([generator(i).standard_normal((1, 1)) for i in range(number)])
        x, y = torch.from_numpy(x).float(), torch.from_numpy(a * x).float()
        if split == "train":
            y[::3] = {"nan": torch.nan, "inf": torch.inf, "huge": 3e38}[self.fault]
        return Samples(x[:, :3], y[:, :3]), Samples(x[:, 3:], y[:, 3:])

    def score(self, outputs, targets):
        return (outputs - targets).square().mean((1, 2))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("fault", ["nan", "inf", "huge"])
@pytest.mark.parametrize("outer", ["gradient", "reptile"])
def test_few_shot_tasks_that_are_not_finite_are_named(outer, fault, choice, ended):
    config = FewShotConfig(meta_batch_size=7, outer=outer, non_finite=choice, device="cpu")
    learner = FewShotLearner(config, Slopes(fault))
    before = copy.deepcopy(learner.state())
    if choice == "stop":
        with pytest.raises(NonFiniteError, match=r"slopes, seed 1, training, iteration 1, task 0"):
            learner.iterate()
        assert same(before, learner.state())
    else:
        metrics = learner.iterate()
        assert metrics["non_finite/skipped"] == (choice == "skip")
        assert metrics["non_finite/dropped_tasks"] == (3 if choice == "drop-task" else 0)
        expect_finite_state(learner.state())
        assert same(before, learner.state() | {"iteration": 0}) == (choice == "skip")
    ended("survived")


def strict(text):
    """JSON as its standard has it."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


SMALL = [
    *("--meta-batch-size", "8", "--episodes", "2", "--horizon", "4", "--eval-tasks", "4"),
    *("--hidden-sizes", "4", "--device", "cpu", "--threads", "1", "--checkpoint-every", "1"),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("fault", "choice"),
    [
        pytest.param(fault, choice, marks=() if sampled else pytest.mark.faults)
        for fault in ("nan", "inf", "huge")
        for choice in CHOICES
        for sampled in [(fault, choice) in {("nan", "skip"), ("huge", "drop-task")}]
    ],
)
def test_no_file_of_a_run_has_such_a_number(tmp_path, capsys, fault, choice, ended):
    """From the command line: the status, the metrics, the checkpoints, and what reads them."""
    run = tmp_path / "run"
    arguments = ["--family", FAMILY, "--family-options", "number", fault, *SMALL]
    arguments += ["--algorithm", "promp", "--iterations", "3", "--eval-every", "2"]
    command = ["train", *arguments, "--non-finite", choice, "--run-dir", str(run)]
    if choice == "stop":
        with pytest.raises(SystemExit) as exit:
            main(command)
        assert exit.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        ended("survived")
        return
    main(command)
    lines = [strict(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert {line["non_finite/skipped"] for line in lines} == {float(choice == "skip")}
    # Held-out tasks have the fault, too.
    assert lines[1]["non_finite/evaluations"] == 1
    for checkpoint in (run / "checkpoints").glob("[0-9]*"):
        state = torch.load(checkpoint / "state.pt", weights_only=True)
        state.pop("config")  # which has the number itself
        expect_finite_state(state)
    main(["plot", str(run), "--out", str(tmp_path / "curves")])
    ended("survived")


def test_a_checkpoint_with_such_a_number_is_refused(tmp_path, monkeypatch, capsys, ended):
    """As an earlier version wrote it: the one before is taken, or one line says why none is."""
    run = tmp_path / "run"
    family = ["--family", FAMILY, "--family-options", "what", "nothing", *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr("metarl.runs.checkpoint.expect_finite_state", lambda state: None)
        config_of = [*family, "--iterations", "2", "--eval-every", "0", "--run-dir", str(run)]
        main(["train", *config_of])
        from metarl.runs.checkpoint import load_checkpoint, save_checkpoint

        newest = load_checkpoint(run / "checkpoints" / "000002")
        next(iter(newest["parameters"].values()))[0] = torch.nan
        save_checkpoint(run / "checkpoints", 2, newest)
    learner = load(run)
    assert learner.iteration == 1
    with pytest.raises(UsageError, match=r"000002 is of a run that diverged: parameters\.\S+ is"):
        load(run, checkpoint=2)
    for command in (
        ["evaluate", str(run), "--checkpoint", "2"],
        ["adapt", str(run), "--checkpoint", "2", "--task", "goal=0.5"],
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main(command)
        assert exit.value.code == 2
        assert "is of a run that diverged" in capsys.readouterr().err
    main(["train", "--resume", "--run-dir", str(run), "--iterations", "3"])
    assert load(run).iteration == 3
    ended("survived")


def test_metrics_with_null_are_read_as_nan(tmp_path):
    config = Config(
        FAMILY, **TINY, iterations=1, non_finite="skip", run_dir=tmp_path / "run",
    )  # fmt: skip
    train(config)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert strict(text)["return/after"] is None
    from metarl.runs.metrics import read_metrics

    assert math.isnan(read_metrics(tmp_path / "run")[0]["return/after"])
