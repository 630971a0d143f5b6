"""What a value is, for messages."""

import reprlib

import numpy as np
from torch import Tensor


def form_of(value: object) -> str:
    """The shape and the type of a value, or what else it is, for messages."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} {list(value.shape)} of {value.dtype}"
    return f"{reprlib.repr(value)}"
