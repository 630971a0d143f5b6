"""A policy to take away: plain weights, a description, and a program that runs without metarl."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from metarl.policies.mlp import CONTEXT, CategoricalPolicy, GaussianPolicy
from metarl.support.files import replace_durably

WEIGHTS, DESCRIPTION, PROGRAM = "policy.safetensors", "policy.json", "policy.pt2"
LAYERS = {"tanh": nn.Tanh, "relu": nn.ReLU}


class PolicyModule(nn.Module):
    """The most likely action of an adapted policy, as a plain torch module.

    `network` is a `Sequential` of `Linear` layers and activations; a context (CAVIA) is part of the
    first bias.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        policy: GaussianPolicy | CategoricalPolicy,
        parameters: Mapping[str, Tensor],
        action_space: gymnasium.Space[Any],
    ):
        """`parameters`: of one task, without a task dimension."""
        super().__init__()
        layers: list[nn.Module] = []
        last = len(policy.hidden_sizes)
        for i in range(last + 1):
            weight, bias = parameters[f"layer_{i}.weight"], parameters[f"layer_{i}.bias"]
            if i == 0 and policy.context_size:
                rows = policy.observation_size
                weight, bias = weight[:rows], bias + parameters[CONTEXT] @ weight[rows:]
            layer = nn.Linear(*weight.shape)
            layer.load_state_dict({"weight": weight.T, "bias": bias})
            layers += [layer] if i == last else [layer, LAYERS[policy.activation]()]
        self.network = nn.Sequential(*layers)
        self.discrete = isinstance(policy, CategoricalPolicy)
        if isinstance(action_space, gymnasium.spaces.Box):
            self.register_buffer("low", torch.from_numpy(action_space.low), persistent=False)
            self.register_buffer("high", torch.from_numpy(action_space.high), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """Observations [n, observation] -> actions [n, action], or [n] where they are numbered."""
        outputs: Tensor = self.network(observations)
        return outputs.argmax(-1) if self.discrete else outputs.clamp(self.low, self.high)


def export_policy(
    module: PolicyModule,
    parameters: Mapping[str, Tensor],
    folder: Path,
    about: Mapping[str, Any],
) -> list[Path]:
    """Writes the weights, the description and the program into the folder.

    - `policy.safetensors`: of a `torch.nn.Sequential` of the layers that the description lists.
    - `policy.json`: layers, bounds of the actions, σ of the exploration, and `about`.
    - `policy.pt2`: `torch.export.load(path).module()` maps observations [n, observation], float32,
      to actions.

    Returns:
        The files.

    """
    folder.mkdir(parents=True, exist_ok=True)
    linear = [layer for layer in module.network if isinstance(layer, nn.Linear)]
    description: dict[str, Any] = {
        "layers": [_described(layer) for layer in module.network],
        "observation_size": linear[0].in_features,
        "action": "number" if module.discrete else "continuous",
    }
    if module.discrete:
        description["actions"] = linear[-1].out_features
    else:
        description |= {"low": module.low.tolist(), "high": module.high.tolist()}
        description["std"] = parameters["log_std"].exp().tolist()
    weights, text, program = (folder / name for name in (WEIGHTS, DESCRIPTION, PROGRAM))
    save_file({n: p.detach().contiguous() for n, p in module.network.state_dict().items()}, weights)
    replace_durably(text, (json.dumps({**description, **about}, indent=2) + "\n").encode())
    # Two rows, for a size of 1 would be taken for a constant.
    example = torch.zeros(2, linear[0].in_features)
    dynamic = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=dynamic), program)
    return [weights, text, program]


def _described(layer: nn.Module) -> list[Any]:
    """The layer's class in torch.nn and its arguments."""
    if isinstance(layer, nn.Linear):
        return ["Linear", layer.in_features, layer.out_features]
    return [type(layer).__name__]
