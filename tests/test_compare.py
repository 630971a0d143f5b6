"""`metarl compare`: equal environment steps, what it writes, how it stops, resumes and fails."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import Config, Learner, UsageError, compare, load
from metarl.cli.compare import parse_comparison
from metarl.cli.main import main
from metarl.evaluation.evaluation import Evaluation
from metarl.learners.presets import ALGORITHMS
from metarl.runs.checkpoint import load_newest
from metarl.runs.folder import EVALUATION, METRICS
from metarl.studies.comparison import (
    LOG,
    RATES,
    TUNING_TASKS,
    Comparison,
    is_finished,
    outcome,
    table_rows,
    tune,
)
from metarl.studies.curves import Line, Run, adaptation_curve
from metarl.support.errors import NonFiniteError

ALGORITHM_NAMES, CONTROL_NAMES = ("maml-pg", "reptile"), ("random", "pretrained", "oracle", "rl2")
NAMES = ALGORITHM_NAMES + CONTROL_NAMES
SMALL = Comparison(
    family="envs:PendulumParams-v0",  # its episodes never end early
    algorithms=ALGORITHM_NAMES,
    controls=CONTROL_NAMES,
    seeds=1,
    iterations=2,
    meta_batch_size=4,
    episodes=3,
    horizon=8,
    eval_tasks=3,
    inner_steps=2,
    processes=2,
)
ENV_STEPS = 2 * 2 * 4 * 3 * 8  # iterations, before and after, tasks, episodes, horizon


def arguments_of(comparison):
    arguments = ["compare"]
    for name, value in vars(comparison).items():
        if value not in (None, (), {}):
            words = map(str, value) if isinstance(value, tuple) else [str(value)]
            arguments += [f"--{name.replace('_', '-')}", *words]
    return arguments


def output_of(comparison):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main(arguments_of(comparison))
    return output.getvalue()


def failure(capsys, *arguments):
    """The one line that a mistake is answered with, after an exit with status 2."""
    with pytest.raises(SystemExit) as exit:
        main(["compare", *arguments])
    assert exit.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def metrics_of(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def evaluation_of(folder):
    return json.loads((folder / EVALUATION).read_text())


def files_of(folder):
    """What training and evaluation have left, logs and locks aside."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {p: p.read_bytes() for p in files if p.name not in (LOG, "lock")}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of which two runs are left to the command's own processes, and its output."""
    comparison = dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("compare"))
    with contextlib.redirect_stdout(io.StringIO()):
        for name in set(NAMES) - {"reptile", "rl2"}:
            outcome(comparison, name, 1)
    return comparison, output_of(comparison)


def test_the_command_trains_what_is_not_finished_and_shows_all(compared):
    _, output = compared
    told = [line for line in output.splitlines() if ", seed " in line]
    assert len(told) == 6
    assert {line for line in told if "before" not in line} == {
        "reptile, seed 1: finished",
        "rl2, seed 1: finished",
    }
    table = output[output.index("step 0") :].splitlines()
    assert table[0].split("  ")[-1].strip() == "minutes"
    assert [line.split()[0] for line in table[1:7]] == list(NAMES)
    assert [line.count("[") for line in table[1:7]] == [3, 3, 3, 3, 1, 3]


def test_all_are_compared_at_equal_environment_steps(compared):
    comparison, _ = compared
    for name in NAMES:
        taken = [m["env_steps"] for m in metrics_of(comparison.run_folder(name, 1))][-1:]
        assert taken == ([] if name == "random" else [ENV_STEPS]), name


def test_each_run_is_evaluated_on_the_same_held_out_tasks(compared):
    comparison, _ = compared
    tests = {
        name: evaluation_of(comparison.run_folder(name, 1))["splits"]["test"] for name in NAMES
    }
    for name, test in tests.items():
        assert len(test["tasks"]) == 3
        assert len(test["steps"]) == (1 if name == "oracle" else 3), name
        for task, other in zip(test["tasks"], tests["maml-pg"]["tasks"], strict=True):
            assert task["task"] == other["task"], name


def test_files_and_tensorboard_have_the_numbers_of_the_evaluations(compared):
    comparison, _ = compared
    folder = comparison.folder
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "comparison.pdf").read_bytes().startswith(b"%PDF")
    with open(folder / "comparison.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["curve"] == "inner steps"]
    events = EventAccumulator(str(folder)).Reload()
    for name in NAMES:
        tasks = evaluation_of(comparison.run_folder(name, 1))["splits"]["test"]["tasks"]
        means = np.mean([task["returns"] for task in tasks], axis=0)
        assert [float(row["value"]) for row in rows if row["line"] == name] == pytest.approx(means)
        shown = events.Scalars(f"comparison/{name}/mean")
        assert [event.step for event in shown] == list(range(len(means)))
        np.testing.assert_allclose([event.value for event in shown], means, rtol=1e-6)
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_the_same_command_again_trains_nothing(compared):
    comparison, first = compared
    before = {p: c for p, c in files_of(comparison.folder).items() if "seed-" in str(p)}
    output = output_of(comparison)
    assert output.count(": finished before\n") == 6
    assert output[output.index("envs:") :] == first[first.index("envs:") :]
    after = files_of(comparison.folder)
    assert all(after[path] == content for path, content in before.items())
    assert len(list(comparison.folder.glob("events.out.tfevents.*"))) == 1


def test_seeds_have_tasks_of_their_own_and_are_pooled_at_the_familys_own_horizon(tmp_path):
    comparison = dataclasses.replace(
        SMALL, algorithms=("maml-pg",), controls=(), seeds=2, horizon=None, run_dir=tmp_path
    )
    with contextlib.redirect_stdout(io.StringIO()):
        for seed in (1, 2):
            outcome(comparison, "maml-pg", seed)
    assert output_of(comparison).count(": finished before\n") == 2
    folders = [comparison.run_folder("maml-pg", seed) for seed in (1, 2)]
    assert [metrics_of(folder)[-1]["env_steps"] for folder in folders] == [ENV_STEPS // 8 * 200] * 2
    one, other = (evaluation_of(folder)["splits"]["test"]["tasks"] for folder in folders)
    assert all(task["task"] != another["task"] for task, another in zip(one, other, strict=True))
    means = np.mean([task["returns"] for task in one + other], axis=0)
    with open(tmp_path / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [float(row["value"]) for row in rows if row["curve"] == "inner steps"]
    assert shown == pytest.approx(means)
    assert {row["seed"] for row in rows if row["curve"] == "after"} == {"1", "2"}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"iterations": 4}, set(NAMES) - {"random"}),
        ({"meta_batch_size": 5}, set(NAMES)),
        ({"horizon": 9}, set(NAMES)),
        ({"inner_lr": 0.2}, set(NAMES) - {"rl2"}),
        ({"test_later_lr": 1.0}, set(NAMES) - {"rl2"}),
        ({"eval_tasks": 4}, set(NAMES)),
        ({"inner_steps": 1}, set(NAMES) - {"oracle"}),
        ({"processes": 1}, set()),
    ],
)
def test_a_run_is_finished_only_as_it_is_asked_for(compared, change, names):
    changed = dataclasses.replace(compared[0], **change)
    assert {name for name in NAMES if not is_finished(changed, name, 1)} == names


def test_an_evaluation_of_other_splits_alone_is_none(compared, tmp_path):
    comparison = dataclasses.replace(compared[0], run_dir=tmp_path)
    folder = comparison.run_folder("maml-pg", 1)
    shutil.copytree(compared[0].run_folder("maml-pg", 1), folder)
    assert is_finished(comparison, "maml-pg", 1)
    data = evaluation_of(folder)
    data["splits"] = {"train": data["splits"]["test"]}
    (folder / EVALUATION).write_text(json.dumps(data))
    assert not is_finished(comparison, "maml-pg", 1)


def test_an_evaluation_by_the_command_evaluate_is_none_of_a_comparison(compared, tmp_path):
    """Which may have taken the most likely actions, and averaged over several adaptations."""
    comparison = dataclasses.replace(compared[0], run_dir=tmp_path)
    folder = comparison.run_folder("maml-pg", 1)
    shutil.copytree(compared[0].run_folder("maml-pg", 1), folder)
    assert is_finished(comparison, "maml-pg", 1)
    steps, tasks = str(comparison.inner_steps), str(comparison.eval_tasks)
    command = ["evaluate", str(folder), "--steps", steps, "--tasks", tasks, "--splits", "test"]
    main([*command, "--mean-actions"])
    assert not is_finished(comparison, "maml-pg", 1)


def test_an_evaluation_that_tuned_nothing_is_none_of_a_fine_tuned_control(compared, tmp_path):
    comparison = dataclasses.replace(compared[0], run_dir=tmp_path)
    folder = comparison.run_folder("pretrained", 1)
    shutil.copytree(compared[0].run_folder("pretrained", 1), folder)
    assert evaluation_of(folder)["fine_tuned_lr"] in [0.1 * rate for rate in RATES]
    assert is_finished(comparison, "pretrained", 1)
    main(["evaluate", str(folder), "--splits", "test", "--tasks", "3", "--steps", "2"])
    assert not is_finished(comparison, "pretrained", 1)


def test_another_evaluation_of_a_finished_run_trains_nothing(compared, tmp_path):
    comparison = dataclasses.replace(compared[0], run_dir=tmp_path, test_later_lr=1.0)
    folder = comparison.run_folder("maml-pg", 1)
    shutil.copytree(compared[0].run_folder("maml-pg", 1), folder)
    metrics, old = metrics_of(folder), evaluation_of(folder)["splits"]["test"]["tasks"]
    outcome(comparison, "maml-pg", 1)
    assert is_finished(comparison, "maml-pg", 1)
    assert metrics_of(folder) == metrics
    for was, now in zip(old, evaluation_of(folder)["splits"]["test"]["tasks"], strict=True):
        assert now["returns"][:2] == was["returns"][:2]  # the first step is as long as before
        assert now["returns"][2] != was["returns"][2]


def test_a_run_with_more_iterations_than_are_compared_is_refused(compared):
    fewer = dataclasses.replace(compared[0], iterations=1)
    evaluation = compared[0].run_folder("maml-pg", 1) / EVALUATION
    before = evaluation.read_bytes()
    with pytest.raises(UsageError, match=r"seed-1 has 2 iterations, more than --iterations 1"):
        outcome(fewer, "maml-pg", 1)
    assert evaluation.read_bytes() == before


def test_other_options_on_the_same_folder_fail_and_lose_nothing(compared, capsys):
    """No run of another seed is mixed in either."""
    other = dataclasses.replace(
        compared[0], algorithms=("maml-pg",), controls=(), meta_batch_size=5, seeds=2
    )
    before = files_of(other.folder)
    line = failure(capsys, *arguments_of(other)[1:])
    folder, remedy = other.run_folder("maml-pg", 1), "give another --run-dir, or delete it"
    assert line == f"error: {folder} holds a run with --meta-batch-size 4, not 5: {remedy}"
    assert files_of(other.folder) == before
    assert not other.run_folder("maml-pg", 2).exists()


FAMILY = ["--family", SMALL.family]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--family"),
        (["--family", "envs:Nothing-v0"], "Nothing"),
        ([*FAMILY, "--controls", "rand"], "--controls rand must be one of random, pretrained"),
        ([*FAMILY, "--algorithms", "maml"], "--algorithms maml must be one of maml-trpo, promp"),
        ([*FAMILY, "--algorithms", "oracle"], "--algorithms oracle is a control: give --controls"),
        ([*FAMILY, "--algorithms", "rl2"], "--algorithms rl2 is a control: give --controls rl2"),
        ([*FAMILY, "--algorithms", "promp", "promp"], "promp is named more than once"),
        ([*FAMILY, "--algorithms"], "--algorithms and --controls are both empty"),
        ([*FAMILY, "--seeds", "0"], "--seeds 0 must be at least 1"),
        ([*FAMILY, "--iterations", "0"], "--iterations 0 must be at least 1"),
        ([*FAMILY, "--eval-tasks", "0"], "--eval-tasks 0 must be at least 1"),
        ([*FAMILY, "--inner-steps", "0"], "--inner-steps 0 must be at least 1"),
        ([*FAMILY, "--processes", "-1"], "--processes -1 must be at least 0"),
        ([*FAMILY, "--horizon", "0"], "--horizon 0 must be a number of at least 1"),
        ([*FAMILY, "--episodes", "0"], "--episodes 0 must be a number of at least 1"),
        ([*FAMILY, "--inner-lr", "nan"], "--inner-lr nan must be a number above 0"),
        (
            [*FAMILY, "--controls", "rl2", "--meta-batch-size", "1", "--episodes", "3"],
            "--meta-batch-size times --episodes is 3, less than one trial of rl2, which has 4",
        ),
        (
            [*FAMILY, "--algorithms", "es-maml", "--meta-batch-size", "3"],
            "--outer evolution needs pairs: --meta-batch-size 3 must be even",
        ),
        ([*FAMILY, "--sedes", "1"], "has an option --sedes; did you mean seeds?"),
        ([*FAMILY, "--seed", "1"], "--seed: a comparison chooses it for each run"),
        ([*FAMILY, "--outer", "ppo"], "--outer: a comparison chooses it for each run"),
        ([*FAMILY, "--algorithms", "dice-maml", "--estimator", "lvc"], "is what makes dice-maml"),
        ([*FAMILY, "--device", "gpu"], "invalid choice 'gpu'"),
        ([*FAMILY, "--policy-options", "width"], "--policy-options"),
        ([*FAMILY, "--config", "none.yaml"], "none.yaml cannot be read"),
        ([*FAMILY, "--run-dir", "/dev/null/here"], "/dev/null/here/maml-trpo/seed-1 cannot be wri"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    capsys, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in failure(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_options_of_train_are_those_of_every_run_that_has_them(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("hidden_size: 8\nworkers: 3\n")
    words = "--algorithms maml-trpo cavia --controls rl2 --policy net:Net --policy-options width 4 "
    words += f"--config {file} --workers 2 --hidden-sizes 8 8 --no-normalise-observations "
    words += "--minibatches 1"
    comparison = parse_comparison([*FAMILY, *words.split()])
    for name in ("maml-trpo", "cavia", "rl2"):
        config = comparison.config(name, 2)
        assert (config.policy, config.policy_options) == ("net:Net", {"width": 4})
        assert (config.workers, config.seed) == (2, 2)
        if name == "rl2":
            assert (config.hidden_size, config.minibatches) == (8, 1)
        else:
            assert config.hidden_sizes == (8, 8)


def test_options_of_an_outer_loop_are_those_of_the_runs_that_have_it():
    words = ["--algorithms", "maml-trpo", "promp", "--controls", "pretrained", "--max-kl", "0.03"]
    comparison = parse_comparison([*FAMILY, *words])
    sizes = [comparison.config(name, 1).max_kl for name in comparison.names]
    assert sizes == [0.03, 0.01, 0.03]
    with pytest.raises(UsageError, match="no run of the comparison has an option --max-kl"):
        parse_comparison([*FAMILY, "--algorithms", "promp", "--max-kl", "0.03"])


def test_options_in_python_are_those_of_every_run_that_has_them(tmp_path):
    own = {"policy": "test_modules:Plain", "device": "cpu"}
    family = "envs:Navigation2D-v0"
    changes = {"family": family, "algorithms": ("maml-pg",), "controls": (), "options": own}
    comparison = dataclasses.replace(SMALL, **changes, run_dir=tmp_path)
    outcome(comparison, "maml-pg", 1)
    assert load(comparison.run_folder("maml-pg", 1)).policy.network.name == own["policy"]
    assert is_finished(comparison, "maml-pg", 1)
    other = dataclasses.replace(comparison, options={})
    assert not is_finished(other, "maml-pg", 1)
    wrong = dataclasses.replace(comparison, options={"hidden_size": 8})
    with pytest.raises(UsageError, match="an option --hidden-size; did you mean hidden_sizes"):
        compare(wrong)


@pytest.mark.parametrize("name", [*ALGORITHMS, "pretrained", "oracle", "rl2"])
def test_a_run_has_as_many_whole_iterations_as_fit_into_the_environment_steps(name):
    comparison = dataclasses.replace(
        SMALL, iterations=7, meta_batch_size=6, episodes=5, inner_steps=3
    )
    episodes = 7 * 2 * 6 * 5
    config = comparison.config(name, 1)
    if name == "rl2":
        each = config.trials * config.episodes
        assert config.episodes == 4
        assert each == 28  # of 30: the trials are whole
    else:
        each = config.meta_batch_size * config.episodes * (1 + config.inner_steps)
        assert (config.meta_batch_size, config.episodes, config.observe_task) == (
            *(6, 5),
            name == "oracle",
        )
    assert episodes - each < config.iterations * each <= episodes


def test_a_control_is_fine_tuned_with_the_best_step_size_of_training_tasks():
    """The last step counts: −|log rate / target|, while step 0 would prefer the largest."""

    @dataclasses.dataclass
    class Inner:
        learning_rate: float
        other: str = "kept"

    class Fake:
        config = SimpleNamespace(inner_lr=0.2)
        inner = Inner(0.2)
        parameters = {}
        asked = set()

        def evaluate(self, tasks, steps, split):
            self.asked.add((tasks, steps, split))
            rate = self.inner.learning_rate
            final = np.array([-1.0, 1.0]) - abs(np.log(rate / target))
            return Evaluation(split, {}, np.stack([np.full(2, rate), final]))

    for rate in RATES:
        target = 0.2 * rate * 1.1
        fake = Fake()
        assert tune(fake, 3) == pytest.approx(0.2 * rate)
        assert fake.inner == Inner(pytest.approx(0.2 * rate))
        assert fake.asked == {(TUNING_TASKS, 3, "train")}


@pytest.mark.parametrize("step_sizes", ["fixed", "per_layer", "per_parameter"])
def test_fine_tuning_finds_the_step_size_that_trying_each_finds(step_sizes):
    """Those that are learned, but were not by runs without inner steps, do not come before it."""
    config = Config.of("random", **{"family": "envs:Navigation2D-v0", "horizon": 6, "episodes": 3})

    def learner(rate):
        return Learner(dataclasses.replace(config, inner_lr=config.inner_lr * rate))

    finals = {
        rate: learner(rate).evaluate(TUNING_TASKS, 2, "train").returns[-1].mean() for rate in RATES
    }
    assert len(set(finals.values())) == len(RATES)
    tuned = Learner(dataclasses.replace(config, step_sizes=step_sizes))
    best = tune(tuned, 2)
    assert best == pytest.approx(config.inner_lr * max(finals, key=finals.get))
    expected = learner(best / config.inner_lr).evaluate(4, 2).returns
    np.testing.assert_allclose(tuned.evaluate(4, 2).returns, expected)


def test_a_step_size_with_which_fine_tuning_diverges_is_not_chosen():
    small = {"family": "envs:Navigation2D-v0", "horizon": 10, "episodes": 4, "hidden_sizes": (8,)}
    some = Learner(Config(**small, inner_lr=1000.0))  # times 3, 1 or .3, it diverges
    assert tune(some, 2) in (1000.0 * RATES[-1], 1000.0 * RATES[-2])
    assert np.isfinite(some.evaluate(4, 2).returns).all()
    with pytest.raises(NonFiniteError, match="diverges, with 3e\\+06"):
        tune(Learner(Config(**small, inner_lr=1e8)), 2)


def made_up(name, returns, env_steps=(0.0, 0.0)):
    runs = [
        Run(None, name, seed, [{"env_steps": steps, "seconds": 90.0}], np.array(values))
        for seed, (values, steps) in enumerate(zip(returns, env_steps, strict=True))
    ]
    return Line(name, runs)


def test_the_pooled_interval_keeps_seeds_apart():
    """Seeds that differ while their tasks do not: the mean of these two seeds is certain."""
    line = made_up("a", [[[0.0] * 3, [1.0] * 3], [[10.0] * 3, [11.0] * 3]])
    evaluation = line.evaluation()
    np.testing.assert_allclose(adaptation_curve(evaluation), [[5, 5, 5], [6, 6, 6]])
    mixed = adaptation_curve(dataclasses.replace(evaluation, runs=1))
    assert (mixed[:, 1] < mixed[:, 0] - 1).all()
    assert (mixed[:, 2] > mixed[:, 0] + 1).all()


def test_the_table_has_the_mean_of_each_step_and_its_cost():
    whole = made_up("a", [[[0.0], [20.0]], [[10.0], [30.0]]], (1e6, 3e6))
    oracle = made_up("oracle", [[[1.0]], [[2.0]]], (2e6, 2e6))
    assert table_rows([whole, oracle]) == [
        ("a", "5.0 [5.0, 5.0]", "25.0 [25.0, 25.0]", "20.0, 30.0", "2,000,000", "1.5"),
        ("oracle", "1.5 [1.5, 1.5]", "", "1.0, 2.0", "2,000,000", "1.5"),
    ]
    small = made_up("a", [[[0.125]], [[0.375]]])
    assert table_rows([small])[0][1] == "0.250 [0.250, 0.250]"


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_ended(process):
    """Whether no such process runs; one that nobody has waited for has ended, too."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def started(comparison, folder, iterations):
    """The command and its only worker, once that has done more than so many iterations."""
    command = [sys.executable, "-m", "metarl", *arguments_of(comparison)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    worker = process.pid
    try:
        wait_until(
            lambda: (folder / METRICS).exists() and len(metrics_of(folder)) > iterations,
        )
        worker = int((folder / "lock").read_text().split()[1])  # process 7 on HOST
        assert not has_ended(worker)
        yield process, worker
    finally:
        for left in (process.pid, worker):
            if not has_ended(left):
                os.kill(left, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
def test_however_the_command_ends_its_runs_end_with_a_checkpoint_and_go_on(tmp_path):
    comparison = dataclasses.replace(
        SMALL, algorithms=("maml-pg",), controls=(), iterations=1_000_000, run_dir=tmp_path
    )
    folder, done = comparison.run_folder("maml-pg", 1), 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        with started(comparison, folder, done + 2) as (process, worker):
            # A terminal's Ctrl-C reaches the command alone: a second signal ends a run at once.
            assert os.getpgid(worker) == worker
            process.send_signal(number)
            if number == signal.SIGTERM:
                os.kill(worker, number)  # as a job manager does, which tells every process
            output, _ = process.communicate(timeout=120)
            if number == signal.SIGTERM:
                assert process.returncode == 128 + number
                assert has_ended(worker)
                assert "maml-pg, seed 1: stopped\n" in output
                assert "the same command continues from here" in output
            wait_until(lambda: has_ended(worker))
        metrics = metrics_of(folder)
        assert [m["iteration"] for m in metrics] == list(range(1, len(metrics) + 1))
        assert len(metrics) > done + 2
        done = len(metrics)
        assert load_newest(folder / "checkpoints")["iteration"] == done
        assert not (folder / EVALUATION).exists()
    outcome(dataclasses.replace(comparison, iterations=done + 1), "maml-pg", 1)
    assert [m["iteration"] for m in metrics_of(folder)] == list(range(1, done + 2))
    assert evaluation_of(folder)["iteration"] == done + 1
