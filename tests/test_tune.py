"""`metarl tune`: the search, what the study holds, and how it stops, resumes and fails."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import metarl
from metarl import Config, UsageError
from metarl.cli import tune as command
from metarl.cli.main import main
from metarl.studies import tuning
from metarl.studies.search import parse_search, with_values
from metarl.studies.tuning import Tuning

pytestmark = pytest.mark.usefixtures("no_figures")

FAMILY = "envs:Navigation2D-v0"
RUN = (
    *("--family", FAMILY, "--meta-batch-size", "2", "--episodes", "2", "--horizon", "5"),
    *("--iterations", "2", "--eval-every", "1", "--eval-tasks", "2", "--threads", "1"),
)


def read_study(folder):
    """The study as Optuna's own tools read it."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.load_study(study_name=folder.name, storage=storage)


def held_out_returns(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {m["iteration"]: m["test/step_1/mean"] for m in map(json.loads, lines)}


@pytest.fixture
def in_process(monkeypatch):
    """Runs the trials one after another in this process: a process for each takes seconds."""

    def run_jobs(jobs, at_a_time, described):
        codes = {}
        for job in jobs:
            job.function(*job.arguments)
            codes[job] = 0
            print(f"{job.name}: {described(job)}")
        return codes

    monkeypatch.setattr(tuning, "run_jobs", run_jobs)


def test_the_study_holds_each_trial_with_its_options_and_its_returns(tmp_path, capsys, in_process):
    folder = tmp_path / "study"
    search = ("inner-lr=0.01:0.5:log", "estimator=naive,lvc")
    arguments = ("tune", "--search", *search, "--trials", "2", "--run-dir", str(folder), *RUN)
    main(arguments)
    output = capsys.readouterr().out
    study = read_study(folder)
    assert study.direction.name == "MAXIMIZE"
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    for trial in study.trials:
        run = folder / f"trial-{trial.number:04d}"
        config = json.loads((run / "config.json").read_text())["config"]
        assert {"inner_lr": config["inner_lr"], "estimator": config["estimator"]} == trial.params
        assert trial.intermediate_values == held_out_returns(run)
        assert f"trial {trial.number}: complete, {trial.value:.4g}" in output
    assert len({trial.params["inner_lr"] for trial in study.trials}) == 2
    # The command for the best one trains the same run.
    best = shlex.split(output.splitlines()[-1])
    assert best[:2] == ["metarl", "train"]
    main([*best[1:], "--run-dir", str(tmp_path / "best")])
    held = held_out_returns(folder / f"trial-{study.best_trial.number:04d}")
    assert held_out_returns(tmp_path / "best") == held

    main([*arguments[:5], "3", *arguments[6:]])  # one more
    assert len(read_study(folder).trials) == 3
    with pytest.raises(SystemExit):  # returns on other tasks are not comparable
        main([*arguments, "--eval-tasks", "3"])
    assert "the study has --eval-tasks 2, not 3" in capsys.readouterr().err
    other = ["tune", "--search", "inner_lr=0.1:0.2", *arguments[4:]]
    with pytest.raises(SystemExit):
        main(other)
    assert "the study has --search ['estimator=naive,lvc', " in capsys.readouterr().err


def test_a_trial_that_stays_behind_is_pruned(tmp_path, in_process):
    folder = tmp_path / "study"
    options = ("--search", "inner_lr=0.01:0.5", "--run-dir", str(folder), *RUN)
    main(["tune", *options, "--trials", "1"])
    study = read_study(folder)
    for _ in range(5):  # as many as the pruner asks for, all far better
        better = optuna.create_trial(
            params={"inner_lr": 0.1},
            distributions={"inner_lr": FloatDistribution(0.01, 0.5)},
            intermediate_values={1: 100.0, 2: 100.0},
            value=100.0,
        )
        study.add_trial(better)
    main(["tune", *options, "--trials", "7"])
    assert read_study(folder).trials[6].state.name == "PRUNED"
    assert list(held_out_returns(folder / "trial-0006")) == [1]
    main(["tune", *options, "--trials", "8", "--no-prune"])
    assert list(held_out_returns(folder / "trial-0007")) == [1, 2]


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path, monkeypatch, in_process):
    folder = tmp_path / "study"
    options = ("--search", "inner_lr=0.01:0.5", "--run-dir", str(folder), "--trials", "1", *RUN)
    main(["tune", *options])
    expected = (folder / "trial-0000" / "metrics.jsonl").read_text().count("\n")
    value = read_study(folder).trials[0].value
    # The state that a process leaves which was killed before it told the study.
    study = read_study(folder)
    trial = study.ask({"inner_lr": FloatDistribution(0.01, 0.5)})
    lr = str(trial.params["inner_lr"])
    (folder / "trial-0001").mkdir()
    begun = ("--iterations", "1", "--inner-lr", lr, "--run-dir", str(folder / "trial-0001"))
    main(["train", *RUN, *begun])
    # What the folder names is not what the command names.
    config = folder / "trial-0001" / "config.json"
    content = json.loads(config.read_text())
    content["config"]["callbacks"] = ["planted:call"]
    config.write_text(json.dumps(content))
    (tmp_path / "planted.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.chdir(tmp_path)
    main(["tune", *options, "--trials", "2"])
    study = read_study(folder)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 2
    assert study.trials[0].value == value
    assert (folder / "trial-0001" / "metrics.jsonl").read_text().count("\n") == expected


def test_a_trial_that_diverges_fails_alone(tmp_path, monkeypatch, in_process):
    def diverge(*_):
        raise tuning.NonFiniteError("parameter x is infinite")

    monkeypatch.setattr(tuning, "run", diverge)
    folder = tmp_path / "study"
    with pytest.raises(SystemExit):
        main(
            ["tune", "--search", "inner_lr=0.1:1", "--trials", "2", "--run-dir", str(folder), *RUN]
        )
    assert [t.state.name for t in read_study(folder).trials] == ["FAIL"] * 2


BASE = Config(family=FAMILY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner_lr=0.01:1:log", FloatDistribution(0.01, 1, log=True)),
        ("--inner-lr=1:2", FloatDistribution(1, 2)),
        ("episodes=5:20", IntDistribution(5, 20)),
        ("horizon=5:20:log", IntDistribution(5, 20, log=True)),
        ("hidden_sizes=32 32,64 64", CategoricalDistribution(["32 32", "64 64"])),
        ("family_options.action_scale=1.0:10", FloatDistribution(1, 10)),
        ("family_options.action_scale=1:10:log", IntDistribution(1, 10, log=True)),
        ("policy_options.channels=4:16", IntDistribution(4, 16)),
        ("--policy-options.depth=1,2", CategoricalDistribution(["1", "2"])),
        ("estimator=lvc,my:own", CategoricalDistribution(["lvc", "my:own"])),
    ],
)
def test_what_is_searched(text, expected):
    (distribution,) = parse_search((text,), BASE).values()
    assert distribution == expected


def test_values_become_options_of_train():
    fixed = ["--family", "envs:HalfCheetahVel-v0", "--family-options", "observation", "finn"]
    fixed += ["--policy-options", "bias", "False"]
    values = {
        "inner_lr": 0.25,
        "hidden_sizes": "32 32",
        "family_options.action_scale": 2.0,
        "policy_options.channels": 4,
        "policy_options.kernel": "5",
        "algorithm": "promp",
    }
    config = command.configure(fixed, values)
    assert config.inner_lr == 0.25
    assert config.hidden_sizes == (32, 32)
    assert config.family_options == {"observation": "finn", "action_scale": 2.0}
    assert config.policy_options == {"bias": False, "channels": 4, "kernel": 5}
    assert config.outer == Config.of("promp", family=config.family).outer


def test_words_for_a_bool_are_read_in_any_case_and_others_are_refused():
    for word, expected in (("true", True), ("False", False), ("TRUE", True)):
        changed = with_values(BASE, {"normalise_observations": word})
        assert changed.normalise_observations is expected
    with pytest.raises(UsageError, match="yes must be true or false"):
        with_values(BASE, {"normalise_observations": "yes"})
    fixed = ["--family", FAMILY, "--normalise-observations"]
    for word, expected in (("true", True), ("False", False)):
        changed = command.configure(fixed, {"normalise_observations": word})
        assert changed.normalise_observations is expected
    with pytest.raises(UsageError, match="yes must be true or false"):
        command.configure(fixed, {"normalise_observations": "yes"})


def test_a_number_is_the_size_of_one_layer():
    assert with_values(BASE, {"hidden_sizes": 32}).hidden_sizes == (32,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("inner_lrr=1:2",), "no option inner_lrr; did you mean inner_lr?"),
        (("policy_option.depth=1:2",), "did you mean policy_options.depth?"),
        (("policy_options=1:2",), "policy_options.NAME=..."),
        (("policy_options.=1:2",), "policy_options.NAME=..."),
        (("hidden_sizes.first=1:2",), "no option hidden_sizes.first"),
        (("policy_options.depth=1:2",), "--policy-options depth: mlp has none"),
        (("family_options.scale=1:2",), "scale"),
        (("inner_lr",), "must be NAME=LOW:HIGH"),
        (("inner_lr=2:1",), "with LOW below HIGH"),
        (("inner_lr=0:1:log",), "LOW must be above 0"),
        (("inner_lr=1:2:linear",), "LOW:HIGH:log"),
        (("inner_lr=a:b",), "must be numbers"),
        (("episodes=1.5:2",), "must be whole numbers"),
        (("inner_lr=0.1:0.2", "inner-lr=0.3:0.4"), "searched twice"),
        (("inner_lr=-1:1",), "--inner-lr -1"),
        (("estimator=naive,lcv",), "lcv"),
        (("inner_lr=0.1:0.2", "--trials", "0"), "--trials 0 must be at least 1"),
        (("inner_lr=0.1:0.2", "--eval-every", "0"), "--eval-every 0 evaluates no trial"),
        (("inner_lr=0.1:0.2", "--eval-every", "3"), "--eval-every 2 evaluates each at its end"),
        (("inner_lr=0.1:0.2", "--storage", "nowhere://x"), "study nowhere://x cannot be opened"),
    ],
)
def test_wrong_searches_are_refused_on_one_line(tmp_path, capsys, options, message):
    folder = tmp_path / "new" / "study"
    with pytest.raises(SystemExit) as exit:
        main(["tune", "--run-dir", str(folder), *RUN, "--search", *options])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_optuna_the_message_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install .*\[tune\]"):
        tuning.tune(Tuning(search=("inner_lr=0.1:1",)), tmp_path, lambda _: BASE)


def test_options_of_the_network_are_searched(tmp_path, in_process):
    folder = tmp_path / "study"
    own = ("--policy", f"{__name__}:Net", "--trials", "1", "--run-dir", str(folder))
    main(["tune", "--search", "policy_options.width=2:4", *own, *RUN])
    config = json.loads((folder / "trial-0000" / "config.json").read_text())["config"]
    width = read_study(folder).trials[0].params["policy_options.width"]
    assert config["policy_options"] == {"width": width}


class Net(torch.nn.Module):
    """A layer of some width."""

    def __init__(self, space, outputs, width=1):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Linear(width, outputs)
        )

    def forward(self, observations):
        return self.layers(observations)


def test_a_study_in_python_is_in_the_folder_of_the_configuration(tmp_path, in_process):
    folder = tmp_path / "study"
    sizes = {"meta_batch_size": 2, "episodes": 2, "horizon": 5, "iterations": 1}
    config = Config(FAMILY, **sizes, eval_every=1, eval_tasks=2, run_dir=folder)
    (trial,) = metarl.tune(config, "inner_lr=0.1:0.2", trials=1)
    assert trial.folder == folder / "trial-0000"
    other = tmp_path / "other"
    (trial,) = metarl.tune(config, "inner_lr=0.1:0.2", trials=1, run_dir=other)
    assert trial.folder == other / "trial-0000"
    with pytest.raises(UsageError, match="trial-0000 holds a run: give another --run-dir"):
        metarl.tune(config, "inner_lr=0.1:0.2", run_dir=trial.folder)


def test_a_learner_without_a_family_cannot_be_searched(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--search", "inner_lr=0.1:1", "--learner", "few_shot"])
    assert "--learner few_shot: it does not train on task families" in capsys.readouterr().err


@pytest.mark.ranks
def test_two_machines_share_the_trials_of_a_search(tmp_path, hosts):
    options = ("--search", "inner_lr=0.01:0.5", "--trials", "6", "--processes", "1")
    run = [*RUN[:6], "--horizon", "100", "--iterations", "20", *RUN[10:], "--run-dir", "shared"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

    def start(host):
        search = [sys.executable, "-m", "metarl", "tune", *options, *run]
        return subprocess.Popen(host.command(search), cwd=tmp_path, **pipes)

    machines = [start(host) for host in hosts]
    time.sleep(15)
    os.kill(machines[1].pid, signal.SIGTERM)  # a scheduler ends one of them
    outputs = [machine.communicate(timeout=300)[0] for machine in machines]
    assert machines[0].returncode == 0, outputs
    (again := start(hosts[1])).communicate(timeout=300)
    assert again.returncode == 0
    study = read_study(tmp_path / "shared")
    assert [t.state.name for t in study.trials if t.state.name == "COMPLETE"]
    assert {t.state.name for t in study.trials} <= {"COMPLETE", "PRUNED"}
    assert len(study.trials) == 6
