"""A policy or a module adapted to one task, and what can be done with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from metarl.policies.deployed import DeployedModule
from metarl.policies.export import DeployedPolicy, export_policy
from metarl.policies.parameters import Parameters
from metarl.sampling.actor import Actor, Adaptive
from metarl.support.errors import UsageError
from metarl.support.forms import form_of
from metarl.tasks.task import Task, task_name


@dataclass(frozen=True, repr=False)
class Adapted:
    """A policy adapted to one task."""

    policy: DeployedPolicy
    """`policy(observation)` is the most likely action, for an observation as the environment
    returns it; for a tensor [..., observation] of flat observations it is that of each row. A
    recurrent policy also takes the reward of the previous step, `policy(observation, reward)`, and
    is told where an episode begins, `policy.begin()`."""
    parameters: Parameters
    """What was adapted, without a task dimension."""
    episode_returns: np.ndarray  # [steps + 1, episodes]
    env_steps: int
    """Environment steps that the adaptation learned from."""
    family: str
    """Id of the task family."""
    task: Task

    @property
    def returns(self) -> list[float]:
        """Mean return after 0..K inner steps."""
        means: list[float] = self.episode_returns.mean(1).tolist()
        return means

    def export(
        self,
        folder: str | Path,
        about: Mapping[str, object] | None = None,
        onnx: bool = False,
    ) -> list[Path]:
        """Writes the policy in forms that run without metarl; see `export_policy`.

        Args:
            folder: of the files.
            about: further entries of policy.json.
            onnx: whether to write policy.onnx too, which needs the extra onnx.

        Returns:
            The files.

        """
        own = {
            "family": self.family,
            "task": {name: np.asarray(value).tolist() for name, value in self.task.items()},
            "inner_steps": len(self.episode_returns) - 1,
            "returns": self.returns,
        }
        return export_policy(self.policy, Path(folder), own | dict(about or {}), onnx=onnx)

    def __repr__(self) -> str:
        returns = ", ".join(f"{value:.4g}" for value in self.returns)
        return f"Adapted({task_name(self.task)}; return after 0, 1, ... inner steps: {returns})"


@dataclass(frozen=True, repr=False)
class AdaptedModule:
    """A module adapted to one supervised task."""

    module: DeployedModule
    """`module.outputs(inputs)` maps inputs [..., *shape], tensors or arrays, to outputs."""
    losses: list[float]
    """On the support set after 0..K inner steps."""
    problem: str
    """Name of the problem."""

    def __call__(self, inputs: npt.ArrayLike) -> Tensor:
        """Inputs [..., *shape] -> outputs [..., *their shape], without gradients."""
        return self.module.outputs(inputs)

    def export(
        self,
        folder: str | Path,
        about: Mapping[str, object] | None = None,
        onnx: bool = False,
    ) -> list[Path]:
        """Writes model.pt2, model.safetensors and model.json, which need no metarl.

        Args:
            folder: of the files.
            about: further entries of model.json.
            onnx: whether to write model.onnx too, which needs the extra onnx.

        Returns:
            The files.

        """
        own = {"problem": self.problem, "inner_steps": len(self.losses) - 1, "losses": self.losses}
        return export_policy(self.module, Path(folder), own | dict(about or {}), "model", onnx)

    def __repr__(self) -> str:
        losses = ", ".join(f"{value:.4g}" for value in self.losses)
        return f"AdaptedModule({self.problem}; loss after 0, 1, ... inner steps: {losses})"


def actor_of(adaptive: Adaptive, learner: str) -> Actor:
    """What acts for the tasks that adapt.

    Raises:
        UsageError: nothing does, as `begin` or `learn` of the learner's class returned another
            object.

    """
    if not all(hasattr(adaptive, name) for name in ("actor", "learn")):
        raise UsageError(
            f"{learner}.begin and learn must return what has actor() and learn(rollout), not "
            f"{form_of(adaptive)}"
        )
    return adaptive.actor()


def expect_deployed(result: object, learner: str) -> tuple[DeployedPolicy, Parameters]:
    """What `deploy` of a learner's class returned.

    Raises:
        UsageError: it is not a policy and its parameters.

    """
    match result:
        case (DeployedPolicy() as policy, Mapping() as parameters):
            return policy, cast(Parameters, parameters)
    raise UsageError(
        f"{learner}.deploy must return (DeployedPolicy, parameters), not {form_of(result)}"
    )
