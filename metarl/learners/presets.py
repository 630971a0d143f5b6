"""Named algorithms: each a preset of the parts that a run is made of, with its source."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metarl.support.errors import UsageError, nearest

if TYPE_CHECKING:  # listing the algorithms does not load Gymnasium
    from metarl.support.types import Json
    from metarl.tasks.family import TaskFamily


@dataclass(frozen=True)
class Algorithm:
    """A preset: what it changes in the defaults of `Config`, which are those of maml-trpo."""

    summary: str
    """One line."""
    source: str
    """Paper."""
    options: "Json" = field(default_factory=dict)
    """Fields of `Config`."""


ALGORITHMS: dict[str, Algorithm] = {
    "maml-trpo": Algorithm(
        "second order, trust region between adapted policies",
        "Finn et al. 2017, arXiv 1703.03400",
    ),
    "promp": Algorithm(
        "low-variance curvature, clipped outer surrogate, penalty on the change before adaptation",
        "Rothfuss et al. 2018, arXiv 1810.06784",
        {"outer": "ppo", "estimator": "lvc", "inner_kl_penalty": 5e-4},
    ),
    "maml-ppo": Algorithm(
        "the log-likelihood inner loss of MAML with a clipped outer surrogate",
        "Finn et al. 2017, arXiv 1703.03400; Schulman et al. 2017, arXiv 1707.06347",
        {"outer": "ppo"},
    ),
    "maml-pg": Algorithm(
        "the meta-gradient by Adam, without a trust region",
        "Finn et al. 2017, arXiv 1703.03400",
        {"outer": "gradient"},
    ),
    "e-maml": Algorithm(
        "credit for what was sampled before adaptation",
        "Stadie et al. 2018, arXiv 1803.01118",
        {"sampling_correction": True, "correction_over_steps": "mean"},
    ),
    "dice-maml": Algorithm(
        "exact derivatives of any order, of high variance",
        "Foerster et al. 2018, arXiv 1802.05098",
        {"estimator": "dice"},
    ),
    "fomaml": Algorithm(
        "first order: the gradient after adaptation, moved to the initial parameters",
        "Finn et al. 2017, arXiv 1703.03400, section 5.2",
        {"estimator": "first_order"},
    ),
    "reptile": Algorithm(
        "the initial parameters move to the adapted ones; with one inner step, joint training",
        "Nichol et al. 2018, arXiv 1803.02999",
        {"outer": "reptile", "estimator": "first_order", "outer_lr": 1.0, "inner_steps": 3},
    ),
    "anil": Algorithm(
        "the inner loop changes the head alone",
        "Raghu et al. 2020, arXiv 1909.09157",
        {"adapts": "head"},
    ),
    "cavia": Algorithm(
        "the inner loop changes a context alone, which is an input of the policy",
        "Zintgraf et al. 2019, arXiv 1810.03642",
        {"adapts": "context", "inner_lr": 1.0},
    ),
    "meta-sgd": Algorithm(
        "a learned step size for each weight",
        "Li et al. 2017, arXiv 1707.09835",
        {"step_sizes": "per_parameter"},
    ),
    "es-maml": Algorithm(
        "evolution strategies on the adapted return: no second derivatives, antithetic",
        "Song et al. 2020, arXiv 1910.01215",
        {"outer": "evolution", "estimator": "first_order", "outer_lr": 0.01},
    ),
}

CONTROLS: dict[str, Algorithm] = {
    "random": Algorithm(
        "no training: inner steps from a fresh policy",
        "Finn et al. 2017, arXiv 1703.03400, section 5.3",
        {"inner_steps": 0},
    ),
    "pretrained": Algorithm(
        "one policy trained on all tasks at once, fine-tuned by inner steps",
        "Finn et al. 2017, arXiv 1703.03400, section 5.3",
        {"inner_steps": 0},
    ),
    "oracle": Algorithm(
        "one policy that sees the task",
        "Finn et al. 2017, arXiv 1703.03400, section 5.3",
        {"inner_steps": 0, "observe_task": True},
    ),
}
"""What an algorithm is compared with; they train as algorithms do."""

RL2 = "rl2"
"""The control of `metarl compare` that is a learner of its own: `metarl.learners.rl2`."""


def find_algorithm(name: str) -> Algorithm:
    """The algorithm or control of that name.

    Raises:
        UsageError: there is none; names those that there are.

    """
    known = ALGORITHMS | CONTROLS
    if name == RL2:
        raise UsageError(f"--algorithm {RL2}: it is a learner of its own, --learner {RL2}")
    if name not in known:
        raise UsageError(
            f"--algorithm {name} must be one of {', '.join(known)}{nearest(name, known)}"
        )
    return known[name]


def shipped_options(family: "TaskFamily", name: str) -> "Json":
    """The options that the family ships for an algorithm, a control or a learner, or none.

    Those for the learner "maml" are for each of its algorithms and controls, below the options for
    this one, except for the options that make the algorithm up.
    """
    algorithm = {**ALGORITHMS, **CONTROLS}.get(name)
    shared = family.tuned.get("maml", {}) if algorithm else {}
    fixed = algorithm.options if algorithm else {}
    options = {n: value for n, value in shared.items() if n not in fixed}
    options.update(family.tuned.get(name, {}))
    return {n: tuple(v) if isinstance(v, list) else v for n, v in options.items()}


def tuned_options(family: "TaskFamily", name: str) -> "Json":
    """The same.

    Raises:
        UsageError: it ships none for this one; names those for which it does.

    """
    options = shipped_options(family, name)
    if not options:
        own = ", ".join(family.tuned)
        has = f"options for {own} alone, not for {name}" if own else "no options: omit --preset"
        raise UsageError(f"--preset tuned: {family.id} ships {has}")
    return options
