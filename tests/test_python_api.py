"""What the commands do, from Python: policies, rollouts, clips, reports, and few-shot modules."""

import base64
import copy
import io
import json
import re
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import metarl
from metarl.policies.observations import expect_observation
from metarl.studies.search import with_values
from metarl.support.errors import UsageError
from metarl.tasks.classification import (
    Domain,
    FewShotClassification,
    by_label,
    convolutional_net,
    head_of,
    image_folder,
)

TINY = {"meta_batch_size": 3, "episodes": 4, "horizon": 5, "device": "cpu"}
PLANE = "envs:Navigation2D-v0"
GOAL = {"goal": np.array([0.3, -0.2])}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run; its folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = metarl.Config(
        "envs:Navigation2D-v0", hidden_sizes=(8,), iterations=1, eval_every=0, run_dir=folder
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl.runs.report.evaluation_figures", lambda *_: {})
        metarl.train(metarl.Config.from_json(config.to_json() | TINY))
        yield folder


@pytest.fixture(scope="module")
def learner(run):
    return metarl.load(run)


def test_a_policy_acts_on_an_observation_and_on_rows(learner):
    policy = learner.adapt(GOAL, steps=2).policy
    rows = torch.randn(5, 2)
    actions = policy(rows)
    assert actions.shape == (5, 2)
    for row, action in zip(rows.numpy(), actions, strict=True):
        np.testing.assert_allclose(policy(row), action.detach(), rtol=1e-5)
        np.testing.assert_allclose(policy(row.tolist()), policy(row))


def test_a_policy_takes_tensors_of_any_leading_dimensions_and_types(learner):
    policy = learner.adapt(GOAL, steps=0).policy
    rows = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]])
    actions = policy(rows.float())
    assert torch.equal(policy(rows), actions)
    assert torch.equal(policy(rows.double().reshape(2, 3, 2)), actions.reshape(2, 3, 2))
    np.testing.assert_allclose(policy(rows[1]).detach(), actions[1].detach(), rtol=1e-5)
    assert policy(rows[:0]).shape == (0, 2)


ARRAY = r"the observation must be an array \[2\] of float64, not "
TENSOR = r"observations must be a tensor \[\.\.\., 2\], not a tensor "


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (0.5, ARRAY + "0.5$"),
        (None, ARRAY + "None$"),
        ("ab", ARRAY + "'ab'$"),
        ([[1.0], [1.0, 2.0]], ARRAY + r"\[\[1.0\]"),
        (np.zeros(3), ARRAY + r"an array \[3\] of float64$"),
        (np.zeros((5, 2)), ARRAY + r"an array \[5, 2\] of float64; several observations are a te"),
        ({"x": 1}, ARRAY),
        (torch.zeros(5, 3), TENSOR + r"\[5, 3\] of torch.float32$"),
        (torch.tensor(1.0), TENSOR + r"\[\]"),
        (torch.zeros(2, dtype=torch.complex64), "observations must be of torch.float32, not"),
    ],
)
def test_an_observation_of_another_form_is_one_line(learner, observation, message):
    with pytest.raises(UsageError, match=message):
        learner.adapt(GOAL, steps=0).policy(observation)


PARTS = spaces.Dict(
    image=spaces.Box(0, 255, (2, 2), np.uint8),
    pair=spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))),
)
FITTING = {"image": [[0, 1], [255, 3.0]], "pair": (1, [0, 1]), "more": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.full((2, 2), 0.5)}, r"\['image'\] must be .* of uint8; it has 0.5"),
        ({"image": [[0, 1], [2, 256]]}, r"of uint8; it has 256$"),
        ({"image": [[0, 1], [np.nan, 3]]}, r"of uint8; it has nan$"),
        ({"image": np.zeros(4)}, r"\['image'\] must be an array \[2, 2\] of uint8, not an array"),
        ({"pair": (3, [0, 1])}, r"\['pair'\]\[0\] must be of Discrete\(3\), not 3"),
        ({"pair": (0, [0, 2])}, r"\['pair'\]\[1\] must be of MultiBinary\(2\), not \[0, 2\]"),
        ({"pair": (0,)}, r"\['pair'\] must be a tuple of 2, not \(0,\)"),
        ({"pair": 0}, r"\['pair'\] must be a tuple of 2, not 0"),
    ],
)
def test_the_parts_of_an_observation_are_named(change, message):
    expect_observation(PARTS, FITTING)
    with pytest.raises(UsageError, match=message):
        expect_observation(PARTS, FITTING | change)
    with pytest.raises(UsageError, match="must be a dict of image, pair, not"):
        expect_observation(PARTS, {"image": FITTING["image"]})


def test_a_recurrent_policy_takes_the_reward_too():
    config = metarl.RL2Config(
        "envs:Navigation2D-v0", trials=2, episodes=2, horizon=3, hidden_size=4, minibatches=1
    )
    learner = metarl.RL2Learner(config)
    called, acted = (learner.adapt(GOAL, 1).policy for _ in range(2))
    remembered = {name: tensor.clone() for name, tensor in called.weights().items()}
    for reward in (0.0, -1.0):
        observation = np.full(2, reward, np.float32)
        np.testing.assert_array_equal(called(observation, reward), acted.act(observation, reward))
    # What is exported is the policy as adapted, not as it goes on from here.
    assert all(torch.equal(remembered[name], own) for name, own in called.weights().items())
    with pytest.raises(UsageError, match=r"policy\(observation, reward\).* policy.begin\(\)"):
        called(observation)
    called.begin()
    within = acted(observation, -2.0)
    assert not np.array_equal(called(observation, -2.0), within)
    with pytest.raises(UsageError, match=r"the reward must be an array \[\] of float32, not 'x'"):
        called(observation, "x")
    with pytest.raises(UsageError, match="takes 5 tensors, not 1: observations, rewards, actions"):
        called(torch.zeros(1, 2))
    step = called.example(6)
    together, apart = called(*step), called(*(x.reshape(2, 3, -1) for x in step))
    assert not any(result.requires_grad for result in together)
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one.reshape(other.shape), other)


def test_rollouts_are_the_episodes_of_the_adaptation(learner):
    adapted, rollouts = learner.adapt(GOAL, steps=2), learner.rollouts(GOAL, steps=2)
    assert len(rollouts) == 3
    for rollout, returns in zip(rollouts, adapted.episode_returns, strict=True):
        assert rollout.observations.shape == (1, 4, 5, 2)
        assert rollout.rewards.sum(-1)[0].tolist() == returns.tolist()


def test_everything_is_shown_in_one_short_line(learner, run):
    shown = [
        *(learner, learner.config, learner.family, learner.adapt(GOAL), learner.rollouts(GOAL)[0]),
        *(learner.evaluate(tasks=2), learner.render(GOAL)),
    ]
    for thing in shown:
        assert len(repr(thing)) < 300  # with the path of the run folder
        assert "\n" not in repr(thing)
    assert "goal=0.3,-0.2" in repr(shown[3])
    assert "gae_lambda" not in repr(shown[1])
    assert "hidden_sizes=(8,)" in repr(shown[1])
    assert repr(metarl.Config.of("promp", family="a:B-v0")) == (
        "MAMLConfig(family='a:B-v0', algorithm='promp')"
    )


def test_a_clip_is_shown_by_a_notebook_and_saved(learner, tmp_path):
    clip = learner.render(GOAL, steps=1)
    assert len(clip.frames) == 6  # one before the first step
    data = base64.b64decode(re.search(r"base64,([^\"]+)", clip._repr_html_())[1])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.n_frames, image.size) == (6, (640, 240))
    with Image.open(clip.save(tmp_path / "clip.gif")) as image:
        assert image.n_frames == 6
    assert len(metarl.show(learner.family, GOAL, steps=3).frames) == 4
    with pytest.raises(UsageError, match="Navigation2D-v0 has no camera side"):
        learner.render(GOAL, camera="side")


def test_a_policy_is_exported_with_its_task(learner, tmp_path):
    files = learner.adapt(GOAL, steps=1).export(tmp_path, {"author": "me"})
    assert [file.name for file in files] == ["policy.safetensors", "policy.json", "policy.pt2"]
    about = json.loads((tmp_path / "policy.json").read_text())
    assert about["task"] == {"goal": [0.3, -0.2]}
    assert (about["inner_steps"], about["author"]) == (1, "me")


def test_a_family_is_named_or_given():
    named, given = (
        metarl.show(family, steps=2, seed=3) for family in (PLANE, metarl.make_family(PLANE))
    )
    for one, other in zip(named.frames, given.frames, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(finding.passed for finding in metarl.check("envs:BernoulliBandit-v0"))


def test_a_comparison_takes_a_list_and_a_folder_as_text(tmp_path):
    comparison = metarl.Comparison(
        "envs:BernoulliBandit-v0", algorithms=["promp"], controls=[], run_dir=str(tmp_path)
    )
    assert comparison.names == ("promp",)
    assert comparison.run_folder("promp", 1) == tmp_path / "promp" / "seed-1"


def test_a_plot_of_nothing_is_one_line():
    with pytest.raises(UsageError, match="plot needs at least one run folder"):
        metarl.plot()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise_observations": "False"}, "--normalise-observations is 'False', not true or"),
        ({"meta_batch_size": 2.5}, "--meta-batch-size is 2.5, not a whole number"),
        ({"hidden_sizes": (8.5,)}, "--hidden-sizes[0] is 8.5, not a whole number"),
        ({"hidden_sizes": 64}, "--hidden-sizes is 64, not a list"),
        ({"inner_lr": "x"}, "--inner-lr is 'x', not a number"),
        ({"family": 3}, "--family is 3, not text"),
        ({"horizon": True}, "--horizon is True, not a whole number"),
    ],
)
def test_an_option_of_another_type_is_one_line(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        metarl.Config(**{"family": "envs:Navigation2D-v0", **options})


@pytest.mark.parametrize(
    ("config", "learner", "message"),
    [
        (metarl.Config, "rl2", "--learner rl2 must be maml here; metarl.RL2Config is for rl2"),
        (metarl.RL2Config, "maml", "--learner maml must be rl2 here; metarl.Config is for maml"),
        (
            metarl.Config,
            "my:Own",
            "--learner my:Own must be maml here; another learner's class has a configuration of "
            "its own, Config",
        ),
    ],
)
def test_another_learner_is_one_line_that_names_its_configuration(config, learner, message):
    with pytest.raises(UsageError) as error:
        config(PLANE, learner=learner)
    assert str(error.value) == message


CONFIG = metarl.Config(PLANE)
WRONG_ARGUMENTS = {
    "metarl.Learner takes a metarl.Config, not RL2Config(": (
        lambda: metarl.Learner(metarl.RL2Config(PLANE))
    ),
    "; metarl.make_learner makes the learner of any": lambda: metarl.RL2Learner(CONFIG),
    "metarl.RL2Learner takes a metarl.RL2Config, not MAMLConfig(": (
        lambda: metarl.RL2Learner(CONFIG)
    ),
    "metarl.FewShotLearner takes a metarl.FewShotConfig": lambda: metarl.FewShotLearner(CONFIG),
    f"metarl.Learner takes a metarl.Config, not '{PLANE}'": lambda: metarl.Learner(PLANE),
    "family must be a metarl.TaskFamily, as metarl.make_family": (
        lambda: metarl.Learner(CONFIG, PLANE)
    ),
    "metarl.train takes a configuration, such as metarl.Con": lambda: metarl.train(PLANE),
    "make_learner takes a configuration, such as metarl.Con": lambda: metarl.make_learner(PLANE),
    "metarl.tune takes a configuration, such as metarl.Con": lambda: metarl.tune(PLANE),
    "metarl.compare takes a metarl.Comparison, not": lambda: metarl.compare(PLANE),
    "task families are named MODULE:ID, as in envs:HalfCheetahDir-v0, not <class": (
        lambda: metarl.Config(gymnasium.Env)
    ),
    "; gymnasium.register gives an environment its id": lambda: metarl.RL2Config(gymnasium.Env()),
    f"; the id of this one is {PLANE}": lambda: metarl.Config(metarl.make_family(PLANE)),
    "not <class 'gymnasium.core.Env'>; gymnasium.register": (
        lambda: metarl.make_family(gymnasium.Env)
    ),
    "are named MODULE:ID, as in envs:HalfCheetahDir-v0, not <class 'gym": (
        lambda: metarl.Comparison(gymnasium.Env)
    ),
    "metarl.check takes the id of a registered family, or a metarl.TaskFamily, not <": (
        lambda: metarl.check(gymnasium.Env())
    ),
    "metarl.show takes the id of a registered family, or a metarl.TaskFamily, not None": (
        lambda: metarl.show(None)
    ),
    "--algorithms is 'promp', not a list": lambda: metarl.Comparison(PLANE, algorithms="promp"),
    "--controls is 'random', not a list": lambda: metarl.Comparison(PLANE, controls="random"),
    "modules is 'two', not a list": lambda: metarl.families("two"),
    "callbacks is <built-in function print>, not a list": lambda: metarl.train(CONFIG, print),
    "callbacks is 'a:b', not a list": lambda: metarl.train(CONFIG, callbacks="a:b"),
    "--splits is 'test', not a list": lambda: metarl.evaluate("runs/none", splits="test"),
    "--info-metrics is 'x', not a list": lambda: metarl.evaluate("runs/none", info_metrics="x"),
    "--outer is named MODULE:CLASS, not <class": lambda: metarl.Config(PLANE, outer=dict),
    "--baseline is named MODULE:FUNCTION, not <": lambda: metarl.Config(PLANE, baseline=print),
}


@pytest.mark.parametrize("message", WRONG_ARGUMENTS)
def test_an_argument_of_another_kind_is_one_line(message):
    with pytest.raises(UsageError) as error:
        WRONG_ARGUMENTS[message]()
    assert message in str(error.value)


def test_numbers_of_numpy_are_numbers():
    config = metarl.Config("envs:Navigation2D-v0", episodes=np.int64(3), inner_lr=np.float32(0.5))
    assert (config.episodes, config.inner_lr) == (3, 0.5)


def test_numbers_that_are_too_small_are_one_line(learner):
    for options in ({"tasks": 0}, {"adaptations": 0}, {"steps": -1}):
        ((name, value),) = options.items()
        with pytest.raises(UsageError, match=f"{name} {value} must be at least"):
            learner.evaluate(**options)
    with pytest.raises(UsageError, match="steps -1 must be at least 0"):
        learner.adapt(GOAL, steps=-1)


CALLS = {
    "steps must be a whole number, not '2'": lambda learner: learner.adapt(GOAL, steps="2"),
    "steps must be a whole number, not 1.5": lambda learner: learner.rollouts(GOAL, steps=1.5),
    "seed must be a whole number, not '1'": lambda learner: learner.adapt(GOAL, seed="1"),
    "a task must be a dict of goal, not None": lambda learner: learner.adapt(None),
    "a task must be a dict of goal, not 'goal=0'": lambda learner: learner.render("goal=0"),
    "a task must be a dict of goal, not [{'goal'": lambda learner: learner.rollouts([GOAL]),
    "tasks must be a whole number, not [{'goal'": lambda learner: learner.evaluate([GOAL]),
    "adaptations must be a whole number, not": lambda learner: learner.evaluate(2, adaptations="2"),
    "family must be a metarl.TaskFamily, as metarl.make": lambda learner: learner.on(PLANE),
}


@pytest.mark.parametrize("message", CALLS)
def test_an_argument_of_a_learners_method_of_another_kind_is_one_line(message, learner):
    with pytest.raises(UsageError) as error:
        CALLS[message](learner)
    assert str(error.value).startswith(message)


def test_few_shot_learners_check_numbers_too(few_shot):
    for wrong in (lambda: few_shot.evaluate("3"), lambda: few_shot.evaluate(2, steps=1.5)):
        with pytest.raises(UsageError, match="must be a whole number, not"):
            wrong()
    with pytest.raises(UsageError, match="tasks 0 must be at least 1"):
        few_shot.evaluate(0)
    with pytest.raises(UsageError, match="steps -1 must be at least 0"):
        few_shot.adapt(np.zeros((2, 3)), [0, 1], steps=-1)


def test_numbers_of_numpy_are_numbers_of_an_evaluation(learner):
    assert learner.evaluate(np.int64(2), np.int64(1)).returns.shape == (2, 2)


def test_an_evaluation_is_that_of_the_command(run):
    shares = []
    evaluations = metarl.evaluate(
        run, tasks=3, steps=2, adaptations=1, progress=lambda what, share: shares.append(share)
    )
    assert [e.split for e in evaluations] == ["test", "train", "beyond"]
    data = json.loads((run / "evaluation.json").read_text())
    for evaluation in evaluations:
        told = [task["returns"] for task in data["splits"][evaluation.split]["tasks"]]
        np.testing.assert_allclose(evaluation.returns.T, told)
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1] * 3)
    assert isinstance(metarl.plot(run), Figure)


def test_families_are_listed_checked_and_drawn_from():
    assert "Navigation2D-v0" in metarl.families()
    assert "promp" in metarl.ALGORITHMS
    family = metarl.make_family("envs:Navigation2D-v0", 5)
    assert all(finding.passed for finding in metarl.check(family))
    tasks = family.sample_tasks(3, 7, "beyond")
    assert tasks["goal"].shape == (3, 2)
    np.testing.assert_array_equal(tasks["goal"], family.sample_tasks(3, 7, "beyond")["goal"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"inner_lr": 0.5}, {"inner_lr": 0.5}),
        ({"hidden_sizes": "32 16", "episodes": "7"}, {"hidden_sizes": (32, 16), "episodes": 7}),
        ({"normalise_observations": "True"}, {"normalise_observations": True}),
        ({"family_options.action_scale": 2.0}, {"family_options": {"action_scale": 2.0}}),
        ({"policy_options.width": "8"}, {"policy_options": {"width": 8}}),
        ({"activation": "relu", "horizon": "9"}, {"activation": "relu", "horizon": 9}),
    ],
)
def test_the_values_of_a_search_have_the_types_of_the_options(values, expected):
    config = with_values(metarl.Config("envs:Navigation2D-v0"), values)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.fixture(scope="module")
def classes():
    """Six classes of 8 vectors around a point each."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 8)
    centres = random.normal(size=(6, 3))
    return by_label(centres[labels] + 0.1 * random.normal(size=(48, 3)), labels)


def problem_of(classes):
    torch.manual_seed(0)
    domain = Domain.split(classes, held_out=0.5)
    return FewShotClassification.of(domain, ways=2, shots=1, queries=4)


@pytest.fixture(scope="module")
def few_shot(classes, tmp_path_factory):
    """A finished few-shot run of a problem that its config.json cannot name."""
    folder = tmp_path_factory.mktemp("runs") / "few_shot"
    config = metarl.FewShotConfig(
        iterations=2, meta_batch_size=2, eval_every=0, inner_lr=0.1, run_dir=folder, device="cpu"
    )
    return metarl.train(config, problem=problem_of(classes))


def test_a_few_shot_run_is_loaded_and_evaluated_with_its_problem(few_shot, classes):
    folder = few_shot.config.run_folder
    with pytest.raises(UsageError, match="needs its problem"):
        metarl.load(folder)
    loaded = metarl.load(folder, problem=problem_of(classes))
    for name, value in few_shot.parameters.items():
        assert torch.equal(value, loaded.parameters[name])
    evaluations = metarl.evaluate(folder, problem=problem_of(classes), tasks=4, steps=1)
    assert [(e.split, e.measure, e.held_out) for e in evaluations] == [
        ("test", "accuracy", True),
        ("train", "accuracy", False),
    ]
    assert json.loads((folder / "evaluation.json").read_text())["measure"] == "accuracy"
    with pytest.raises(UsageError, match=r"--clips: .* is not a run on a task family"):
        metarl.evaluate(folder, problem=problem_of(classes), clips=1)


def test_a_module_adapts_as_a_plain_loop_does_and_is_exported(few_shot, tmp_path):
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    adapted = few_shot.adapt(x.numpy(), y.numpy(), steps=3)
    plain = copy.deepcopy(few_shot.problem.module)
    plain.load_state_dict(few_shot.parameters)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(plain(x), y)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, plain.parameters())
        for p, g in zip(plain.parameters(), gradients, strict=True):
            p.data -= 0.1 * g
    np.testing.assert_allclose(adapted.losses[:3], losses, rtol=1e-5)
    torch.testing.assert_close(adapted(x), plain(x).detach())
    torch.testing.assert_close(adapted(x[0].tolist()), adapted(x)[0])
    with pytest.raises(
        UsageError, match=r"inputs must be a tensor \[\.\.\., 3\], not a tensor \[2\]"
    ):
        adapted(np.zeros(2))
    with pytest.raises(UsageError, match="inputs must be a tensor or an array, not 'picture'"):
        adapted("picture")
    assert len(repr(adapted)) < 200
    adapted.export(tmp_path)
    program = torch.export.load(tmp_path / "model.pt2").module()
    assert not program(x[:1]).requires_grad
    torch.testing.assert_close(program(x[:1]), adapted(x[:1]))
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == plain.state_dict().keys()
    assert json.loads((tmp_path / "model.json").read_text())["input_shape"] == [3]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (np.zeros((3, 2)), [0, 1, 1], r"inputs a tensor \[3, 2\] of torch.float32 and targets a"),
        (np.zeros((3, 3)), [0, 1, 2], "own data: .* Target 2 is out of bounds"),
        (np.zeros((3, 3)), [0, 1], r"targets a tensor \[2\] of torch.int64"),
    ],
)
def test_samples_that_do_not_fit_are_one_line(few_shot, inputs, targets, message):
    with pytest.raises(UsageError, match=message):
        few_shot.adapt(inputs, targets)


def test_a_module_that_does_not_fit_the_ways_is_one_line(classes):
    domain = Domain.split(classes, held_out=0.5)
    problem = FewShotClassification.of(
        domain, ways=3, queries=4, module=nn.Sequential(nn.Linear(3, 2))
    )
    learner = metarl.FewShotLearner(metarl.FewShotConfig(device="cpu"), problem)
    with pytest.raises(UsageError, match=r"inputs a tensor \[3, 3\] .* Target 2 is out of bounds"):
        learner.evaluate(tasks=2)


def test_a_run_that_names_its_problem_is_loaded_from_its_folder_alone(tmp_path, capsys):
    from metarl.cli.main import main

    run = ["--run-dir", str(tmp_path), "--device", "cpu", "--iterations", "1", "--eval-every", "0"]
    options = ["--problem", "envs.sinusoid:Sinusoid", "--problem-options", "shots", "3"]
    main(["train", "--learner", "few_shot", *options, *run, "--meta-batch-size", "2"])
    assert f"next: metarl evaluate {tmp_path}, tensorboard" in capsys.readouterr().out
    loaded = metarl.load(tmp_path)
    assert loaded.problem.shots == 3
    assert not loaded.higher_is_better
    main(["evaluate", str(tmp_path), "--tasks", "3", "--steps", "1", "--splits", "test"])
    output = capsys.readouterr().out
    assert "mean, median, IQM: of the mse; lower is better" in output
    assert "test: 3 tasks" in output


def test_a_problem_that_lacks_a_part_is_one_line():
    class Problem:
        name = "nothing"

    with pytest.raises(UsageError, match="Problem is no few-shot problem: no module"):
        metarl.FewShotLearner(metarl.FewShotConfig(device="cpu"), Problem())
    with pytest.raises(UsageError, match="--learner maml takes no problem"):
        metarl.train(metarl.Config("envs:Navigation2D-v0"), problem=Problem())


def test_a_folder_of_images_is_classes(tmp_path):
    for number, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for i in range(number + 2):
            Image.new("RGB", (9, 5), (255, 0, 255 * number)).save(tmp_path / name / f"{i}.png")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    shutil.copy(tmp_path / "cats" / "0.png", tmp_path / ".ipynb_checkpoints")
    (tmp_path / "cats" / ".DS_Store").write_text("of a Mac")
    cats, dogs = image_folder(tmp_path, size=4)
    assert (cats.shape, dogs.shape) == ((2, 3, 4, 4), (3, 3, 4, 4))
    assert cats[0, :, 0, 0].tolist() == [1, -1, -1]
    assert dogs[0, :, 0, 0].tolist() == [1, -1, 1]
    assert image_folder(tmp_path, size=4, grey=True)[0].shape == (2, 1, 4, 4)
    (tmp_path / "dogs" / "notes.txt").write_text("not an image")
    with pytest.raises(UsageError, match=r"notes\.txt is not an image"):
        image_folder(tmp_path)
    with pytest.raises(UsageError, match="has no folders with images"):
        image_folder(tmp_path / "dogs")


def test_data_that_cannot_make_tasks_are_one_line(classes):
    with pytest.raises(UsageError, match=r"labels \(3,\) must be one for each of 2 samples"):
        by_label(np.zeros((2, 3)), [0, 1, 1])
    with pytest.raises(UsageError, match="class 0 has 8 samples; 5 shots and 4 queries need 9"):
        FewShotClassification.of(Domain.split(classes), 1, 5, 4)
    with pytest.raises(UsageError, match="test: 2 classes are too few for 3 ways"):
        FewShotClassification.of(Domain.split(classes), 3, 1, 4)
    with pytest.raises(UsageError, match="held_out 0 of 6 classes is 0"):
        Domain.split(classes, held_out=0)


def test_a_split_holds_out_whole_classes(classes):
    domain = Domain.split(classes, held_out=0.5, seed=3)
    first = sorted(float(c[0, 0]) for c in (*domain.train, *domain.test))
    assert first == sorted(float(c[0, 0]) for c in classes)
    assert (len(domain.train), len(domain.test)) == (3, 3)


def test_the_default_net_fits_the_images():
    module, head = convolutional_net(5, shape=(3, 13, 10))
    assert module(torch.zeros(2, 3, 13, 10)).shape == (2, 5)
    assert head == head_of(module) == ("7.weight", "7.bias")
