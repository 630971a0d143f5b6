"""Networks that are torch modules: those that come along, and what any module has to fulfil.

A module class takes the observation space and the number of outputs, and maps observations in the
form of the space, batched [rows, ...], to outputs [rows, outputs]:

    class Net(nn.Module):
        head = ("out.weight", "out.bias")  # what ANIL adapts

        def __init__(self, observation_space, outputs): ...
        def forward(self, observations): ...

It may take `hidden_sizes`, `activation` and `context_size` by name, which are then those of the
run, and options of its own. `context` names the parameters that CAVIA adapts, from their initial
values. Images of bytes arrive divided by 255, Discrete and MultiDiscrete one-hot, Dict and Tuple as
dicts and tuples. `observations.shape[0]` is the number of rows, also where the policy is exported,
which `len(observations)` is not.
"""

import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.policies.mlp import Activation
from metarl.policies.observations import Structured, has_image, is_image, parts
from metarl.support.errors import UsageError
from metarl.support.parts import Parts
from metarl.support.types import Space

LAYERS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
CHANNELS = (16, 32)
FEATURES = 64
"""Numbers that each part of an observation becomes."""


class Convolutions(nn.Sequential):
    """Features of images of floats [rows, height, width] or with channels at either end."""

    def __init__(self, shape: tuple[int, ...]):
        layers: list[nn.Module] = [ChannelsFirst(shape)]
        example = layers[0](torch.zeros(1, *shape))
        for channels in CHANNELS:
            layers += [nn.Conv2d(example.shape[1], channels, 3, stride=2, padding=1), nn.ReLU()]
            example = layers[-2](example)
        layers += [nn.Flatten(), nn.Linear(example.numel(), FEATURES), nn.Tanh()]
        super().__init__(*layers)


class ChannelsFirst(nn.Module):
    """Images as convolutions read them: [rows, channels, height, width]."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.gray = len(shape) == 2
        self.last = not self.gray and shape[-1] <= shape[0]

    def forward(self, images: Tensor) -> Tensor:
        """Images [rows, ...] of the shape."""
        if self.gray:
            return images.unsqueeze(1)
        return images.movedim(-1, 1) if self.last else images


class Encoder(nn.Module):
    """Features of each part of an observation, then a multilayer perceptron over all of them.

    Parts that are images pass through two convolutions, others through one layer.
    """

    head: ClassVar[tuple[str, ...]] = ("out.weight", "out.bias")
    context: tuple[str, ...] = ()

    def __init__(
        self,
        observation_space: Space,
        outputs: int,
        hidden_sizes: tuple[int, ...] = (64,),
        activation: Activation = "tanh",
        context_size: int = 0,
    ):
        super().__init__()
        self.leaves = nn.ModuleList(map(_leaf, _leaves(observation_space)))
        if context_size:
            self.context_vector = nn.Parameter(torch.zeros(context_size))
            self.context = ("context_vector",)
        sizes = (FEATURES * len(self.leaves) + context_size, *hidden_sizes)
        layers = [(nn.Linear(*pair), LAYERS[activation]()) for pair in pairwise(sizes)]
        self.hidden = nn.Sequential(*(layer for both in layers for layer in both))
        self.out = nn.Linear(sizes[-1], outputs)

    def forward(self, observations: Structured) -> Tensor:
        """Observations in the form of the space -> [rows, outputs]."""
        each = zip(self.leaves, _tensors(observations), strict=True)
        features = [leaf(tensor) for leaf, tensor in each]
        if self.context:
            features.append(self.context_vector.expand(features[0].shape[0], -1))
        output: Tensor = self.out(self.hidden(torch.cat(features, -1)))
        return output


class CNN(Encoder):
    """Convolutions over an image, then a multilayer perceptron."""

    def __init__(self, observation_space: Space, outputs: int, **options: Any):
        if not is_image(observation_space):
            raise UsageError(
                f"--policy cnn reads images, a Box of bytes with 2 or 3 dimensions, not "
                f"{observation_space}: --policy encoder reads any space"
            )
        super().__init__(observation_space, outputs, **options)


MODULES = Parts[type[nn.Module]](
    "--policy",
    "metarl.policies",
    {"cnn": CNN, "encoder": Encoder},
    lambda part: isinstance(part, type) and issubclass(part, nn.Module),
    "a class of torch.nn.Module",
    "MODULE:CLASS",
    also=("auto", "mlp"),
)


def choose_policy(name: str, space: Space) -> str:
    """What `auto` stands for: convolutions for images, alone or in a Dict or Tuple, else mlp."""
    if name != "auto":
        return name
    if is_image(space):
        return "cnn"
    return "encoder" if has_image(space) else "mlp"


def arguments(module_class: type[nn.Module], **offered: object) -> dict[str, object]:
    """Those of the offered arguments that the class takes by name."""
    taken = {
        name
        for base in module_class.__mro__
        if issubclass(base, nn.Module) and base is not nn.Module and "__init__" in vars(base)
        for name in inspect.signature(base.__init__).parameters
    }
    return {name: value for name, value in offered.items() if name in taken}


def expect_stateless(module: nn.Module, name: str) -> None:
    """Checks that the action of a row depends on that row and on nothing else.

    Raises:
        UsageError: names the part that is at fault, the reason and the remedy.

    """
    for is_unfit, reason in UNFIT:
        for path, part in module.named_modules():
            if is_unfit(part):
                where = f"{type(part).__name__} at {path or 'the top'}"
                raise UsageError(f"--policy {name} has {where}: {reason}")


def drops_out(part: nn.Module) -> bool:
    """Whether a part of a module sets numbers to 0 by chance, as some attention does too."""
    is_layer = isinstance(part, nn.modules.dropout._DropoutNd)
    chance = part.p if is_layer else getattr(part, "dropout", 0)
    return isinstance(chance, int | float) and chance > 0


UNFIT: tuple[tuple[Callable[[nn.Module], bool], str], ...] = (
    (
        lambda part: isinstance(part, nn.modules.batchnorm._NormBase),
        "the actions of a batch would depend on one another, and its statistics mix the tasks; "
        "use LayerNorm or GroupNorm",
    ),
    (
        drops_out,
        "the probability of an action would differ between sampling and learning; leave it out",
    ),
    (
        lambda part: isinstance(part, nn.RNNBase | nn.RNNCellBase),
        "a policy without memory reads one observation; --learner rl2 has a recurrent policy",
    ),
)


def _leaf(space: Space) -> nn.Module:
    if is_image(space):
        return Convolutions(space.shape or ())
    return nn.Sequential(nn.Flatten(), nn.Linear(spaces.flatdim(space), FEATURES), nn.Tanh())


def _leaves(space: Space) -> Iterator[Space]:
    named = parts(space)
    if not named:
        yield space
    for part in named.values():
        yield from _leaves(part)


def _tensors(observations: Structured) -> Iterator[Tensor]:
    """The tensors of an observation, in the order of `_leaves`."""
    if isinstance(observations, Tensor):
        yield observations
        return
    inside = observations.values() if isinstance(observations, dict) else observations
    for part in inside:
        yield from _tensors(part)
