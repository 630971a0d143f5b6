"""The inner loop: from parameters and experience to adapted parameters, all tasks at once.

It is model-agnostic: the experience may be rollouts, or the labelled samples of a supervised task,
and the objective any function of a parameter dict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from metarl.policies.parameters import Parameters, expand
from metarl.support.errors import NonFiniteError, UsageError
from metarl.support.finite import expect_finite
from metarl.support.forms import form_of
from metarl.support.parallel import Shard, Workers
from metarl.support.parts import Parts, takes


class Experience(Protocol):
    """What the inner loop learns from: rollouts or samples of several tasks."""

    def __getitem__(self, tasks: slice) -> Self:
        """The experience of some tasks."""

    @property
    def tasks(self) -> int:
        """Number of tasks."""

    @property
    def rows(self) -> int:
        """Samples of a task."""

    @property
    def device(self) -> torch.device:
        """Where it lies."""


Objective = Callable[[Mapping[str, Tensor], Any], Tensor]
"""(parameters [tasks, ...], experience) -> what the inner loop maximises, [tasks]."""

StepSizes = Literal["fixed", "per_layer", "per_parameter"]
"""One number for all; learned, one for each tensor; learned, one for each weight (Meta-SGD)."""

StepSize = Callable[[str], Tensor | float]
"""The step size α of the parameter of a name; a tensor if it is learned."""

InnerUpdate = Callable[[Parameters, Parameters, StepSize], Mapping[str, Tensor]]
"""(parameters [tasks, ...], gradients of the objective, step sizes) -> parameters after the step.

It consists of differentiable operations, and treats each task by itself.
"""

STEP_SIZE = "step_size."
"""Prefix of the meta-parameters that are step sizes of the parameter named after it."""


def every_parameter(name: str) -> bool:
    """The inner loop changes all parameters."""
    return True


def gradient_ascent(
    parameters: Parameters, gradients: Parameters, step_size: StepSize
) -> Parameters:
    """θ' = θ + α ∇_θ Ĵ(θ) (Finn et al. 2017, equation 1)."""
    return {name: p + step_size(name) * gradients[name] for name, p in parameters.items()}


INNER_UPDATES = Parts[InnerUpdate](
    "--inner-update",
    "metarl.inner_updates",
    {"gradient": gradient_ascent},
    takes("parameters", "gradients", "step_size"),
    "a function of (parameters, gradients, step_size)",
)


@dataclass(frozen=True)
class InnerLoop:
    """Steps along the gradient of an objective, one for each batch: by default gradient ascent.

    Where θ has a meta-parameter `step_size.<name>`, it is the α of the parameter of that name:
    Meta-SGD (Li et al. 2017, arXiv 1707.09835) if there is one for each weight.
    """

    objective: Objective
    learning_rate: float
    later_factor: float = 1.0
    """α of every step after the first is this times as large; Finn et al. have .5 at test."""
    adapts: Callable[[str], bool] = every_parameter
    """Which parameters it changes: those of the head alone in ANIL (Raghu et al. 2020, arXiv
    1909.09157), the context alone in CAVIA (Zintgraf et al. 2019, arXiv 1810.03642)."""
    fresh: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameters that begin at the same value for every task and are no part of θ: the context."""
    first_order: bool = False
    """Leave out the second derivatives: ∂θ'/∂θ is taken as the identity (Finn et al. 2017, 5.2)."""
    update: InnerUpdate = gradient_ascent
    """What a step does with the gradient."""
    separable: bool = False
    """The objective is a mean over rows of functions of one row each, which some rows estimate."""

    def begin(self, parameters: Mapping[str, Tensor], tasks: int) -> Parameters:
        """θ for every task before the first step: [tasks, ...] each."""
        return expand({**parameters, **self.fresh}, tasks)

    def step(
        self,
        parameters: Mapping[str, Tensor],
        experience: Experience,
        number: int = 0,
        create_graph: bool = False,
    ) -> Parameters:
        """Step `number` of every task; with `create_graph`, θ' can be differentiated by θ.

        Args:
            parameters: [tasks, ...] each.

        """
        if not create_graph:
            parameters = {name: p.detach() for name, p in parameters.items()}
        own, gradients = self.gradients(parameters, experience, create_graph)
        with torch.set_grad_enabled(create_graph):
            changed = self.update(
                own, gradients, lambda name: self._step_size(parameters, name, number)
            )
        _expect_same_forms(own, changed)
        if create_graph and changed and not any(p.requires_grad for p in changed.values()):
            raise UsageError(
                "the inner update returns what has no gradient by the parameters that it gets, "
                "which the meta-gradient needs: compute it without detach() and no_grad()"
            )
        return {**parameters, **{n: p if create_graph else p.detach() for n, p in changed.items()}}

    def gradients(
        self,
        parameters: Mapping[str, Tensor],
        experience: Experience,
        create_graph: bool = False,
    ) -> tuple[Parameters, Parameters]:
        """The parameters [tasks, ...] that the inner loop changes, and their gradients."""
        own = {
            name: p if p.requires_grad else p.detach().requires_grad_()
            for name, p in parameters.items()
            if self.adapts(name) and not name.startswith(STEP_SIZE)
        }
        with torch.enable_grad():
            value = self.objective({**parameters, **own}, experience)
            # Tasks are independent, so the gradient of the sum holds each task's own.
            gradients = torch.autograd.grad(
                value.sum(),
                tuple(own.values()),
                create_graph=create_graph and not self.first_order,
                allow_unused=True,  # by a module with a head for something else
                materialize_grads=True,
            )
        return own, dict(zip(own, gradients, strict=True))

    def path(
        self,
        parameters: Mapping[str, Tensor],
        batches: Sequence[Experience],
        create_graph: bool = False,
    ) -> list[Parameters]:
        """The parameters [tasks, ...] after 0, 1, ... steps, one on each batch."""
        path = [dict(parameters)]
        for number, batch in enumerate(batches):
            path.append(self.step(path[-1], batch, number, create_graph))
        return path

    def _step_size(
        self, parameters: Mapping[str, Tensor], name: str, number: int
    ) -> Tensor | float:
        factor = self.later_factor if number else 1.0
        learned = parameters.get(STEP_SIZE + name)
        if learned is None:
            return factor * self.learning_rate
        ones = (1,) * (parameters[name].dim() - learned.dim())
        return factor * learned.reshape(*learned.shape, *ones)


def _expect_same_forms(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Checks what an inner update gives.

    Raises:
        UsageError: it has other parameters than it got, or other shapes or types.

    """
    if not isinstance(after, Mapping) or set(after) != set(before):
        raise UsageError(
            f"the inner update must return the parameters that it gets, {', '.join(before)}"
        )
    for name, value in before.items():
        new: object = after[name]
        form = value.shape, value.dtype
        if not isinstance(new, Tensor) or (new.shape, new.dtype) != form:
            forms = f"{form_of(new)}, not {form_of(value)}"
            raise UsageError(f"the inner update returns {name} as {forms}")


def initial_step_sizes(
    parameters: Mapping[str, Tensor], kind: StepSizes, learning_rate: float
) -> Parameters:
    """The meta-parameters that are step sizes of `parameters`, all of them `learning_rate`."""
    if kind == "fixed":
        return {}
    return {
        STEP_SIZE + name: torch.full(p.shape if kind == "per_parameter" else (), learning_rate)
        for name, p in parameters.items()
    }


def without_step_sizes(parameters: Mapping[str, Tensor]) -> Parameters:
    """The parameters for an inner loop whose step size is not learned."""
    return {name: p for name, p in parameters.items() if not name.startswith(STEP_SIZE)}


def step_size_metrics(parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """`inner/step_size`: mean, smallest and largest of the step sizes that are learned, if any."""
    sizes = [p.flatten() for name, p in parameters.items() if name.startswith(STEP_SIZE)]
    if not sizes:
        return {}
    learned = torch.cat(sizes)
    return {
        "inner/step_size": float(learned.mean()),
        "inner/step_size_min": float(learned.min()),
        "inner/step_size_max": float(learned.max()),
    }


def adapt(
    inner: InnerLoop,
    parameters: Mapping[str, Tensor],
    experience: Experience,
    number: int,
    workers: Workers,
    shard: Shard | None = None,
) -> Parameters:
    """Inner step `number` of all tasks, on the workers' threads.

    Args:
        shard: which of all tasks the experience is of; all of them if not given.

    Raises:
        NonFiniteError: a gradient or an adapted parameter is infinite or NaN.

    """
    shard = shard or Shard.whole(experience.tasks, experience.rows, experience.device)

    def of_slice(tasks: slice) -> tuple[Parameters, Experience]:
        return {name: p[tasks] for name, p in parameters.items()}, experience[tasks]

    parts = workers.map(lambda s: inner.step(*of_slice(s), number), shard.slices, shard=shard)
    adapted = {name: torch.cat([part[name] for part in parts]) for name in parameters}
    try:
        expect_finite(f"an adapted parameter after inner step {number + 1}", adapted, by_task=True)
    except NonFiniteError:  # where it comes from
        gradients = [inner.gradients(*of_slice(s))[1] for s in shard.slices]
        whole = {name: torch.cat([part[name] for part in gradients]) for name in gradients[0]}
        expect_finite(f"the gradient of inner step {number + 1}", whole, by_task=True)
        raise
    return adapted
