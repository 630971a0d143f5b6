"""Types that many rooms use, each for values whose parts have no common type."""

from typing import Any, TypeAlias

import gymnasium

Space: TypeAlias = gymnasium.spaces.Space[Any]
"""A space of any kind of elements."""

Env: TypeAlias = gymnasium.Env[Any, Any]
"""An environment with any observations and actions."""

Json: TypeAlias = dict[str, Any]
"""What a JSON object holds."""

State: TypeAlias = dict[str, Any]
"""What a checkpoint holds: nested dicts and lists of tensors and plain types."""
