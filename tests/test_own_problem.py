"""Few-shot problems of one's own whose methods return what does not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from metarl import UsageError
from metarl.learners.few_shot import FewShotConfig, FewShotLearner
from metarl.support.randomness import Phase, RandomKey, Use
from metarl.tasks.samples import Samples

TASKS = 3


class Lines:
    """y = a x with a drawn from [1, 2]; `split` makes no difference."""

    name, measure, head, groups = "lines", "accuracy", ("weight",), ()
    loss = staticmethod(nn.functional.mse_loss)

    def __init__(self):
        self.module = nn.Linear(1, 1, bias=False)

    def sample(self, number, generator, split):
        a = torch.tensor([generator(i).uniform(1, 2) for i in range(number)]).float()
        x = torch.ones(number, 4, 1)
        return Samples(x, a.reshape(-1, 1, 1) * x), Samples(2 * x, 2 * a.reshape(-1, 1, 1) * x)

    def score(self, outputs, targets):
        return -(outputs - targets).square().mean((1, 2))


def learner_of(**methods):
    problem = type("Own", (Lines,), methods)()
    return FewShotLearner(FewShotConfig(meta_batch_size=TASKS, device="cpu"), problem)


SCORES = {
    "a tensor [] of torch.float32": lambda own, x, y: (x - y).square().mean(),
    "a tensor [1, 1] of torch.float32": lambda own, x, y: (x - y).square().mean(1),
    "a tensor [1, 4] of torch.float32": lambda own, x, y: (x - y).square().mean((2,)),
    "an array [1] of float32": lambda own, x, y: (x - y).square().mean((1, 2)).numpy(),
    "[0.0]": lambda own, x, y: [0.0] * len(x),
    "None": lambda own, x, y: None,
}


@pytest.mark.parametrize("form", SCORES)
def test_scores_of_another_form_are_one_line(form):
    """A chunk has one task here."""
    learner = learner_of(score=SCORES[form])
    message = f"lines: score returns {form} for 1 task, not a tensor [tasks] with a number for each"
    for work in (learner.iterate, lambda: learner.evaluate(1)):
        with pytest.raises(UsageError) as error:
            work()
        assert str(error.value) == message


def test_scores_may_be_whole_numbers():
    """The number of query samples that are right: all 4 of the tasks."""
    learner = learner_of(score=lambda own, x, y: (x * y < 100).sum((1, 2)))
    assert learner.iterate()["accuracy/after"] == 4
    assert learner.evaluate(2, 1).returns.tolist() == [[4, 4], [4, 4]]


def sample(number):
    return Lines().sample(number, np.random.default_rng, "train")


SETS = {
    "returns Samples, not two Samples": lambda own, n, generator, split: sample(n)[0],
    "returns None, not two Samples": lambda own, n, generator, split: None,
    "returns a list of 3, not two Samples": lambda own, n, generator, split: [*sample(n), 0],
    "query targets a tensor [2, 4, 1] of torch.float32, not tensors [3, samples, ...]": (
        lambda own, n, generator, split: (
            sample(n)[0],
            Samples(sample(n)[0].inputs, sample(n - 1)[0].targets),
        )
    ),
    "support inputs a tensor [4, 4, 1] of torch.float32, not tensors [3, samples, ...]": (
        lambda own, n, generator, split: sample(n + 1)
    ),
    "support inputs an array [3, 4, 1] of float32, not": (
        lambda own, n, generator, split: (
            Samples(sample(n)[0].inputs.numpy(), sample(n)[0].targets),
            sample(n)[1],
        )
    ),
    "support inputs a tensor [3] of torch.float32, not": (
        lambda own, n, generator, split: (
            Samples(torch.ones(n), torch.ones(n, 1)),
            sample(n)[1],
        )
    ),
}


@pytest.mark.parametrize("message", SETS)
def test_samples_of_another_form_are_one_line(message):
    learner = learner_of(sample=SETS[message])
    with pytest.raises(UsageError) as error:
        learner.iterate()
    assert str(error.value).startswith("lines: sample ")
    assert message in str(error.value)


def test_a_loss_that_is_no_tensor_is_one_line():
    learner = learner_of(loss=staticmethod(lambda outputs, targets: 1.0))
    with pytest.raises(UsageError, match=r"lines: the loss is 1\.0, not a tensor of one number"):
        learner.iterate()


def test_a_loss_without_a_gradient_is_one_line():
    def loss(outputs, targets):
        return (outputs.detach() - targets).square().mean()

    with pytest.raises(UsageError, match="the loss has no gradient by the outputs"):
        learner_of(loss=staticmethod(loss)).iterate()


def test_train_and_test_tasks_differ_where_a_problem_ignores_the_split():
    """Those of test are as they were before the splits had streams of their own."""
    drawn = {}

    def sample(own, number, generator, split):
        sets = Lines.sample(own, number, generator, split)
        drawn[split] = sets[0].targets[:, 0, 0]
        return sets

    learner = learner_of(sample=sample)
    for split in ("train", "test"):
        learner.evaluate(TASKS, split=split)
    assert not set(drawn["train"].tolist()) & set(drawn["test"].tolist())
    key = RandomKey(learner.config.seed, Phase.EVALUATION)
    expected = [key.generator(Use.TASK, i).uniform(1, 2) for i in range(TASKS)]
    np.testing.assert_allclose(drawn["test"], expected, rtol=1e-6)


INPUTS = {
    "targets must be numbers (of N classes: 0 to N − 1), not an array [2] of <U3": (
        [[0.0], [1.0]],
        ["cat", "dog"],
    ),
    "inputs must be numbers, not [[0.0], [1.0, 2.0]]": ([[0.0], [1.0, 2.0]], [0.0, 1.0]),
    "inputs must be numbers, not an array [1] of <U1": (["x"], [0.0]),
    "inputs must be numbers, not an array [] of object": (None, [0.0]),
}


@pytest.mark.parametrize("message", INPUTS)
def test_samples_that_are_no_numbers_are_one_line(message):
    with pytest.raises(UsageError) as error:
        learner_of().adapt(*INPUTS[message])
    assert str(error.value).startswith(f"lines: {message}")
