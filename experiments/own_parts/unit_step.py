"""An inner update of one's own: steps of the same length for every task.

From this folder:

    metarl train --family envs:Navigation2D-v0 --inner-update unit_step:unit_step --iterations 5
"""

from torch import Tensor

from metarl.maml.inner_loop import StepSize
from metarl.policies.parameters import Parameters

SMALLEST_NORM = 1e-8


def unit_step(parameters: Parameters, gradients: Parameters, step_size: StepSize) -> Parameters:
    """θ' = θ + α g / ‖g‖, with the norm over all parameters of a task.

    Args:
        parameters: [tasks, ...] each.
        gradients: of the estimator, with the names and shapes of the parameters.
        step_size: the α of the parameter of a name.

    """
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
    norms = sum(squares[1:], squares[0]).clamp(min=SMALLEST_NORM**2).sqrt()  # [tasks]

    def of_task(values: Tensor) -> Tensor:
        return values / norms.reshape(-1, *(1,) * (values.dim() - 1))

    return {name: p + step_size(name) * of_task(gradients[name]) for name, p in parameters.items()}
