"""MuJoCo, which cannot be imported where it is to draw and cannot."""

import os

from metarl.support.errors import UsageError

try:
    import mujoco as mujoco
except ImportError:
    raise
except Exception as error:  # of any type that the graphics libraries raise
    raise UsageError(
        f"MuJoCo cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({error}): "
        "unset it, or install what it needs (for egl on Debian: libegl1 libopengl0)"
    ) from error
