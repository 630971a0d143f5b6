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
        at which everything that moves fits the picture as it is now. Where that body only turns,
        as an arm does, it looks at its base, and the arm fits in every pose.

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
    first = min(1, model.nbody - 1)
    moves = model.body_weldid[model.geom_bodyid] != 0
    if _travels(model, first):
        camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, first
        centre = data.subtree_com[first]  # what a tracking camera looks at
        ends = np.linalg.norm(data.geom_xpos - centre, axis=1)
    else:  # an arm: it turns around its base, stretched or folded
        camera.lookat[:] = data.xpos[first]
        arm = model.body_rootid[model.geom_bodyid] == first
        ends = np.linalg.norm(data.geom_xpos - data.xpos[first], axis=1)
        ends[arm] = _stretched(model, first)[arm]
    radius = (ends + model.geom_rbound).max(where=moves, initial=0.0) or model.stat.extent / 2
    camera.distance = MARGIN * radius / math.sin(math.radians(model.vis.global_.fovy) / 2)
    camera.elevation = ELEVATION
    return camera


def _travels(model: mujoco.MjModel, body: int) -> bool:
    """Whether a joint moves the body, and not only turns it."""
    joints = model.jnt_type[model.jnt_bodyid == body]
    return bool(np.isin(joints, (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE)).any())


def _stretched(model: mujoco.MjModel, first: int) -> np.ndarray:
    """Distance of each geom from the first body, all links in a straight line: [geoms]."""
    links = np.linalg.norm(model.body_pos, axis=1)
    reach = np.zeros(model.nbody)
    for body in range(first + 1, model.nbody):  # parents come before their children
        reach[body] = reach[model.body_parentid[body]] + links[body]
    distance: np.ndarray = reach[model.geom_bodyid] + np.linalg.norm(model.geom_pos, axis=1)
    return distance
