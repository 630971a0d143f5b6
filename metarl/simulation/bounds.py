"""What is wrong with an observation that is not in its space."""

import gymnasium
import numpy as np

from metarl.policies.observations import parts
from metarl.support.types import Space


class FamilyFaultError(Exception):
    """A check failed; the message says what is wrong."""


def outside(space: Space, value: object, name: str = "observation") -> str:
    """The number of an observation that exceeds a bound of its space, or a type that is converted.

    Raises:
        FamilyFaultError: it is of another form than the space, or of a type that does not fit.

    """
    for key, part in parts(space).items():
        try:
            inside = value[key if isinstance(space, gymnasium.spaces.Dict) else int(key)]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            raise FamilyFaultError(f"{name} has no part {key}, but the space is {space}") from None
        if inside not in part:
            return outside(part, inside, f"{name}[{key!r}]")
    held = np.asarray(value)
    if isinstance(space, gymnasium.spaces.Box) and held.shape == space.shape:
        if not np.can_cast(held.dtype, space.dtype):
            # Training converts what loses nothing but precision.
            fits = held.dtype.kind in "biuf" and (
                np.can_cast(held.dtype, space.dtype, "same_kind")
                or (held == held.astype(space.dtype)).all()
            )
            text = f"{name} has type {held.dtype}, but the space is {space}"
            if not fits:
                raise FamilyFaultError(text)
            return text
        wrong = np.argwhere(~((held >= space.low) & (held <= space.high)))
        if len(wrong):
            place = tuple(wrong[0].tolist())
            bounds = f"[{space.low[place]:g}, {space.high[place]:g}]"
            index = ", ".join(map(str, place))
            return f"{name}[{index}] = {held[place]:g} is outside its bounds {bounds}"
    raise FamilyFaultError(
        f"{name} {' '.join(repr(value).split())[:60]} of shape {held.shape} and type {held.dtype} "
        f"is not in {space}"
    )
