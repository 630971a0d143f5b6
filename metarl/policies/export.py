"""Export of a policy: weights, a description, and a program that runs without metarl."""

import hashlib
import importlib.util
import inspect
import io
import logging
import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from metarl.support.errors import UsageError
from metarl.support.files import expect_writable, replace_durably
from metarl.support.forms import form_of
from metarl.support.text import json_text
from metarl.support.types import Json

WEIGHTS, DESCRIPTION, PROGRAM = "policy.safetensors", "policy.json", "policy.pt2"
ONNX = "policy.onnx"


class DeployedPolicy(nn.Module):
    """An adapted policy that takes its most likely action, as a torch module."""

    results: ClassVar[tuple[str, ...]] = ("action",)
    """Names of what `forward` returns, in policy.onnx."""

    def __call__(self, observation: Any, *inputs: Any) -> Any:
        """`forward` of tensors; anything else is an observation of one environment, for `act`.

        Tensors may have any leading dimensions, which are those of the results: [..., observation].

        Raises:
            UsageError: the shape or the type is another one, or a reward is missing.

        """
        if torch.compiler.is_compiling():  # torch.export asks for the program of `forward`
            return super().__call__(observation, *inputs)
        if not isinstance(observation, Tensor):
            if not inputs and self.needs_reward:
                raise UsageError(
                    "this policy has a memory: policy(observation, reward), with the reward of the "
                    "step before, and policy.begin() where an episode begins"
                )
            return self.act(observation, *(inputs or (0.0,)))
        rows, leading = self._rows((observation, *inputs))
        results = super().__call__(*rows)
        if isinstance(results, Tensor):
            return results.reshape(*leading, *results.shape[1:])
        return tuple(result.reshape(*leading, *result.shape[1:]) for result in results)

    def _rows(self, tensors: tuple[Any, ...]) -> tuple[list[Tensor], tuple[int, ...]]:
        """The arguments of `forward`, [rows, ...] each, and their leading dimensions."""
        names, examples = [*inspect.signature(self.forward).parameters], self.example(1)
        if len(tensors) != len(examples):
            raise UsageError(
                f"the policy takes {len(examples)} tensors, not {len(tensors)}: {', '.join(names)}"
            )
        leading = tuple(tensors[0].shape[: max(0, tensors[0].dim() - examples[0].dim() + 1)])
        rows = []
        for name, tensor, example in zip(names, tensors, examples, strict=True):
            shape = tuple(example.shape[1:])
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != leading + shape:
                form = ", ".join(map(str, ("...", *shape)))
                raise UsageError(f"{name} must be a tensor [{form}], not {form_of(tensor)}")
            fits = example.is_floating_point() or not tensor.is_floating_point()
            if tensor.is_complex() or not fits:
                raise UsageError(f"{name} must be of {example.dtype}, not {tensor.dtype}")
            rows.append(tensor.to(example.dtype).reshape(math.prod(leading), *shape))
        return rows, leading

    @property
    def needs_reward(self) -> bool:
        """Whether the next action depends on the reward of the step before."""
        return False

    def begin(self) -> None:
        """Begins an episode; only a policy with a memory need be told."""

    @abstractmethod
    def act(self, observation: Any, reward: float) -> int | np.ndarray:
        """The action for an observation of one environment and the reward of the previous step."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The tensors of policy.safetensors."""

    @abstractmethod
    def description(self) -> dict[str, object]:
        """The entries of policy.json on the weights, the observations and the actions."""

    @abstractmethod
    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Arguments of `forward` for `rows` environments, each with a leading [rows] dimension."""


def export_policy(
    policy: DeployedPolicy,
    folder: Path,
    about: Mapping[str, object],
    stem: str = "policy",
    onnx: bool = False,
) -> list[Path]:
    """Writes the weights, the description and programs into the folder.

    - `policy.safetensors`: the weights, under the names of the description.
    - `policy.json`: the description (layers, bounds and σ of the actions), `about`, and `sha256` of
      the other files.
    - `policy.pt2`: `torch.export.load(path).module()` is `policy.forward`; with a multilayer
      perceptron it maps observations [n, observation], float32, to actions.
    - `policy.onnx`: the same as a model of ONNX, if it is asked for.

    Args:
        policy: what is exported.
        folder: of the files; it is made if there is none.
        about: further entries of the description.
        stem: of the files' names, in place of `policy`.
        onnx: whether to write policy.onnx too.

    Returns:
        The files.

    Raises:
        UsageError: a file cannot be written, torch cannot export the policy, or the packages of the
            extra onnx are not installed.

    """
    if onnx:
        expect_onnx()
    with expect_writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    weights, text, program, model = (
        (folder / name).with_stem(stem) for name in (WEIGHTS, DESCRIPTION, PROGRAM, ONNX)
    )
    own = {
        n: p.detach().clone(memory_format=torch.contiguous_format)
        for n, p in policy.weights().items()
    }
    contents = {weights: save(own)}
    description: Json = {**policy.description(), **about}
    failure = None
    programs = {program: _program, model: _model} if onnx else {program: _program}
    for path, content_of in programs.items():
        try:
            contents[path] = content_of(policy)
        except Exception as error:
            reason = next(line for line in str(error).splitlines() if line.strip())
            failure = UsageError(
                f"{weights} and {text} are written, but torch.export cannot write {path}: "
                f"{type(error).__name__}: {reason.strip()} (a network must work for any number of "
                "rows: x.shape[0] instead of len(x))"
            )
            failure.__cause__ = error
    description["sha256"] = {
        path.name: hashlib.sha256(content).hexdigest() for path, content in contents.items()
    }
    files = [*contents]
    # The description comes last: a policy that it describes is whole.
    contents[text] = (json_text(description, 2) + "\n").encode()
    for path, content in contents.items():
        replace_durably(path, content)
    for path in {program, model} - set(contents):  # of another policy that was here
        path.unlink(missing_ok=True)
    if failure is not None:
        raise failure
    return [files[0], text, *files[1:]]


def expect_onnx() -> None:
    """Checks that a policy can be exported to ONNX.

    Raises:
        UsageError: the packages of the extra onnx are not installed.

    """
    if importlib.util.find_spec("onnxscript") is None:
        raise UsageError("--onnx needs the extra onnx: pip install 'metarl-suite[onnx]'")


def _program(policy: DeployedPolicy) -> bytes:
    """The content of policy.pt2."""
    buffer = io.BytesIO()
    torch.export.save(_exported(policy), buffer)
    return buffer.getvalue()


def _model(policy: DeployedPolicy) -> bytes:
    """The content of policy.onnx, whose inputs have the names of the arguments of `forward`."""
    # Torch warns of its own use of itself, and of packages that no policy needs.
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.onnx.export(
            _exported(policy), output_names=policy.results, dynamo=True, verbose=False
        )
    assert model is not None
    content: bytes = model.model_proto.SerializeToString()
    return content


def _exported(policy: DeployedPolicy) -> torch.export.ExportedProgram:
    """The program of `policy.forward` for any number of rows."""
    example = policy.example(2)  # a size of 1 would be taken for a constant
    rows = torch.export.Dim("n")
    shapes = tuple({0: rows} for _ in example)
    return torch.export.export(policy, example, dynamic_shapes=shapes)
