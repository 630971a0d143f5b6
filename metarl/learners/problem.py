"""What a few-shot learner learns: the protocol of a problem, and its making by name."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from metarl.learners.config import FamilyOption
from metarl.maml.supervised import Loss
from metarl.support.errors import UsageError, hint_of_call
from metarl.support.forms import form_of
from metarl.support.modules import import_object
from metarl.support.options import with_truth_values
from metarl.support.text import counted
from metarl.tasks.samples import Samples


class Problem(Protocol):
    """A distribution over supervised tasks, and the model that learns them."""

    name: str
    measure: str
    """What `score` measures: the name of the curves."""

    @property
    def module(self) -> nn.Module:
        """The model."""

    @property
    def loss(self) -> Loss:
        """The loss of outputs under targets."""

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the parameters that `--adapts head` adapts."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of several domains; task i is of domain i modulo their number. Empty: one."""

    def sample(
        self, number: int, generator: Callable[[int], np.random.Generator], split: str
    ) -> tuple[Samples, Samples]:
        """Support and query sets of tasks of a split (train or test); a generator for each."""

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets [tasks, samples, ...] -> [tasks]."""


PARTS = ("name", "module", "loss", "head", "measure", "groups", "sample", "score")
"""What every problem has."""


def make_problem(name: str, options: Mapping[str, FamilyOption], seed: int) -> Problem:
    """The problem that MODULE:NAME makes of the options; its module begins with the seed.

    Raises:
        UsageError: it cannot be made.

    """
    make = import_object(name, "--problem")
    if not callable(make):
        raise UsageError(f"--problem {name} is neither a class nor a function")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            problem: Problem = make(**with_truth_values(options))
        except TypeError as error:
            hint = hint_of_call(error, make)
            raise UsageError(f"--problem {name} cannot be made: {error}{hint}") from error
    return problem


def expect_problem(problem: object) -> None:
    """Checks that nothing of a problem is missing.

    Raises:
        UsageError: something is.

    """
    if missing := [part for part in PARTS if not hasattr(problem, part)]:
        raise UsageError(f"{type(problem).__name__} is no few-shot problem: no {missing[0]}")


def samples_of(
    problem: Problem, number: int, generator: Callable[[int], np.random.Generator], split: str
) -> tuple[Samples, Samples]:
    """Support and query sets of `number` tasks of the problem.

    Raises:
        UsageError: its `sample` returns anything else.

    """
    sets: object = problem.sample(number, generator, split)
    match sets:
        case (Samples() as support, Samples() as query):
            pass
        case tuple() | list():
            kind = f"a {type(sets).__name__} of {len(sets)}"
            raise UsageError(f"{problem.name}: sample returns {kind}, not two Samples")
        case _:
            kind = "None" if sets is None else type(sets).__name__
            raise UsageError(f"{problem.name}: sample returns {kind}, not two Samples")
    for name, samples in (("support", support), ("query", query)):
        for what, x in (("inputs", samples.inputs), ("targets", samples.targets)):
            if not isinstance(x, Tensor) or x.dim() < 2 or len(x) != number:
                raise UsageError(
                    f"{problem.name}: sample returns {name} {what} {form_of(x)}, not tensors "
                    f"[{number}, samples, ...]"
                )
    return support, query


def scores_of(problem: Problem, outputs: Tensor, targets: Tensor) -> Tensor:
    """The problem's scores of outputs and targets [tasks, samples, ...], as floats: [tasks].

    Raises:
        UsageError: its `score` returns anything else.

    """
    scores: object = problem.score(outputs, targets)
    tasks = len(targets)
    if not isinstance(scores, Tensor) or scores.shape != (tasks,) or scores.is_complex():
        raise UsageError(
            f"{problem.name}: score returns {form_of(scores)} for {counted(tasks, 'task')}, not a "
            "tensor [tasks] with a number for each"
        )
    return scores if scores.is_floating_point() else scores.float()


def tensor_of(values: npt.ArrayLike, dtype: torch.dtype, wanted: str) -> Tensor:
    """Values as a tensor; of the type `dtype` if they are not whole numbers.

    Raises:
        UsageError: they are no numbers; the message begins with `wanted`.

    """
    given: object = values
    try:
        given = values if isinstance(values, Tensor) else np.asarray(values)
        tensor = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{wanted}, not {form_of(given)}") from None
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
