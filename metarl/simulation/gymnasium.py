"""From a family to its vector environments: the choice of a backend."""

import dataclasses
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from metarl.simulation.processes import ProcessVectorEnv
from metarl.simulation.serial import SerialVectorEnv
from metarl.support.errors import UsageError
from metarl.tasks.family import TaskFamily


@dataclasses.dataclass(frozen=True)
class Processes:
    """Worker processes for environments that are stepped one by one."""

    number: int = 0
    """0 steps them in this process."""
    timeout: float = 60.0
    """Seconds that one step of a worker may take."""


NONE = Processes()


def make_simulations(
    family: TaskFamily, tasks: int, episodes: int, threads: int, processes: Processes = NONE
) -> list[gymnasium.vector.VectorEnv]:
    """Environments for `episodes` episodes of each task: two halves if threads can step them.

    While one half waits for its actions, the other's physics run. They are two for any number of
    threads, so that the number changes no result. Each may use all threads: neither then waits for
    a core that the system has slowed.
    """
    sizes = [tasks - tasks // 2, tasks // 2] if tasks > 1 and _is_declared(family) else [tasks]
    return [make_simulation(family, size * episodes, threads, processes) for size in sizes]


def make_simulation(
    family: TaskFamily, num_envs: int, threads: int = 0, processes: Processes = NONE
) -> gymnasium.vector.VectorEnv:
    """A vector environment of the family, whose ended episodes are not stepped.

    Families with a vector environment of their own, as the declared ones, come from
    `gymnasium.make_vec` and step all environments at once; any other family runs in this process,
    or in worker processes. `threads` are a declared family's simulator's; 0 takes every core.

    Raises:
        UsageError: the vector environment has no task, or resets ended episodes itself.

    """
    if family.spec.vector_entry_point is None:
        if processes.number == 0:
            return SerialVectorEnv(family.make, num_envs)
        make = dataclasses.replace(family).make  # without what this process has cached
        return ProcessVectorEnv(make, num_envs, processes.number, processes.timeout)
    own: dict[str, Any] = {"threads": threads} if _is_declared(family) else {}
    env = gymnasium.make_vec(
        family.spec, num_envs, max_episode_steps=family.horizon, **own, **family.options
    )
    disabled = env.metadata.get("autoreset_mode") is AutoresetMode.DISABLED
    if not (disabled and hasattr(env, "task_space")):
        raise UsageError(
            f"{family.id}: its vector environment {type(env).__name__} needs task_space, task, and "
            "autoreset_mode DISABLED in its metadata; register the family without it otherwise"
        )
    return env


def backend_name(family: TaskFamily) -> str:
    """What steps the family's environments: MuJoCo's batch, arrays, its own vector, or a loop."""
    vector = family.spec.vector_entry_point
    if vector is None:
        return "loop"
    names = {"mujoco": "batch", "dynamics": "arrays"}
    return names[str(vector).split(":")[0].split(".")[-1]] if _is_declared(family) else "own"


def _is_declared(family: TaskFamily) -> bool:
    vector = family.spec.vector_entry_point
    return isinstance(vector, str) and vector.startswith("metarl.")
