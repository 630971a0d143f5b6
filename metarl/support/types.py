"""Types that several folders use and that a library or a file format leaves open."""

from typing import Any, TypeAlias

import gymnasium

Space: TypeAlias = gymnasium.spaces.Space[Any]
"""A space of observations or actions."""
Env: TypeAlias = gymnasium.Env[Any, Any]
"""An environment."""
Json: TypeAlias = dict[str, Any]
"""An object of a JSON file."""
State: TypeAlias = dict[str, Any]
"""What a checkpoint holds: nested dicts and lists of tensors and plain types."""
