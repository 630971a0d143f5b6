"""What can be asked of a finished run: evaluate, adapt, load; and what it leaves in TensorBoard."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import metarl
import metarl.policies.export
import metarl.tasks.parameterised
from metarl import Config, UsageError, train
from metarl.cli.main import main
from metarl.evaluation.clips import labelled, side_by_side, write_clip
from metarl.tasks.family import make_family
from metarl.tasks.task import task_name

SMALL = [
    *("--meta-batch-size", "3", "--episodes", "4", "--horizon", "6", "--hidden-sizes", "8"),
    *("--iterations", "2", "--eval-every", "0", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "navigation"
    main(["train", "--family", "envs:Navigation2D-v0", "--run-dir", str(path), *SMALL])
    return path


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "cheetah"
    main(["train", "--family", "envs:HalfCheetahVel-v0", "--run-dir", str(path), *SMALL])
    return path


def failure(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main([str(a) for a in arguments])
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_is_loaded_as_it_was_left(run):
    learner = metarl.load(run)
    again = train(
        Config.from_json(json.loads((run / "config.json").read_text())["config"] | {"resume": True})
    )
    assert learner.iteration == 2
    assert learner.config.hidden_sizes == (8,)
    for name, value in again.parameters.items():
        assert torch.equal(value, learner.parameters[name])


def test_an_evaluation_is_written_three_times_the_same(run, capsys):
    main(["evaluate", str(run), "--steps", "2", "--tasks", "5"])
    output = capsys.readouterr().out
    data = json.loads((run / "evaluation.json").read_text())
    assert list(data["splits"]) == ["test", "train", "beyond"]
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    for split, told in data["splits"].items():
        returns = np.array([task["returns"] for task in told["tasks"]])
        assert returns.shape == (5, 3)
        shown = events.Scalars(f"evaluation/{split}/mean")
        assert [event.step for event in shown] == [0, 1, 2]
        np.testing.assert_allclose([event.value for event in shown], returns.mean(0), rtol=1e-6)
        for k, step in enumerate(told["steps"]):
            assert step["mean"]["value"] == pytest.approx(returns[:, k].mean())
            assert step["hurt"] == (returns[:, k] < returns[:, 0]).mean()
            assert step["env_steps"] <= k * 4 * 6
            assert f"{step['mean']['value']:.4g}" in output
    test, train = (data["splits"][s]["steps"][2]["mean"]["value"] for s in ("test", "train"))
    assert data["train_test_gap"][2] == pytest.approx(train - test)
    _, worst, *_ = output.split("of 3 adaptations")
    by_return = sorted(data["splits"]["test"]["tasks"], key=lambda task: task["returns"][-1])
    assert worst.split()[1:4] == ["lowest", "return", task_name(by_return[0]["task"])]
    for task in by_return:
        assert np.shape(task["adaptations"]) == (3, 3)
        np.testing.assert_allclose(np.mean(task["adaptations"], 0), task["returns"])
    assert {"evaluation/adaptation/curve", "evaluation/adaptation/paths"} <= set(
        events.Tags()["images"]
    )


def test_adaptations_to_a_task_differ_in_their_rollouts_alone(run):
    learner = metarl.load(run)
    once, thrice = (learner.evaluate(4, 2, adaptations=n) for n in (1, 3))
    assert once.tasks["goal"].tolist() == thrice.tasks["goal"].tolist()
    assert thrice.adaptations.shape == (3, 4, 3)
    assert (np.ptp(thrice.adaptations, axis=-1) > 0).all()
    np.testing.assert_allclose(thrice.returns, thrice.adaptations.mean(-1))
    # What one adaptation takes; an episode may end a step earlier at the goal.
    np.testing.assert_allclose(thrice.env_steps, once.env_steps, rtol=0.01)
    # The first task's first rollouts have the same streams, however many there are.
    assert thrice.adaptations[0, 0, 0] == pytest.approx(once.returns[0, 0])


def test_an_inner_step_learns_from_as_many_episodes_as_asked_for(run, tmp_path, capsys):
    own = ("--episodes", "3", "--splits", "test", "--tasks", "4", "--adaptations", "1")
    main(["evaluate", str(run), "--steps", "2", *own])
    steps = json.loads((run / "evaluation.json").read_text())["splits"]["test"]["steps"]
    assert [step["episodes"] for step in steps] == [0, 3, 6]
    # An episode may end a step earlier, at the goal.
    assert steps[2]["env_steps"] == pytest.approx(2 * 3 * metarl.load(run).family.horizon, rel=0.1)
    alone = [metarl.load(run, episodes=n).evaluate(4, 0, adaptations=1).returns for n in (1, 3)]
    assert not np.allclose(*alone), "the mean of three episodes is that of the first"
    capsys.readouterr()
    main(["adapt", str(run), "--task", "goal=.3,-.2", "--steps", "2", "--episodes", "3"])
    assert "6 episodes" in capsys.readouterr().out
    assert list((run / "adapted").glob("*-steps-2-episodes-3-seed-1"))


def test_one_task_has_no_interval(run, capsys):
    capsys.readouterr()
    main(["evaluate", str(run), "--tasks", "1", "--splits", "test", "--steps", "1"])
    output = capsys.readouterr().out
    assert "test: 1 task, of which no interval is known" in output
    assert "[-" not in output


def test_a_new_evaluation_replaces_the_old_one(run):
    for steps in ("1", "2"):
        main(["evaluate", str(run), "--steps", steps, "--tasks", "2", "--splits", "test"])
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("evaluation/test/mean")] == [0, 1, 2]
    assert "evaluation/train/mean" not in events.Tags()["scalars"]
    assert len(list(run.glob("*.evaluation"))) == 1


def test_clips_move(run):
    main(["evaluate", str(run), "--tasks", "3", "--splits", "test", "--clips", "2"])
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    clips = [tag for tag in events.Tags()["images"] if tag.startswith("evaluation/clips/goal")]
    assert len(clips) == 2
    data = events.Images(clips[0])[0].encoded_image_string
    assert data[:6] == b"GIF89a"


def test_tasks_of_many_numbers_are_told_apart(tmp_path, capsys):
    path = tmp_path / "bandit"
    main(["train", "--family", "envs:BernoulliBandit-v0", "--run-dir", str(path), *SMALL[:4],
          "--iterations", "1", "--eval-every", "0"])  # fmt: skip
    capsys.readouterr()
    main(["evaluate", str(path), "--tasks", "4", "--splits", "test"])
    output = capsys.readouterr().out
    assert "test: 4 tasks, 95 % intervals over tasks" in output
    assert len(set(re.findall(r"probability=[\d.,]+", output))) >= 3
    for first in ("0.9", "0.91", "0.900001"):
        main(["adapt", str(path), "--task", f"probability={first},0.1,0.1,0.1,0.1"])
    assert len(list((path / "adapted").iterdir())) == 3


def test_an_oracle_is_shown_and_its_policy_knows_the_task(tmp_path):
    path = tmp_path / "oracle"
    main(["train", "--algorithm", "oracle", "--family", "envs:Navigation2D-v0", "--run-dir",
          str(path), *SMALL, "--normalise-observations"])  # fmt: skip
    main(["evaluate", str(path), "--tasks", "3", "--splits", "test", "--clips", "1"])
    events = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
    assert any(tag.startswith("evaluation/clips/goal") for tag in events.Tags()["images"])
    learner, goal = metarl.load(path), [0.3, -0.2]
    adapted = learner.adapt({"goal": goal}, 0)
    adapted.export(tmp_path / "policy")
    program = torch.export.load(tmp_path / "policy" / "policy.pt2").module()
    rows = torch.linspace(-1, 1, 10).reshape(5, 2)
    seen = torch.cat([rows, torch.tensor(goal).expand(5, -1)], -1)
    parameters = {name: p.unsqueeze(0) for name, p in adapted.parameters.items()}
    mode = learner.policy.distribution(parameters, seen.unsqueeze(0)).mode()[0]
    torch.testing.assert_close(program(rows), learner.units.to_environment(mode))


def test_a_clip_that_fails_leaves_the_evaluation(run, monkeypatch):
    def fails(*_, **__):
        raise UsageError("no pictures")

    monkeypatch.setattr(metarl.Learner, "render", fails)
    (run / "evaluation.json").unlink(missing_ok=True)
    with pytest.raises(UsageError, match="no pictures"):
        metarl.evaluate(run, tasks=2, clips=1)
    assert json.loads((run / "evaluation.json").read_text())["splits"]["test"]


def test_the_policy_runs_without_metarl(run, tmp_path, capsys):
    """The program and the plain layers give the very actions that they give here."""
    out = tmp_path / "policy"
    main(["adapt", str(run), "--task", "goal=.3,-.2", "--steps", "2", "--out", str(out)])
    assert "adapted with" in capsys.readouterr().out
    learner = metarl.load(run)
    about = json.loads((out / "policy.json").read_text())
    assert about["task"] == {"goal": [0.3, -0.2]}
    observations = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    adapted = learner.adapt({"goal": [0.3, -0.2]}, 2, seed=1)
    assert about["returns"] == adapted.returns
    rows = {name: p.unsqueeze(0) for name, p in adapted.parameters.items()}
    expected = learner.policy.distribution(rows, observations.unsqueeze(0)).mode()[0]
    torch.save(observations, tmp_path / "observations.pt")
    code = f"""
import json, sys, torch
from safetensors.torch import load_file
x = torch.load({str(tmp_path / "observations.pt")!r})
program = torch.export.load({str(out / "policy.pt2")!r}).module()
about = json.load(open({str(out / "policy.json")!r}))
network = torch.nn.Sequential(*(getattr(torch.nn, n)(*sizes) for n, *sizes in about["layers"]))
network.load_state_dict(load_file({str(out / "policy.safetensors")!r}))
assert not any(name.split(".")[0] in ("metarl", "envs") for name in sys.modules)
plain = network(x).clamp(torch.tensor(about["low"]), torch.tensor(about["high"]))
for n in (1, 7):
    assert torch.equal(program(x[:n]), plain[:n]) or n == 1
torch.save((program(x), plain), {str(tmp_path / "actions.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    program, plain = torch.load(tmp_path / "actions.pt")
    assert torch.equal(program, adapted.policy(observations))
    assert torch.equal(plain, adapted.policy(observations))
    torch.testing.assert_close(program, expected.clamp(-0.1, 0.1))


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_adaptation_outside_the_training_range_with_a_video(run, tmp_path, capsys, suffix):
    video = tmp_path / f"v.{suffix}"
    out = ["--out", str(tmp_path / "p")]
    main(["adapt", str(run), "--task", "goal=.7,.7", "--steps", "1", "--video", str(video), *out])
    output = capsys.readouterr().out
    assert "left before adaptation, right after" in output
    assert "outside the training range: goal" in output
    if suffix == "mp4":
        assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 7
        return
    with Image.open(video) as image:
        assert (image.n_frames, image.size) == (7, (640, 240))


def test_a_better_earlier_step_is_told(run, tmp_path, monkeypatch, capsys):
    episode_returns = np.array([[-9.0, -9.1], [-2.0, -2.1], [-5.0, -5.1], [-3.0, -3.1]])
    adapt = metarl.Learner.adapt

    def given(learner, *arguments):
        return dataclasses.replace(adapt(learner, *arguments), episode_returns=episode_returns)

    monkeypatch.setattr(metarl.Learner, "adapt", given)
    main(["adapt", str(run), "--steps", "3", "--out", str(tmp_path)])
    assert "step 1 has a higher return than the last: --steps 1 exports" in capsys.readouterr().out
    episode_returns[1] = [-9.0, 3.1]  # as good on average, but who knows
    main(["adapt", str(run), "--steps", "3", "--out", str(tmp_path)])
    assert "higher return" not in capsys.readouterr().out


def test_the_video_shows_the_policy_that_is_written(run, tmp_path, monkeypatch):
    shown, observations = [], np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)

    def recorded(family, task, steps, seed, act, camera):
        shown.append([act(observation, 0.0).tolist() for observation in observations])
        return [np.zeros((2, 2, 3), np.uint8)]

    monkeypatch.setattr("metarl.learners.learner.record_clip", recorded)
    out = ["--seed", "5", "--out", str(tmp_path), "--video", str(tmp_path / "v.gif")]
    main(["adapt", str(run), "--task", "goal=.3,.4", "--steps", "2", *out])
    program = torch.export.load(tmp_path / "policy.pt2").module()
    before, after = shown
    assert [program(row[None])[0].tolist() for row in torch.from_numpy(observations)] == after
    assert before != after


def test_adapting_to_an_environment_without_a_task(run, tmp_path, capsys):
    class Plain(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), float(action[0]), False, False, {}

    gymnasium.register("Plain-v0", entry_point=Plain, max_episode_steps=5)
    arguments = ["--env", "Plain-v0", "--out", str(tmp_path), "--steps", "3"]
    main(["adapt", str(run), *arguments])
    assert "Plain-v0" in capsys.readouterr().out
    gymnasium.register("mine/Plain-v0", entry_point=Plain, max_episode_steps=5)
    main(["adapt", str(run), "--env", "mine/Plain-v0", "--out", str(tmp_path / "other")])
    learner = metarl.load(run)
    own = learner.on(metarl.tasks.parameterised.single_task_family("Plain-v0"))
    adapted = own.adapt({"environment": 0.0}, 8)
    assert adapted.returns[-1] > adapted.returns[0]
    assert adapted.env_steps == 8 * 4 * 5
    line = failure(capsys, "adapt", run, "--env", "CartPole-v1", "--out", tmp_path)
    assert re.match("error: CartPole-v1 has observation_space .*the policy is for", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "nowhere is not a run folder: it has no config.json"),
        (["evaluate", "RUN", "--splits", "far"], "has no split far; it has train, test, beyond"),
        (["evaluate", "RUN", "--tasks", "0"], "--tasks 0 must be at least 1"),
        (["evaluate", "RUN", "--episodes", "0"], "--episodes 0 must be at least 1"),
        (["evaluate", "RUN", "--clips", "-1"], "--clips -1 must be at least 0"),
        (["adapt", "RUN", "--task", "speed=1"], "--task speed=1: a task has goal, not speed"),
        (["adapt", "RUN", "--task", "goal=9,9"], "goal = 9 is outside [-0.75, 0.75]"),
        (["adapt", "RUN", "--steps", "-1"], "--steps -1 must be a number of at least 0"),
        (["adapt", "RUN", "--episodes", "0"], "--episodes 0 must be a number of at least 1"),
        (["adapt", "RUN", "--video", "x.avi"], "--video x.avi must end in .mp4, .gif or .png"),
        (["adapt", "RUN", "--env", "Nothing-v0"], "there is no environment Nothing-v0"),
        (["adapt", "RUN", "--env", "CartPol-v1"], "CartPol-v1; did you mean CartPole-v1?"),
        (["adapt", "RUN", "--env", "CartPole-v1", "--task", "a=1"], "has no task"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, arguments, message):
    before = sorted(path.name for path in run.iterdir())
    line = failure(capsys, *[run if a == "RUN" else a for a in arguments])
    assert message in line
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_damaged_line_of_metrics_does_not_cut_a_report_off(run, tmp_path, caplog):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join(["{", *lines[1:], ""]))
    main(["evaluate", str(copy), "--tasks", "2", "--splits", "test"])
    assert "metrics.jsonl is damaged: line 1" in caplog.text
    events = EventAccumulator(str(copy)).Reload()
    assert "evaluation/test/mean" in events.Tags()["scalars"]


def test_what_cannot_be_loaded_is_one_line(run, tmp_path):
    described = json.loads((run / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match="has no checkpoint yet"):
        metarl.load(tmp_path)
    described["config"]["from_the_future"] = 1
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    with pytest.raises(UsageError, match="has no option from_the_future"):
        metarl.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert metarl.load(tmp_path).iteration == metarl.load(run).iteration  # by the checkpoint's
    (tmp_path / "checkpoints").unlink()
    with pytest.raises(UsageError, match=r"config\.json is damaged"):
        metarl.load(tmp_path)


def test_return_against_a_number_and_hyperparameters_are_shown(cheetah):
    main(["evaluate", str(cheetah), "--tasks", "3", "--splits", "test", "beyond"])
    events = EventAccumulator(str(cheetah)).Reload()
    assert "evaluation/adaptation/by_task" in events.Tags()["images"]
    content = events.PluginTagToContent("hparams")
    assert set(content) == {
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    assert not [path for path in cheetah.iterdir() if path.is_dir() and path.name != "checkpoints"]


def test_clips_of_different_lengths_end_together():
    short, long = [np.zeros((2, 2, 3), np.uint8)] * 2, [np.ones((2, 4, 3), np.uint8)] * 5
    both = side_by_side(short, long)
    assert len(both) == 5
    assert both[-1].shape == (2, 6, 3)


def test_a_label_is_written_into_the_corner_alone():
    (frame,) = labelled([np.zeros((60, 80, 3), np.uint8)], "before")
    assert frame[:16].max() > 200
    assert not frame[16:].any()


def test_a_strip_is_a_picture(tmp_path):
    write_clip([np.zeros((4, 4, 3), np.uint8)] * 9, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (24, 4)


def test_a_policy_acts_as_the_environment_takes_it():
    learner = metarl.Learner(Config("envs:CartPoleParams-v0", meta_batch_size=2, episodes=2))
    adapted = learner.adapt({"cart_mass": 1.0, "pole_mass": 0.1}, steps=0)
    action = adapted.policy.act(np.zeros(4), 0.0)
    assert isinstance(action, int)
    assert learner.family.prototype.action_space.contains(action)


def test_two_tasks_that_training_has_are_not_called_held_out(tmp_path, capsys):
    small = ("--meta-batch-size", "2", "--episodes", "2", "--horizon", "3", "--iterations", "1")
    family = ("--family", "envs:HalfCheetahDir-v0", "--eval-every", "0")
    main(["train", *family, *small, "--run-dir", str(tmp_path)])
    capsys.readouterr()
    main(["evaluate", str(tmp_path), "--tasks", "6", "--adaptations", "1", "--steps", "0"])
    output = capsys.readouterr().out
    shared = "2 tasks, which training has as well; 95 % intervals over 6 draws of them"
    assert f"test: {shared}" in output
    assert "train: 2 tasks; 95 % intervals over 6 draws of them" in output
    tables = output.split("lowest return")[1:]
    assert len(tables) == 2
    for table in tables:
        assert table.count("direction=1 ") == table.count("direction=-1 ") == 1
    assert json.loads((tmp_path / "evaluation.json").read_text())["held_out"] is False


@pytest.mark.parametrize(
    ("name", "holds_out"),
    [
        ("envs:HalfCheetahDir-v0", False),
        ("envs:NavigationCorners-v0", True),  # four corners, one of them held out
        ("envs:Navigation2D-v0", True),
        ("envs:GridNavigation-v0", True),
    ],
)
def test_whether_a_family_holds_tasks_out(name, holds_out):
    assert make_family(name).holds_out is holds_out
