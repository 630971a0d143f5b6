"""A learner outside metarl, in one file: trained, evaluated, adapted, plotted and compared."""

import dataclasses
import json
import shutil
from pathlib import Path

import forked
import pytest
import torch

from metarl import UsageError
from metarl.cli.main import main
from metarl.learners.config import FamilyRunConfig
from metarl.learners.iteration import whole
from metarl.learners.learner import MetaLearner
from metarl.learners.maml import MAMLLearner
from metarl.learners.maml_config import MAMLConfig
from metarl.policies.action_distributions import Categorical
from metarl.runs.run import run as run_learner
from metarl.sampling.actor import PolicyActor

FILE = Path(__file__).parents[1] / "experiments" / "own_learner" / "beta_bandit.py"
FAMILY = "envs:BernoulliBandit-v0"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """An installed package that announces the learner as `beta-bandit`."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(FILE, folder)
    info = folder / "beta_bandit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: beta-bandit\nVersion: 1.0\n")
    entry = "[metarl.learners]\nbeta-bandit = beta_bandit:BetaBandit\n"
    (info / "entry_points.txt").write_text(entry)
    return folder


def metarl(*arguments, cwd, package, status=0):
    return output_of(forked.metarl(*arguments, cwd=cwd, path=[package]), status)


def output_of(result, status=0):
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def run(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = ["--iterations", "20", "--eval-every", "10", "--eval-tasks", "100"]
    metarl(
        *("train", "--learner", "beta-bandit", "--family", FAMILY, *options),
        *("--run-dir", "run"),
        cwd=folder,
        package=package,
    )
    return folder


def test_it_is_trained_and_learns_the_prior(run):
    """The arms' probabilities are uniform over [0, 1], which is Beta(1, 1)."""
    config = json.loads((run / "run/config.json").read_text())["config"]
    assert config["learner"] == "beta-bandit"
    metrics = [json.loads(line) for line in (run / "run/metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 20
    # Of 4,000 arms; with the pulls after adaptation it would be 1.3.
    assert metrics[-1]["prior/a"] == pytest.approx(1, abs=0.15)
    assert metrics[-1]["prior/b"] == pytest.approx(1, abs=0.15)
    # Ten pulls of five arms without knowledge pay 1/2 on average; after them it pays more.
    assert metrics[-1]["test/step_0/mean"] == pytest.approx(0.5, abs=0.05)
    assert metrics[-1]["test/step_1/mean"] > 0.6


def test_it_is_resumed(run, package):
    output = metarl(
        *("train", "--resume", "--run-dir", "run", "--iterations", "21"), cwd=run, package=package
    )
    assert "iterations 21 to 21" in output


def test_it_is_evaluated_plotted_and_adapted(run, package):
    metarl("evaluate", "run", "--steps", "3", "--tasks", "50", cwd=run, package=package)
    steps = json.loads((run / "run/evaluation.json").read_text())["splits"]["test"]["steps"]
    assert len(steps) == 4
    assert steps[3]["mean"]["value"] > steps[0]["mean"]["value"] + 0.1
    metarl("plot", "run", cwd=run, package=package)
    assert (run / "curves.png").stat().st_size > 10_000
    task = "probability=.1,.1,.9,.1,.1"
    metarl(
        "adapt", "run", "--task", task, "--steps", "5", "--out", "policy", cwd=run, package=package
    )
    program = torch.export.load(run / "policy/policy.pt2").module()
    assert program(torch.zeros(3, 1)).tolist() == [2, 2, 2]


def test_it_is_compared_with_maml(run, package):
    small = ["--iterations", "1", "--seeds", "1", "--meta-batch-size", "4", "--episodes", "4"]
    result = forked.compare(
        *("--family", FAMILY, "--algorithms", "beta-bandit", "maml-pg", *small),
        *("--eval-tasks", "5", "--run-dir", "compared"),
        cwd=run,
        path=[package],
    )
    assert "beta-bandit, seed 1: finished\n" in output_of(result)
    lines = (run / "compared/comparison.csv").read_text()
    assert "maml-pg" in lines
    assert "beta-bandit" in lines


def test_its_options_are_on_the_command_line(run, package):
    arguments = ["train", "--learner", "beta-bandit", "--family", FAMILY, "--temperature", "0"]
    output = metarl(*arguments, cwd=run, package=package, status=2)
    assert output == "error: --temperature 0.0 must be a number above 0\n"
    assert "--temperature" in metarl(*arguments[:3], "--help", cwd=run, package=package)


def test_a_learner_that_does_not_exist_is_one_line(run, package):
    output = metarl(
        "train", "--learner", "beta-bandt", "--family", FAMILY, cwd=run, package=package, status=2
    )
    assert output.startswith("error: --learner beta-bandt must be one of ")
    assert output.endswith("did you mean beta-bandit?\n")


class Own(MAMLLearner):
    """MAML, of which a test replaces a method."""


class Abstract(MetaLearner):
    Config = MAMLConfig


class NoConfig(MetaLearner):
    __init__ = iterate = begin = deploy = state = load_state = None
    episodes = 1


class OtherConfig(NoConfig):
    Config = dict


CLASSES = {
    Abstract: "must define begin, deploy, episodes, iterate, load_state, state",
    NoConfig: "must define Config, a frozen dataclass derived from RunConfig",
    OtherConfig: "must define Config, a frozen dataclass derived from RunConfig",
}


@pytest.mark.parametrize("learner", CLASSES)
def test_a_learner_that_lacks_a_part_is_one_line(learner, capsys, tmp_path):
    name = f"test_own_learner:{learner.__name__}"
    with pytest.raises(SystemExit):
        main(["train", "--learner", name, "--family", FAMILY, "--run-dir", str(tmp_path / "run")])
    assert capsys.readouterr().err == f"error: --learner {name} {CLASSES[learner]}\n"
    assert not list(tmp_path.iterdir())


class NeedyConfig(NoConfig):
    Config = dataclasses.make_dataclass(
        "Needy", [("must", float)], bases=(MAMLConfig,), frozen=True, kw_only=True
    )


def test_an_option_without_default_is_one_line_on_the_command_line(capsys):
    name = "test_own_learner:NeedyConfig"
    with pytest.raises(SystemExit):
        main(["train", "--learner", name, "--family", FAMILY])
    assert capsys.readouterr().err == (
        f"error: --learner {name}: its option must has no default, as every option of a command "
        "line needs one\n"
    )


@pytest.fixture
def own():
    return Own(MAMLConfig(FAMILY, meta_batch_size=2, episodes=2, device="cpu"))


def added(learner, number=1):
    """The metrics of an iteration that adds to the learner's number."""
    learner.iteration += number
    return {"iteration": learner.iteration, "return/before": 0.0, "return/after": 1.0}


ITERATIONS = {
    "must return its metrics as a dict, not None": lambda learner: None,
    "metrics.size is 'large', not a number": lambda learner: added(learner) | {"size": "large"},
    "the metrics lack return/before, return/after": (
        lambda learner: {"iteration": added(learner)["iteration"]}
    ),
    "the metrics lack iteration": (
        lambda learner: {n: x for n, x in added(learner).items() if n != "iteration"}
    ),
    "must add 1 to self.iteration, which was 0 and is 0": lambda learner: added(learner, 0),
    "must add 1 to self.iteration, which was 0 and is 2": lambda learner: added(learner, 2),
    "the metric iteration must be self.iteration, 1, not 7": (
        lambda learner: added(learner) | {"iteration": 7}
    ),
}


@pytest.mark.parametrize("message", ITERATIONS)
def test_an_iteration_of_another_form_is_one_line(message, own, monkeypatch):
    monkeypatch.setattr(Own, "iterate", whole(ITERATIONS[message]))
    with pytest.raises(UsageError) as error:
        own.iterate()
    assert str(error.value).startswith("Own.iterate")
    assert message in str(error.value)
    assert own.iteration == 0


METHODS = {
    "Own.deploy must return (DeployedPolicy, parameters), not None": ("deploy", None),
    "Own.deploy must return (DeployedPolicy, parameters), not (0, {})": ("deploy", (0, {})),
    "Own.begin and learn must return what has actor() and learn(rollout), not None": (
        "begin",
        None,
    ),
    "Own: state() must return a dict of tensors and plain types, not None": ("state", None),
    "Own: state() must return a dict of tensors and plain types with an entry iteration; it has "
    "other": ("state", {"other": 1}),
}


@pytest.mark.parametrize("message", METHODS)
def test_a_method_that_returns_what_does_not_fit_is_one_line(message, own, monkeypatch):
    method, value = METHODS[message]
    monkeypatch.setattr(Own, method, lambda *arguments, **options: value)
    task = {"probability": [0.5] * 5}
    with pytest.raises(UsageError) as error:
        _ = own.iterate() if method == "state" else own.adapt(task, 1)
    assert str(error.value) == message


ACTORS = {
    "PolicyActor.act must return (distribution, values or None), not a Tensor": (
        "act",
        lambda actor, inputs: inputs,
    ),
    "PolicyActor.act must return (distribution, values or None), not a Categorical": (
        "act",
        lambda actor, inputs: Categorical(inputs),
    ),
    "PolicyActor.noise must return [*shape, action], here [1, 2, action], not an array [1, 2] of "
    "float64": ("noise", lambda actor, generator, *shape: generator.normal(size=shape)),
}


@pytest.mark.parametrize("message", ACTORS)
def test_an_actor_that_returns_what_does_not_fit_is_one_line(message, own, monkeypatch):
    monkeypatch.setattr(PolicyActor, *ACTORS[message])
    for mean_actions in (False, True):
        with pytest.raises(UsageError) as error:
            own.evaluate(1, 0, mean_actions=mean_actions)
        assert str(error.value) == message


def test_a_learner_that_keeps_every_task_leaves_none_out(own, monkeypatch):
    """The rollouts of those that are left out hold zeros, which it would learn from."""
    own.config = dataclasses.replace(own.config, non_finite="drop-task")
    own.iterate()
    monkeypatch.setattr(Own, "drops_tasks", MetaLearner.drops_tasks)
    with pytest.raises(UsageError, match=r"^--non-finite drop-task: Own does not leave tasks"):
        own.iterate()


class Unfinished(MAMLLearner):
    """What its configuration and its class lack is asked for by name."""

    Config = dataclasses.make_dataclass(
        "UnfinishedConfig", [], bases=(FamilyRunConfig,), frozen=True, kw_only=True
    )

    def __init__(self, config, family=None):
        pass


def test_what_only_a_comparison_or_a_run_asks_for_is_one_line(capsys):
    name = "test_own_learner:Unfinished"
    assert failure(capsys, "train", "--learner", name, "--family", FAMILY) == (
        f"error: --learner {name} must set self.test_steps in __init__\n"
    )
    assert failure(capsys, "compare", "--algorithms", name, "--family", FAMILY).startswith(
        "error: UnfinishedConfig must define episodes_per_iteration: a comparison gives"
    )


def failure(capsys, *arguments):
    with pytest.raises(SystemExit):
        main([*arguments])
    return capsys.readouterr().err


def test_the_help_of_options_without_a_docstring_does_not_list_them_twice(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--learner", "test_own_learner:Plain", "--help"])
    assert "PlainConfig(" not in capsys.readouterr().out


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainConfig(FamilyRunConfig):
    learner: str = "test_own_learner:Plain"


class Plain(MAMLLearner):
    Config = PlainConfig


def test_an_evaluation_that_is_none_is_one_line(own, monkeypatch, tmp_path):
    monkeypatch.setattr(Own, "evaluate", lambda *arguments, **options: None)
    own.config = dataclasses.replace(own.config, iterations=1, eval_every=1, run_dir=tmp_path)
    with pytest.raises(UsageError, match=r"^Own\.evaluate must return an Evaluation, not None$"):
        run_learner(own)


def test_a_state_that_cannot_be_read_again_ends_at_the_first_checkpoint(monkeypatch, tmp_path):
    state = MAMLLearner.state
    monkeypatch.setattr(Own, "state", lambda learner: state(learner) | {"x": object()})
    sizes = {"meta_batch_size": 2, "episodes": 2, "iterations": 9, "checkpoint_every": 2}
    options = {"eval_every": 0, "device": "cpu", "run_dir": tmp_path}
    with pytest.raises(UsageError, match="no checkpoint can hold the state: x is <object"):
        run_learner(Own(MAMLConfig(FAMILY, **sizes, **options)))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
