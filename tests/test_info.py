"""Metrics of one's own: numbers in the info of an environment's steps, on every backend."""

import dataclasses
import json
import time

import gymnasium
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from envs.navigation import Navigation2D
from metarl import Config, Learner, RL2Config, RL2Learner, UsageError, train
from metarl.cli.main import main
from metarl.evaluation.evaluation import Evaluation
from metarl.sampling.info import InfoMetric, expect_reported, per_episode
from metarl.simulation import backends
from metarl.simulation.gymnasium import GymnasiumSimulation
from metarl.simulation.serial import VectorEnvironments
from metarl.support.foreign import POLL
from metarl.support.randomness import Phase, RandomKey
from metarl.tasks.family import make_family

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = Config(
    family="envs:Navigation2D-v0",
    iterations=1,
    meta_batch_size=2,
    episodes=3,
    horizon=5,
    hidden_sizes=(4,),
    eval_every=1,
    eval_tasks=3,
    info_metrics=("distance", "distance:mean"),
    device="cpu",
)
TAGS = {f"info/{label}/{when}" for label in ("distance", "distance_mean")
        for when in ("before", "after")}  # fmt: skip


def rollout_of(config):
    learner = Learner(config)
    tasks = learner.family.sample_tasks(3, RandomKey(4))
    rollout = learner.sample(learner.begin(tasks), tasks, RandomKey(3, Phase.EVALUATION), 0)
    learner.close()
    return rollout, torch.from_numpy(tasks["goal"])


def test_the_metrics_of_an_episode_by_hand():
    nan = torch.nan
    values = torch.tensor([[[1.0, 3.0, 9.0], [nan, 4.0, nan], [nan, nan, nan]]]).unsqueeze(-1)
    valid = torch.tensor([[[True, True, False], [True, True, True], [True, False, False]]])
    metrics = [InfoMetric.parse("x"), InfoMetric.parse("x:mean")]
    found = per_episode(values.expand(-1, -1, -1, 2), valid, metrics)
    torch.testing.assert_close(
        found, torch.tensor([[[3.0, 2.0], [nan, 4.0], [nan, nan]]]), equal_nan=True
    )


def test_the_distance_is_that_of_the_observations():
    rollout, goals = rollout_of(SMALL)
    after = torch.cat([rollout.observations[:, :, 1:], rollout.final_observations[:, :, None]], 2)
    distances = (after - goals[:, None, None]).norm(dim=-1)
    torch.testing.assert_close(rollout.info[..., 0].float(), distances[..., -1].float())
    torch.testing.assert_close(rollout.info[..., 1].float(), distances.mean(-1).float())


@pytest.mark.parametrize("workers", [0, 2])
def test_every_simulation_has_the_same_numbers(workers):
    expected, _ = rollout_of(SMALL)
    config = dataclasses.replace(SMALL, simulation="gymnasium", workers=workers)
    rollout, _ = rollout_of(config)
    torch.testing.assert_close(rollout.info, expected.info, rtol=1e-12, atol=0)


class Reached(Navigation2D):
    """Tells of success near the goal."""

    def info(self, before, control, after, task):
        return {"is_success": super().info(before, control, after, task)["distance"] < 0.3}


gymnasium.register(
    "Reached-v0",
    "metarl.simulation.dynamics:DynamicsEnv",
    max_episode_steps=100,
    kwargs={"family": f"{__name__}:Reached"},
)


@pytest.mark.parametrize("simulation", ["batch", "gymnasium"])
def test_a_declared_family_tells_of_success_on_every_simulation(simulation):
    options = {"family": f"{__name__}:Reached-v0", "simulation": simulation, "info_metrics": ()}
    rollout, goals = rollout_of(dataclasses.replace(SMALL, **options))
    after = torch.cat([rollout.observations[:, :, 1:], rollout.final_observations[:, :, None]], 2)
    near = (after - goals[:, None, None]).norm(dim=-1) < 0.3
    assert rollout.valid.all()
    assert torch.equal(rollout.success, near.any(-1))
    assert 0 < rollout.success.sum() < rollout.success.numel(), "both kinds are there to see"


def test_a_vector_environment_gives_arrays():
    class Vector:
        metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
        num_envs = 2
        single_observation_space = single_action_space = gymnasium.spaces.Box(-1, 1, (1,))
        task_space = gymnasium.spaces.Dict(goal=gymnasium.spaces.Box(-1.0, 1.0, ()))
        task = None

        def reset(self, seed):
            self.t = 0
            return np.zeros((2, 1)), {}

        def step(self, actions):
            self.t += 1
            ended = np.array([self.t >= 1, self.t >= 2])
            info = {"x": np.array([self.t, 10 * self.t]), "is_success": np.array([False, True])}
            return np.zeros((2, 1)), np.zeros(2), ended, ~ended & False, info

    simulation = GymnasiumSimulation(VectorEnvironments(Vector(), "v", ("x", "y")))
    simulation.begin({"goal": np.zeros(2)}, np.arange(2))
    simulation.step(torch.zeros(2, 1))
    step = simulation.step(torch.zeros(2, 1))
    assert step.info[:, 0].tolist() == [1, 20]  # an ended episode rests
    assert step.info[:, 1].isnan().all()
    assert step.success.tolist() == [False, True]


def test_a_run_records_them_and_evaluate_reports_them(tmp_path, capsys):
    run = tmp_path / "run"
    train(dataclasses.replace(SMALL, run_dir=run))
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(line)
    assert {tag for tag in metrics if tag.startswith("info/")} == TAGS
    assert metrics["test/step_1/info/distance"] > 0
    main(["evaluate", str(run), "--tasks", "2", "--info-metrics", "distance"])
    assert "mean distance" in capsys.readouterr().out
    data = json.loads((run / "evaluation.json").read_text())["splits"]["test"]
    each = [task["info"]["distance"][1] for task in data["tasks"]]
    assert data["steps"][1]["info"] == {"distance": pytest.approx(np.mean(each))}
    events = EventAccumulator(str(run)).Reload()
    assert TAGS | {"evaluation/test/info/distance"} <= set(events.Tags()["scalars"])


def test_rl2_records_them_too():
    options = {"trials": 4, "episodes": 2, "horizon": 4, "minibatches": 1, "device": "cpu"}
    config = RL2Config(SMALL.family, info_metrics=SMALL.info_metrics, **options)
    assert set(RL2Learner(config).iterate()) >= TAGS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"info_metrics": ("distnce",)},
            "--info-metrics distnce: the info of envs:Navigation2D-v0 has no number of this name; "
            "it has distance, unstable; did you mean distance?",
        ),
        (
            {"info_metrics": ("speed",), "family": "faulty_families:Line-v0"},
            "the info of faulty_families:Line-v0 has no number of this name; it has none",
        ),
        ({"info_metrics": ("distance:max",)}, "--info-metrics distance:max must be NAME"),
        (
            {"simulation": "test_info:Silent"},
            "--info-metrics: --simulation test_info:Silent has no info of its steps",
        ),
    ],
)
def test_what_is_not_reported_is_one_line(changes, message):
    with pytest.raises(UsageError) as caught:
        Learner(dataclasses.replace(SMALL, **changes))
    assert message in str(caught.value)


def test_the_time_of_a_step_is_that_of_the_run():
    """Making an environment may take longer; where one does not return, the process ends."""
    family = make_family("envs:Navigation2D-v0", horizon=5)
    made = family.make()
    object.__setattr__(family, "make", lambda: time.sleep(4 * POLL) or made)
    expect_reported([InfoMetric.parse("distance")], family, timeout=2 * POLL)


def test_a_number_that_no_episode_reports_is_left_out():
    returns, nan = np.zeros((2, 3)), np.full(3, np.nan)
    info = {"x": np.stack([nan, [1.0, np.nan, 3.0]])}
    evaluation = Evaluation("test", {"goal": np.zeros(3)}, returns, info=info)
    metrics = evaluation.metrics()
    assert "test/step_0/info/x" not in metrics
    assert metrics["test/step_1/info/x"] == 2
    data = json.loads(json.dumps(evaluation.summary(), allow_nan=False))
    assert [task["info"]["x"] for task in data["tasks"]] == [[None, 1], [None, None], [None, 3]]


class Silent(backends.GymnasiumBackend):
    """A backend that was written before there were infos."""

    def make(self, family, num_envs, threads, processes):
        return super().make(family, num_envs, threads, processes)
