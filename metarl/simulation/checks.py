"""What `metarl check` checks of a family.

Each check is a function of the family that returns what it found, or raises `FamilyFaultError` with
what is wrong. `CHECKS` pairs each check with a hint for mending such a fault.
"""

import dataclasses
import functools
import itertools
import math
import pickle
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box

from metarl.policies.observations import Observations
from metarl.policies.policy import make_policy
from metarl.simulation.backends import backend_name, flat_from, make_simulation
from metarl.simulation.bounds import FamilyFaultError, outside
from metarl.simulation.episodes import (
    LONGEST,
    TASKS,
    actions_of,
    affordable,
    episode_of,
    equal,
    made,
    made_flat,
    set_task,
    tasks_of,
)
from metarl.simulation.processes import ProcessEnvironments
from metarl.simulation.results import observation_of
from metarl.support.errors import UnfitError, UsageError
from metarl.tasks.family import TaskFamily, task_environment
from metarl.tasks.leak import explained_variance
from metarl.tasks.parameterised import ParameterisedEnv
from metarl.tasks.running import running_statistics
from metarl.tasks.scales import action_warnings, observation_scale, observation_warnings
from metarl.tasks.task import count_tasks, select_tasks, task_hashes, task_name, validate_tasks

EPISODES = 30
"""The largest number of episodes of tasks that are compared."""
SAMPLED = 200
"""Number of tasks drawn from each split."""
LARGEST_LEAK = 0.3
"""Share of the variance of a parameter that first observations may explain on held-out tasks."""
MOST_LEAK_TASKS = 1500
SEARCH_SECONDS = 20.0
"""How long an effect of the task is searched for, in environments that take long to step."""
FEW = 5
"""Number of steps after which the check looks for entries that no step changed."""
LARGEST_LATE_LEAK = 0.9
"""Share of the variance that entries of the observation may explain if no step changes them."""


class Caution(str):
    """A finding that is not a fault but may explain why a policy learns nothing."""


def _runs(family: TaskFamily) -> str:
    env = made(family)
    validate_tasks(family.task_space, task_environment(env).task, None)
    steps = len(list(episode_of(family, env, task_environment(env).task, seed=0))) - 1
    return f"an episode of {steps} steps; the backend is {backend_name(family)}"


def _no_statistics(family: TaskFamily) -> str:
    if found := running_statistics(made(family)):
        raise FamilyFaultError("; ".join(found))
    return "no wrapper keeps statistics from episode to episode"


def _policy_fits(family: TaskFamily) -> str:
    """Checks what a learner needs from a family before it draws its first task."""
    observation, action = family.prototype.observation_space, family.prototype.action_space
    try:
        policy = make_policy(observation, action)
        family.describe()
    except UsageError as error:
        raise FamilyFaultError(str(error)) from error
    return f"{policy.network.observation_size} numbers in, {policy.actions.outputs} out"


def _attributes_follow(family: TaskFamily) -> str:
    env = made(family)
    holder = task_environment(env)
    if not isinstance(holder, ParameterisedEnv):
        return "the family is not a ParameterisedEnv"
    for i in range(FEW):
        set_task(env, select_tasks(tasks_of(family, FEW), i))
        if stale := holder.stale_attributes():
            raise FamilyFaultError(
                f"the environment computes {', '.join(stale)} from the task's attributes in its "
                "__init__, and does not update them when a task is set"
            )
    return "all derived attributes follow"


def _scales(family: TaskFamily) -> str:
    env, tasks = made_flat(family), tasks_of(family, TASKS)
    rows = [
        np.ravel(observation).astype(np.float64)
        for i in range(TASKS)
        for observation, *_ in episode_of(family, env, select_tasks(tasks, i), seed=i)
    ]
    form = Observations.of(family.prototype.observation_space)
    observations = form.scaled(torch.from_numpy(np.stack(rows))).numpy()
    found = observation_warnings(observations)
    found += action_warnings(env.action_space, family.action_scale)
    if found:
        return Caution("; ".join(found))
    return f"observations of about {observation_scale(observations):.2g} at most"


def _task_takes_effect(family: TaskFamily) -> str:
    """Varies one parameter at a time; repeats one action, to go far enough for sparse rewards."""
    tasks, env = tasks_of(family, TASKS), made_flat(family)
    base = select_tasks(tasks, 0)

    def differ(seed: int, name: str) -> bool:
        held = actions_of(family, seed, 1) * LONGEST
        episodes = (
            list(episode_of(family, env, base | {name: tasks[name][i]}, seed, held))[1:]
            for i in range(TASKS)
        )
        first = next(episodes)
        return any(
            len(first) != len(other) or not all(map(equal, first, other)) for other in episodes
        )

    varied = [name for name, values in tasks.items() if (values != values[0]).any()]
    end = time.monotonic() + SEARCH_SECONDS
    for name in varied:
        same = f"values of {name} gave the same episodes under the same seeds and actions"
        for seed in range(EPISODES):
            if differ(seed, name):
                break
            if time.monotonic() > end:
                return Caution(f"{TASKS} {same} with {seed + 1} of {EPISODES} seeds; time is up")
        else:
            raise FamilyFaultError(f"{TASKS} {same}")
    return f"{', '.join(varied)}"


def _task_survives_reset(family: TaskFamily) -> str:
    env = made(family)
    task = select_tasks(tasks_of(family, 1), 0)
    set_task(env, task)
    for episode in range(3):
        env.reset(seed=episode)
        now = task_environment(env).task
        for name, value in task.items():
            if not np.array_equal(now[name], value):
                raise FamilyFaultError(
                    f"after {episode + 1} resets {name} is {now[name]}, not {value}"
                )
    return "the same after 3 resets"


def _same_seed_same_episode(family: TaskFamily) -> str:
    task = select_tasks(tasks_of(family, 1), 0)
    env = made_flat(family)
    first, again = (list(episode_of(family, env, task, seed=3)) for _ in range(2))
    other = list(episode_of(family, made_flat(family), task, seed=3))
    for name, episode in (("a second reset", again), ("another environment", other)):
        for t, (one, two) in enumerate(zip(first, episode, strict=False)):
            if not equal(one, two):
                raise FamilyFaultError(
                    f"with the same seed and actions, {name} differs at step {t}"
                )
        if len(first) != len(episode):
            raise FamilyFaultError(f"with the same seed and actions, {name} ends at another step")
    return f"{len(first) - 1} steps, three times"


def _tasks_in_space(family: TaskFamily) -> str:
    for split in family.splits:
        drawn = tasks_of(family, affordable(family, SAMPLED), split)
        for i in range(count_tasks(drawn)):
            task = select_tasks(drawn, i)
            if not family.task_space.contains(task):
                raise FamilyFaultError(
                    f"split {split} drew {task}, which is not in {family.task_space}"
                )
    return f"{count_tasks(drawn)} of each of {', '.join(family.splits)}"


def _same_seed_same_tasks(family: TaskFamily) -> str:
    """What is drawn apart from the given generator differs from one call to the next."""
    number = affordable(family, SAMPLED)
    for split in family.splits:
        first, again = (tasks_of(family, number, split) for _ in range(2))
        for i, (one, two) in enumerate(zip(task_hashes(first), task_hashes(again), strict=True)):
            if one != two:
                drawn = " and then ".join(task_name(select_tasks(x, i)) for x in (first, again))
                raise FamilyFaultError(
                    f"with the same seed, task {i} of split {split} is {drawn}: two trainings "
                    "with one seed would differ"
                )
    return f"{number} of each of {', '.join(family.splits)}, twice"


def _splits_are_disjoint(family: TaskFamily) -> str:
    number = affordable(family, SAMPLED)
    drawn = {split: set(task_hashes(tasks_of(family, number, split))) for split in family.splits}
    if len(set().union(*drawn.values())) <= 2:
        return "no more than two tasks, all of which are in every split"
    names = list(drawn)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if common := drawn[one] & drawn[other]:
                raise FamilyFaultError(
                    f"{one} and {other} have {len(common)} of {len(drawn[one])} tasks in common"
                )
    return f"{', '.join(names)} have no task in common"


def _no_leak(family: TaskFamily) -> str:
    """Neither first observations nor entries that never change may reveal the task.

    Later observations reveal the task through its dynamics, and adaptation relies on that. But an
    entry that no step changes, under actions and first states that differ from task to task, does
    not result from acting: if it explains a parameter almost exactly, it is a copy of it.
    """
    size = 2 * Observations.of(family.prototype.observation_space).size
    wanted = min(MOST_LEAK_TASKS, max(SAMPLED, 4 * size))
    number = affordable(family, wanted)
    if number < SAMPLED:
        return Caution("a task has too many numbers to look for them in observations")
    tasks = tasks_of(family, number)
    visible = family.visible
    env = made_flat(family)
    first, later, long = [], [], []
    for i in range(number):
        episode = episode_of(family, env, select_tasks(tasks, i), i, actions_of(family, i, FEW))
        steps = itertools.islice(episode, 1 + FEW if i < SAMPLED else 1)
        observations = [np.ravel(observation).astype(np.float64) for observation, *_ in steps]
        first.append(observations[0])
        if len(observations) > FEW:
            later.append(np.stack(observations[1:]))
            long.append(i)
    worst, where = explained_variance(np.stack(first), tasks, visible)
    if worst > LARGEST_LEAK:
        raise FamilyFaultError(f"first observations explain {worst:.0%} of the variance of {where}")
    if len(long) >= SAMPLED // 2:  # where most episodes are long enough
        x = np.stack(later)  # [tasks, FEW, entries]
        still = (x == x[:, :1]).all(axis=(0, 1)) & (x[0] != x).any(axis=(0, 1))
        late, where = explained_variance(x[:, 0, still], select_tasks(tasks, long), visible)
        if late > LARGEST_LATE_LEAK:
            raise FamilyFaultError(
                f"entries {np.flatnonzero(still).tolist()} of the observation, which no step after "
                f"the first one changes, explain {late:.0%} of the variance of {where}"
            )
    return f"first observations of {number} tasks explain {worst:.0%}"


def _spaces_hold(family: TaskFamily) -> str:
    """Exceeding a bound is a caution: many environments have bounds that they do not keep."""
    env, loose = made(family), ""
    form = Observations.of(env.observation_space)
    spaces = str(env.observation_space), str(env.action_space)
    tasks = tasks_of(family, TASKS)
    for i in range(TASKS):
        for t, (observation, *_) in enumerate(episode_of(family, env, select_tasks(tasks, i), i)):
            if isinstance(form.space, Box) and not isinstance(observation, np.ndarray):
                try:  # as training does with a list
                    observation = observation_of(form.space, observation)
                except UnfitError as error:
                    raise FamilyFaultError(f"at step {t} the environment {error}") from error
            if observation not in form.space:
                loose = loose or f"{outside(form.space, observation)} at step {t}"
            flat = form.flat(observation)
            if not np.isfinite(flat).all():
                wrong = flat[~np.isfinite(flat)][0]
                raise FamilyFaultError(f"the observation at step {t} has {wrong}")
        if (str(env.observation_space), str(env.action_space)) != spaces:
            raise FamilyFaultError("the spaces of the environment change with the task")
    return Caution(loose) if loose else f"observations of {TASKS} tasks are in the space"


def _vector_agrees(family: TaskFamily) -> str:
    number, seeds = 3, [5, 6, 7]
    tasks = tasks_of(family, number)
    longest = min(family.horizon, LONGEST)
    actions = np.array([actions_of(family, seed, longest) for seed in seeds])
    simulation = make_simulation(family, number)
    observations = simulation.begin(tasks, np.array(seeds)).numpy()
    episodes = [
        episode_of(family, made_flat(family), select_tasks(tasks, i), seeds[i])
        for i in range(number)
    ]
    ended = np.zeros(number, bool)
    rewards, terminated, truncated = np.zeros(number), ended, ended
    steps = 0
    while True:
        for i in np.flatnonzero(~ended):
            single = next(episodes[i])
            same = (observations[i], rewards[i], terminated[i], truncated[i])
            if not equal(single, same):
                raise FamilyFaultError(f"environment {i} of the batch differs at step {steps}")
        ended = terminated | truncated
        if ended.all() or steps == longest:
            break
        step = simulation.step(torch.from_numpy(actions[:, steps]))
        observations, rewards, terminated, truncated = (part.numpy() for part in step[:4])
        steps += 1
    simulation.close()
    return f"{number} environments over {steps} steps"


def _pickles(family: TaskFamily) -> str:
    fresh = dataclasses.replace(family)  # without what it has cached
    pickle.dumps(fresh)
    tasks = tasks_of(family, 1)
    there = ProcessEnvironments(functools.partial(flat_from, fresh), 1, 1, name=family.id)
    try:
        observation = there.begin(tasks, [0])[0]
        here, *_ = next(episode_of(family, made_flat(family), select_tasks(tasks, 0), 0))
        if not np.array_equal(observation, here):
            raise FamilyFaultError(
                "a spawned process returns another first observation under the same seed"
            )
    finally:
        there.close()
    return "the same in a spawned process"


def _rewards_are_finite(family: TaskFamily) -> str:
    tasks, number = tasks_of(family, TASKS), 0
    for i in range(TASKS):
        task = select_tasks(tasks, i)
        for t, (_, reward, *_) in enumerate(episode_of(family, made(family), task, seed=i)):
            number += 1
            if not math.isfinite(reward):
                raise FamilyFaultError(f"reward {reward} at step {t} of task {task}")
    return f"{number} rewards"


def _horizon_is_kept(family: TaskFamily) -> str:
    horizon = family.horizon
    single = made(family)
    simulation = make_simulation(family, 1)
    set_task(single, select_tasks(tasks_of(family, 1), 0))
    single.reset(seed=0)
    simulation.begin(tasks_of(family, 1), np.zeros(1, np.int64))

    def step_single(action: npt.ArrayLike) -> tuple[bool, bool]:
        _, _, terminated, truncated, _ = single.step(action)
        return terminated, truncated

    def step_of_one(action: npt.ArrayLike) -> tuple[bool, bool]:
        step = simulation.step(torch.from_numpy(np.stack([action])))
        return bool(step.terminated), bool(step.truncated)

    for name, step in (
        ("environment", step_single),
        (f"simulation ({backend_name(family)})", step_of_one),
    ):
        for t, action in enumerate(actions_of(family, 0, horizon), 1):
            terminated, truncated = step(action)
            if truncated and t < horizon:
                raise FamilyFaultError(
                    f"the {name} is truncated at step {t}, before the horizon {horizon}"
                )
            if terminated or truncated:
                break
        else:
            raise FamilyFaultError(f"the {name} continues after the horizon of {horizon} steps")
    simulation.close()
    return f"at most {horizon} steps"


def _time_per_step(family: TaskFamily) -> str:
    env, number = made(family), 0
    task = select_tasks(tasks_of(family, 1), 0)
    actions = actions_of(family, 0, min(family.horizon, LONGEST))
    start = time.perf_counter()
    for seed in range(EPISODES):
        number += sum(1 for _ in episode_of(family, env, task, seed, actions)) - 1
    return f"{(time.perf_counter() - start) / max(1, number) * 1e6:.0f} µs, one environment"


CHECKS: dict[str, tuple[Callable[[TaskFamily], str], str]] = {
    "runs": (_runs, "resets and steps must not fail"),
    "no running statistics": (
        _no_statistics,
        "normalise in the run, whose statistics are the same for all environments",
    ),
    "a policy fits": (
        _policy_fits,
        "training needs spaces that it can flatten, actions in a Box, Discrete, MultiDiscrete or "
        "MultiBinary space, and splits that contain train and test",
    ),
    "tasks in the space": (
        _tasks_in_space,
        "sample_task must return values of task_space, with its types and shapes",
    ),
    "same seed, same tasks": (
        _same_seed_same_tasks,
        "draw from the generator that sample_task is given, and from no other, such as np.random",
    ),
    "spaces hold": (
        _spaces_hold,
        "observations must have the form, shape and type of observation_space, and finite numbers, "
        "for every task",
    ),
    "task takes effect": (
        _task_takes_effect,
        "read the task in step or reset; a new task takes effect at the next reset",
    ),
    "attributes follow": (
        _attributes_follow,
        "update them in a function that takes the unwrapped environment, and name it in the "
        'registration: kwargs={..., "derive": "module:function"}',
    ),
    "task survives reset": (
        _task_survives_reset,
        "reset must not draw or clear the task: it stays until it is set again",
    ),
    "same seed, same episode": (
        _same_seed_same_episode,
        "call super().reset(seed=seed), and draw from self.np_random only",
    ),
    "splits are disjoint": (
        _splits_are_disjoint,
        "hold tasks out: train and test must be disjoint if there are more than two tasks",
    ),
    "no task in observations": (
        _no_leak,
        "leave the task, which the policy has to infer, out of the observation; list parameters "
        "that it may show in `visible` of the environment",
    ),
    "vector agrees": (
        _vector_agrees,
        "the vector environment must return what single ones return under the same seeds",
    ),
    "pickles": (
        _pickles,
        "register with string entry points in an importable module, and plain keyword arguments",
    ),
    "scales": (_scales, "observations must be arrays of numbers"),
    "rewards are finite": (_rewards_are_finite, "look for divisions by 0 and unstable physics"),
    "horizon is kept": (
        _horizon_is_kept,
        "leave truncation to max_episode_steps, which the vector environment must accept",
    ),
    "time per step": (_time_per_step, "the environment must step without an error"),
}


NEEDED = (_runs, _no_statistics, _policy_fits, _tasks_in_space, _spaces_hold)
"""Checks after whose failure the others would fail for the same reason."""
