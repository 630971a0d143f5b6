"""Pictures of a MuJoCo simulation, from a camera of its model or from one that sees all of it."""

import math

import numpy as np

from metarl.simulation.engine import mujoco
from metarl.support.errors import UsageError, nearest

SIZE = (240, 320)
"""Height and width in pixels."""
ELEVATION = -20.0  # degrees
MARGIN = 1.1
"""Distance of the camera, relative to the one from which the body just fits the picture."""


class Picture:
    """Draws one simulation."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, camera: str | None):
        """`camera` is the name of a camera of the model.

        Without a name, the camera follows the first body from a distance that stays the same and
        at which everything that moves fits the picture as it is now.

        Raises:
            UsageError: MuJoCo cannot draw on this machine.

        """
        try:
            self._renderer = mujoco.Renderer(model, *SIZE)
        except Exception as error:  # the graphics libraries raise errors of many types
            raise UsageError(
                f"MuJoCo cannot draw here ({error}): without a display it needs EGL or OSMesa, "
                "and MUJOCO_GL set to egl or osmesa (Debian: apt-get install libegl1 libopengl0)"
            ) from error
        self._camera = camera if camera is not None else _following(model, data)

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        """The scene: [height, width, 3], uint8."""
        self._renderer.update_scene(data, self._camera)
        picture: np.ndarray = self._renderer.render()
        return picture

    def close(self) -> None:
        """Frees the renderer."""
        self._renderer.close()


def check_camera(model: mujoco.MjModel, camera: str | None, name: str) -> None:
    """Checks that the model has a camera of that name; `name` is that of the family.

    Raises:
        UsageError: it has not; the message lists its cameras.

    """
    known = [own for i in range(model.ncam) if (own := model.camera(i).name)]
    if camera is not None and camera not in known:
        listed = ", ".join(known) or "none"
        raise UsageError(
            f"the model of {name} has no camera {camera}; it has {listed}{nearest(camera, known)}"
        )


def _following(model: mujoco.MjModel, data: mujoco.MjData) -> mujoco.MjvCamera:
    """A camera at the side that follows the first body, and sees all that is not fixed."""
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, min(1, model.nbody - 1)
    moves = model.body_weldid[model.geom_bodyid] != 0
    centre = data.subtree_com[camera.trackbodyid]  # what a tracking camera looks at
    ends = np.linalg.norm(data.geom_xpos - centre, axis=1) + model.geom_rbound
    radius = ends.max(where=moves, initial=0.0) or model.stat.extent / 2
    camera.distance = MARGIN * radius / math.sin(math.radians(model.vis.global_.fovy) / 2)
    camera.elevation = ELEVATION
    return camera
