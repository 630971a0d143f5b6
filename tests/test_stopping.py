"""Runs that end before their last iteration: --target, --patience, --time-limit and callbacks."""

import json

import pytest

from metarl import Config, Learner, UsageError, train
from metarl.cli.main import main
from metarl.cli.train import progress_of
from metarl.evaluation.evaluation import judging_split
from metarl.runs.stopping import best_iteration, reason_to_stop
from metarl.studies.jobs import Job
from metarl.support.places import place_in_called_code

pytestmark = pytest.mark.usefixtures("no_figures")

TAG = "test/step_1/mean"
SMALL = {
    "family": "envs:Navigation2D-v0",
    "meta_batch_size": 2,
    "episodes": 2,
    "horizon": 3,
    "eval_every": 1,
    "eval_tasks": 2,
    "iterations": 3,
}


class Judged:
    """What the rule looks at of a learner."""

    eval_splits, test_steps, higher_is_better = ("test",), 1, True

    def __init__(self, **options):
        self.config = Config(**SMALL, **options)


class JudgedByLoss(Judged):
    higher_is_better = False


def history(*values, seconds=1.0):
    return [{"seconds": seconds} | ({} if v is None else {TAG: float(v)}) for v in values]


@pytest.mark.parametrize(
    ("options", "values", "stops"),
    [
        ({}, [1, 0, 0, 0], False),
        ({"target": 3}, [1, 2.9], False),
        ({"target": 3}, [1, 3], True),
        ({"target": 3}, [4, None], False),
        ({"patience": 2}, [1, 0, 2], False),
        ({"patience": 2}, [1, 2, 1.5], False),
        ({"patience": 2}, [1, 2, 1.5, 2], True),
        ({"patience": 2}, [1, 2, None, 1.5, None, 1], True),
        ({"patience": 2}, [1, 2, 1.5, 1, None], False),
    ],
)
def test_the_rule_by_hand(options, values, stops):
    assert (reason_to_stop(history(*values), Judged(**options)) is not None) == stops
    negated = [v if v is None else -v for v in values]
    if "target" in options:
        options = {"target": -options["target"]}
    assert (reason_to_stop(history(*negated), JudgedByLoss(**options)) is not None) == stops


@pytest.mark.parametrize(
    ("splits", "judges"),
    [
        (("train", "test"), "test"),
        (("beyond", "train"), "beyond"),
        (("train",), "train"),
        ((), None),
    ],
)
def test_training_tasks_judge_only_where_no_others_are_evaluated(splits, judges):
    assert judging_split(splits) == judges


def test_the_best_iteration_is_the_highest_or_the_lowest():
    metrics = [{"iteration": i + 1} | m for i, m in enumerate(history(2, 5, 1, 3))]
    assert best_iteration(Judged(), metrics, {1, 2, 3, 4}) == 2
    assert best_iteration(Judged(), metrics, {1, 3, 4}) == 4
    assert best_iteration(JudgedByLoss(), metrics, {1, 2, 3, 4}) == 3


def test_the_time_is_that_of_the_whole_run():
    assert reason_to_stop(history(1, seconds=59.9), Judged(time_limit=1)) is None
    assert "1.0 minutes" in reason_to_stop(history(1, seconds=60.0), Judged(time_limit=1))


@pytest.mark.parametrize("oracle", [False, True])
def test_a_run_recommends_to_adapt_only_what_adapts(oracle, tmp_path, capsys):
    options = [word for n, v in SMALL.items() for word in (f"--{n.replace('_', '-')}", str(v))]
    sees = ["--observe-task", "--inner-steps", "0"] if oracle else []
    main(["train", *options, *sees, "--run-dir", str(tmp_path)])
    output = capsys.readouterr().out
    assert f"next: metarl evaluate {tmp_path}, " in output
    assert (f"metarl adapt {tmp_path}" in output) is not oracle


def test_a_run_ends_with_a_checkpoint_and_goes_on_with_another_limit(tmp_path, capsys):
    options = ["--run-dir", str(tmp_path), "--resume"]
    first = [
        word
        for name, value in SMALL.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    main(["train", *first, *options, "--target", "-1000"])
    output = capsys.readouterr().out
    assert "on held-out tasks: --target -1000 is reached" in output
    assert "next: metarl evaluate" in output

    def iterations():
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["iteration"] for line in lines]

    assert iterations() == [1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000001"]
    main(["train", *options, "--target", "1000"])
    assert iterations() == [1, 2, 3]


def test_a_callback_sees_every_iteration_and_ends_the_run(tmp_path, capsys):
    seen = []

    def call(learner, metrics):
        assert isinstance(learner, Learner)
        seen.append(metrics["iteration"])
        return "enough" if len(seen) == 2 else None

    learner = train(Config(**SMALL, run_dir=tmp_path), [call])
    assert seen == [1, 2]
    assert learner.iteration == 2
    assert "iteration 2: enough" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "000002").exists()


def test_a_callback_that_changes_its_metrics_changes_nothing_of_the_run(tmp_path):
    seen = []

    def clear(learner, metrics):
        metrics.clear()

    train(Config(**SMALL, run_dir=tmp_path), [clear, lambda learner, metrics: seen.append(metrics)])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(seen) > 1
    assert [json.loads(line).keys() for line in lines] == [metrics.keys() for metrics in seen]


def test_a_callback_of_one_argument_is_an_error_before_training(tmp_path):
    def call(metrics):
        pass

    with pytest.raises(UsageError, match=r"callback call must be a function of \(learner, metrics"):
        train(Config(**SMALL, run_dir=tmp_path / "run"), [call])
    assert not (tmp_path / "run").exists()


def test_a_callback_that_returns_a_number_is_an_error(tmp_path):
    def call(learner, metrics):
        return metrics["iteration"]

    with pytest.raises(UsageError, match="callback call returned a int: it must return None, or"):
        train(Config(**SMALL, run_dir=tmp_path), [call])


def test_code_that_was_typed_into_python_is_the_users(tmp_path):
    typed = {}
    code = "def broken(learner, metrics):\n    raise KeyError('typed')\n"
    exec(compile(code, "<stdin>", "exec"), typed)
    with pytest.raises(KeyError) as raised:
        train(Config(**SMALL, run_dir=tmp_path), [typed["broken"]])
    assert place_in_called_code(raised.value) == "<stdin>:2, in broken"


@pytest.mark.parametrize("option", [{"patience": 1}, {"target": 0.0}])
def test_without_evaluations_there_is_nothing_to_wait_for(option):
    (name,) = option
    with pytest.raises(UsageError, match=f"--{name} needs evaluations"):
        Config(**SMALL | {"eval_every": 0}, **option)


CALLBACKS = """
seen = []

def watch(learner, metrics):
    seen.append(metrics["iteration"])
    return "seen enough" if len(seen) == 2 else None

def of_one(metrics):
    pass

number = 3
"""


def test_callbacks_are_named_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_callbacks.py").write_text(CALLBACKS)
    monkeypatch.chdir(tmp_path)
    options = [word for n, v in SMALL.items() for word in (f"--{n.replace('_', '-')}", str(v))]
    main(["train", *options, "--callbacks", "my_callbacks:watch", "--run-dir", "run"])
    assert "iteration 2: seen enough" in capsys.readouterr().out
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["callbacks"] == ["my_callbacks:watch"]
    for name, message in [
        ("my_callbacks:number", "cannot be called: it is of type int"),
        ("my_callbacks:of_one", "--callbacks my_callbacks:of_one must be a function of (learner, "),
        ("my_callbacks:wacht", "module my_callbacks has no wacht"),
        ("my_callback:watch", "there is no module my_callback"),
        ("watch", "must be MODULE:NAME"),
    ]:
        with pytest.raises(SystemExit):
            main(["train", *options, "--callbacks", name, "--run-dir", "other"])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("iterations", "told"),
    [(2, "finished"), (5, "ended after iteration 2 of 5; LOG says why")],
)
def test_the_progress_of_one_of_several_seeds_is_told(tmp_path, iterations, told):
    config = Config(**SMALL | {"iterations": iterations}, run_dir=tmp_path)
    log = tmp_path / "log.txt"
    lines = [json.dumps({"iteration": i, "seconds": 1.0}) + "\n" for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    job = Job("seed 1", train, (config, None), log)
    assert progress_of(job) == told.replace("LOG", str(log))
