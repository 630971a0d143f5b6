"""Tries a network on a few observations: whether it does what a policy has to do."""

import contextlib
import copy
import dataclasses
import logging
import random
from collections.abc import Iterator

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.policies.module_network import ModuleNetwork
from metarl.policies.observations import is_image, parts
from metarl.policies.parameters import expand
from metarl.support.errors import UsageError
from metarl.support.places import place_of
from metarl.support.types import Space

ROWS = 8
ROUNDING = 1e-2
"""By which outputs may differ, as a share of the largest: also by rounding to 16 bits."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """In the block, nothing changes the state of torch's, NumPy's and Python's random numbers."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


@_undisturbed()
def tried(network: ModuleNetwork, outputs: int) -> ModuleNetwork:
    """The network, one task at a time if it cannot be batched over tasks.

    Raises:
        UsageError: it fails, or it does not give `outputs` numbers for each observation.

    """
    every = {**network.initial_parameters(np.random.default_rng(0)), **network.fresh}
    example = torch.zeros(2, 3, network.observation_size)
    alone = dataclasses.replace(network, one_by_one=True)
    try:
        output = alone.output(expand(every, 2), example)
    except Exception as error:
        raise UsageError(failed(network.name, "fails on observations of zeros", error)) from error
    if output.shape != (2, 3, outputs):
        raise UsageError(
            f"--policy {network.name} gives {output[0].numel() // 3} numbers for each observation, "
            f"not the {outputs} that it was asked for (outputs, the second argument of the class)"
        )
    try:
        network.output(expand(every, 2), example)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        logger.warning(
            "--policy %s is computed one task at a time, because torch.func cannot batch it: %s",
            network.name, reason,
        )  # fmt: skip
        return alone
    return network


@_undisturbed()
def expect_function_of_rows(
    network: ModuleNetwork, outputs: int, training: bool = False, differentiates: bool = True
) -> None:
    """Checks on a few rows that the outputs of a row are a function of that row and of parameters.

    A branch on values of the batch escapes if all these rows take the same one.

    Args:
        network: what makes the module that is tried.
        outputs: numbers for each row.
        training: whether the module is used as it is made, not in its mode for evaluation.
        differentiates: whether what learns needs a gradient by the parameters.

    Raises:
        UsageError: they are not; the message says what is wrong with them.

    """
    name, observations = network.name, network.observations
    module = network.fresh_module(0)
    module = module if training else module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    def of(rows: Tensor) -> Tensor:
        given: Tensor = module(observations.structured(observations.scaled(rows)))
        if given.shape != (len(rows), outputs):
            raise UsageError(
                f"--policy {name} gives {list(given.shape)} for {len(rows)} observations: it "
                f"must be [rows, outputs], which is {[len(rows), outputs]}"
            )
        return given

    rows = _examples(observations.space)
    try:
        of(rows)
    except UsageError:
        raise
    except Exception:  # no environment needs to give these
        rows = torch.zeros_like(rows)
    try:
        together, again = of(rows), of(rows)
        alone = torch.cat([of(row) for row in torch.split(rows, 1)])
    except UsageError:
        raise
    except Exception as error:
        what = f"fails on {ROWS} observations, or on a single one"
        raise UsageError(failed(name, what, error)) from error
    if not _agree(again, together):
        raise UsageError(
            f"--policy {name} gives other outputs when it is called again with the same "
            "observations: leave out what is random (nn.functional.dropout, torch.randn_like) "
            "or kept from call to call"
        )
    if not _agree(alone, together):
        raise UsageError(
            f"--policy {name} gives other outputs for an observation alone than beside "
            "others, but the action of a row must depend on that row alone: leave out means "
            "over the rows, x.mean(0), and branches on values of the batch"
        )
    if differentiates and not together.requires_grad:
        raise UsageError(
            f"--policy {name} cannot learn, because its outputs have no gradient by any "
            "parameter: leave out detach() and torch.no_grad()"
        )


def failed(name: str, what: str, error: Exception) -> str:
    """What a network does wrong, and the error that it raised."""
    text = " ".join(str(error).split())
    return f"--policy {name} {what}: {type(error).__name__}: {text} (raised at {place_of(error)})"


def _agree(outputs: Tensor, others: Tensor) -> bool:
    """Whether outputs are the same, to rounding."""
    scale = float(others.detach().nan_to_num().abs().max())
    return torch.allclose(outputs, others, rtol=0, atol=ROUNDING * scale, equal_nan=True)


def _examples(space: Space) -> Tensor:
    """Flat observations of a space, whose numbers are near 0 where there are no narrow bounds."""
    generator = np.random.default_rng(0)
    return torch.from_numpy(np.stack([_example(space, generator) for _ in range(ROWS)])).float()


def _example(space: Space, generator: np.random.Generator) -> np.ndarray:
    if named := parts(space):
        return np.concatenate([_example(part, generator) for part in named.values()])
    if isinstance(space, spaces.Box) and not is_image(space):
        middle = np.clip(0.0, space.low, space.high)
        near = middle + generator.standard_normal(space.shape)
        return np.ravel(np.clip(near, space.low, space.high).astype(space.dtype))
    own = copy.deepcopy(space)  # a sample changes the state of a space
    own.seed(int(generator.integers(2**31)))
    flat: np.ndarray = np.asarray(spaces.flatten(own, own.sample()))
    return flat
