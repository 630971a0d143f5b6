"""Faults that users would meet: each of these tests failed before its mend."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import Config, Learner, RL2Config, UsageError, load, make_learner, train
from metarl.cli.main import main
from metarl.policies.export import export_policy
from metarl.runs.checkpoint import prune_checkpoints, save_checkpoint
from metarl.support.errors import NonFiniteError
from metarl.support.randomness import Phase, RandomKey

ROOT = Path(__file__).parents[1]
NAVIGATION = "envs:Navigation2D-v0"
SMALL = {"meta_batch_size": 4, "episodes": 4, "horizon": 10, "eval_every": 0, "device": "cpu"}
ARGUMENTS = ["--meta-batch-size", "2", "--episodes", "2", "--horizon", "3", "--eval-every", "0"]


class Loud(gymnasium.Env):
    """A point on a line with actions in ±100 and positions in ten thousandths: x += 0.001 a."""

    def __init__(self):
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Box(-100.0, 100.0, (1,), np.float32)
        self.task_space = spaces.Dict(place=spaces.Box(-1.0, 1.0, ()))
        self.task = {"place": 0.0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.zeros(1, np.float32)
        return 10_000 * self.x, {}

    def step(self, action):
        self.x = self.x + 0.001 * action
        reward = -abs(float(self.x[0] - self.task["place"]))
        return 10_000 * self.x, reward, False, False, {}


if "FaultsLoud-v0" not in gymnasium.registry:
    gymnasium.register("FaultsLoud-v0", entry_point=Loud, max_episode_steps=20)


def failure(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_commit_is_metarls_own(tmp_path):
    """Installed in a virtual environment inside another repository, it has none."""
    site = tmp_path / "venv" / "site-packages"
    shutil.copytree(ROOT / "metarl", site / "metarl", ignore=shutil.ignore_patterns("__pycache__"))
    commands = ["init -q", "add -A", "-c user.name=n -c user.email=e commit -q -m m"]
    for command in commands:
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    code = "from metarl.runs.run import _git_commit; print(_git_commit())"
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "None\n"


def test_every_form_of_an_option_is_the_parsers(tmp_path, capsys):
    first = ["train", f"--family={NAVIGATION}", "--algorithm=promp", "--iterations=1"]
    main([*first, *ARGUMENTS, f"--run_dir={tmp_path / 'run'}"])
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert (config["algorithm"], config["outer"]) == ("promp", "ppo")
    main(["train", "--resume", "--run_dir", str(tmp_path / "run"), "--iterations", "2"])
    assert "iterations 2 to 2" in capsys.readouterr().out


def test_checkpoints_are_pruned_to_the_newest_and_the_best(tmp_path):
    for iteration in range(1, 9):
        save_checkpoint(tmp_path, iteration, {"iteration": iteration})
        prune_checkpoints(tmp_path, 2, best=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000003", "000007", "000008"]


def test_a_run_keeps_its_best_checkpoint(tmp_path, monkeypatch):
    """Best by the return on held-out tasks after the last inner step."""
    options = SMALL | {"eval_every": 1, "eval_tasks": 2, "checkpoint_every": 1}
    config = Config(
        NAVIGATION, iterations=6, keep_checkpoints=2, run_dir=tmp_path / "run", **options
    )
    train(config)
    metrics = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    best = max(metrics, key=lambda m: m["test/step_1/mean"])["iteration"]
    kept = {int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()}
    assert kept == {best, 5, 6}


@pytest.mark.parametrize("algorithm", ["promp", "maml-pg"])
def test_a_diverged_run_stops_and_says_where(tmp_path, capsys, algorithm):
    run = tmp_path / "run"
    large = ["--outer-lr", "1e30", "--iterations", "5", "--checkpoint-every", "1"]
    arguments = ["--family", NAVIGATION, "--algorithm", algorithm, *ARGUMENTS, *large]
    line = failure(capsys, "train", *arguments, "--run-dir", str(run))
    assert "is not finite" in line
    assert "envs:Navigation2D-v0, seed 1, training, iteration 1, after 1 inner step" in line
    assert "a smaller --inner-lr" in line
    for checkpoint in (run / "checkpoints").glob("[0-9]*"):
        state = torch.load(checkpoint / "state.pt", weights_only=True)
        assert all(p.isfinite().all() for p in state["parameters"].values())


def test_no_checkpoint_has_a_number_that_is_not_finite(tmp_path):
    state = {"outer": {"adam": [{"exp_avg": torch.tensor([1.0, np.inf])}]}}
    with pytest.raises(NonFiniteError, match=r"outer\.adam\.0\.exp_avg is not finite after iter"):
        save_checkpoint(tmp_path, 7, state)
    assert not list(tmp_path.iterdir())


def test_a_run_that_died_before_its_first_checkpoint_leaves_no_points_behind(tmp_path, monkeypatch):
    config = Config(NAVIGATION, iterations=3, run_dir=tmp_path / "run", **SMALL)
    iterate = Learner.iterate

    def dying(learner):
        if learner.iteration == 2:
            raise KeyboardInterrupt
        return iterate(learner)

    monkeypatch.setattr(Learner, "iterate", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    train(dataclasses.replace(config, resume=True))
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [point.step for point in events.Scalars("return/after")] == [1, 2, 3]
    kept = list((tmp_path / "run").glob("events.out.tfevents.*"))
    steps = [
        p.step for e in kept for p in EventAccumulator(str(e)).Reload().Scalars("return/after")
    ]
    assert sorted(steps) == [1, 2, 3]


def test_the_traceback_is_shown_if_it_is_asked_for(capsys, monkeypatch):
    arguments = ["train", "--family", "envs:Nothing-v0"]
    assert failure(capsys, *arguments).startswith("error: ")
    monkeypatch.setenv("METARL_DEBUG", "1")
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.splitlines()[-1].startswith("error: ")


def test_a_run_without_a_learner_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"config": {"family": "envs:Navigation2D-v0"}}')
    with pytest.raises(
        UsageError, match="names no learner, because an earlier version wrote it: add"
    ):
        load(tmp_path)


def test_a_simulation_that_does_not_fit_is_one_line(capsys):
    arguments = ["train", "--family", "envs:PendulumParams-v0", "--simulation"]
    assert "cannot step envs:PendulumParams-v0: it is not" in failure(capsys, *arguments, "batch")
    assert failure(capsys, *arguments, "bacth").endswith("did you mean batch?")


def test_one_pool_of_workers_is_alive(tmp_path):
    learner = Learner(Config("envs:PendulumParams-v0", workers=2, eval_tasks=3, **SMALL))
    learner.iterate()
    learner.evaluate(steps=0)
    assert len(learner.simulations.kept) == 1
    learner.close()
    assert not learner.simulations.kept


def test_simulations_are_closed_with_the_run(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(Learner, "close", lambda learner: closed.append(learner.iteration))
    train(Config(NAVIGATION, iterations=1, run_dir=tmp_path / "run", **SMALL))
    assert closed == [1]


def test_actions_are_in_units_of_their_range():
    """With σ = 1 at first, a range of ±100 is explored as one of ±1 is."""
    learner = Learner(Config("FaultsLoud-v0", meta_batch_size=2, episodes=50, device="cpu"))
    tasks = {"place": np.zeros(2)}
    rollout = learner.sample(learner.begin(tasks), tasks, RandomKey(3, Phase.EVALUATION), 0)
    taken = rollout.observations[:, :, 1, 0]  # after the first step
    drawn = rollout.actions[:, :, 0, 0]
    torch.testing.assert_close(taken, 1000 * drawn.clamp(-1, 1))
    tenth = Learner(Config("FaultsLoud-v0", action_scale=10.0, **SMALL))
    assert float(tenth.units.to_environment(torch.tensor([1.0]))) == pytest.approx(10)


def test_scales_far_from_one_are_warned_of(caplog):
    with caplog.at_level("WARNING"):
        Learner(Config("FaultsLoud-v0", **SMALL)).iterate()
        assert "--normalise-observations" in caplog.text
        caplog.clear()
        Learner(Config("FaultsLoud-v0", action_scale=1000.0, **SMALL)).iterate()
        assert "--action-scale 1" in caplog.text
        caplog.clear()
        Learner(Config("FaultsLoud-v0", normalise_observations=True, **SMALL)).iterate()
    assert not caplog.records


def test_wrappers_with_statistics_of_their_own_are_named(caplog):
    Learner(Config("faulty_families:Running-v0", **SMALL))
    (first, second) = (record.getMessage() for record in caplog.records)
    assert "the wrapper NormalizeObservation keeps running statistics" in first
    assert "remove it and train with --normalise-observations" in first
    assert "NormalizeReward" in second
    caplog.clear()
    Learner(Config("faulty_families:Frozen-v0", **SMALL))
    assert not caplog.records


def test_what_normalises_is_part_of_the_run_and_of_the_exported_policy(tmp_path):
    normalises = {"normalise_observations": True, "normalise_rewards": True}
    options = SMALL | normalises | {"run_dir": tmp_path / "run"}
    config = Config("FaultsLoud-v0", iterations=3, **options)
    whole = make_learner(config)
    list(whole.learn(3))
    train(dataclasses.replace(config, iterations=2))
    resumed = train(dataclasses.replace(config, resume=True))
    for name, value in whole.parameters.items():
        assert torch.equal(value, resumed.parameters[name])
    adapted = load(tmp_path / "run").adapt({"place": 0.5}, 1)
    x = torch.tensor([[500.0], [-300.0]])
    rows = {name: p.unsqueeze(0) for name, p in adapted.parameters.items()}
    expected = resumed.policy.distribution(rows, x.unsqueeze(0)).mode()[0]
    torch.testing.assert_close(adapted.policy(x), resumed.units.to_environment(expected))
    seen = resumed.policy.normaliser.moments(torch.device("cpu"))
    assert float(seen[1]) > 10  # not the 0 and 1 of nothing seen
    assert torch.equal(resumed.advantages.sums, whole.advantages.sums)
    assert float(resumed.advantages.moments[1]) > 10


def test_rl2_is_a_learner_of_every_command(tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--trials", "8", "--episodes", "3", "--horizon", "10", "--hidden-size", "8"]
    main(["train", "--learner", "rl2", "--family", NAVIGATION, *small, "--iterations", "2",
          "--eval-every", "0", "--run-dir", run])  # fmt: skip
    main(["train", "--resume", "--run-dir", run, "--iterations", "3"])
    assert isinstance(load(run).config, RL2Config)
    main(["evaluate", run, "--tasks", "3", "--steps", "3", "--clips", "1"])
    data = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert data["learner"] == "rl2"
    assert len(data["splits"]["test"]["steps"]) == 4
    out = tmp_path / "policy"
    main(["adapt", run, "--task", "goal=.3,-.2", "--steps", "2", "--out", str(out),
          "--video", str(tmp_path / "v.gif")])  # fmt: skip
    main(["plot", run, "--out", str(tmp_path / "curves")])
    assert (tmp_path / "curves.png").exists()
    assert "rl2" in (tmp_path / "curves.csv").read_text()
    assert failure(capsys, "evaluate", run, "--test-later-lr", "0.5").endswith("has no such option")
    for command in ("evaluate", "adapt"):
        assert "one episode after the other" in failure(capsys, command, run, "--episodes", "3")


def test_rl2s_exported_program_acts_as_the_policy_does(tmp_path):
    """The program, stepped with what it remembers, gives the actions of the module."""
    learner = make_learner(RL2Config(NAVIGATION, trials=8, hidden_size=8, horizon=10, device="cpu"))
    learner.iterate()
    adapted = learner.adapt({"goal": [0.3, -0.2]}, 2)
    export_policy(adapted.policy, tmp_path, {})
    program = torch.export.load(tmp_path / "policy.pt2").module()
    weights = load_file(tmp_path / "policy.safetensors")
    hidden, action = weights["memory.hidden"][None], weights["memory.action"][None]
    reward, began = weights["memory.reward"][None], torch.ones(1, 1)
    generator = np.random.default_rng(0)
    for _ in range(5):
        observation = generator.normal(size=2).astype(np.float32)
        mode, action, hidden = program(
            torch.from_numpy(observation)[None], reward, action, began, hidden
        )
        expected = adapted.policy.act(observation, float(reward))
        torch.testing.assert_close(mode[0], torch.from_numpy(expected))
        reward, began = torch.tensor([[generator.normal()]]).float(), torch.zeros(1, 1)
