"""The options that every run has, and those of every run on a task family."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from metarl.learners.presets import tuned_options
from metarl.sampling.info import InfoMetric
from metarl.support.errors import UsageError, expect_instance
from metarl.support.options import Count, Device, NonNegative, Positive, WholeNumber, check_ranges
from metarl.support.schema import expect
from metarl.tasks.family import expect_named, make_family

FamilyOption = bool | int | float | str

CONFIGS = {"maml": "Config", "rl2": "RL2Config", "few_shot": "FewShotConfig"}
"""The configuration of each learner of metarl, by its name in `metarl`."""
RENAMED = {"MAMLConfig": "Config", "MAMLLearner": "Learner"}
"""Classes that have another name in `metarl`."""


def expect_config(config: object, learner: type, kind: type) -> None:
    """Checks that a learner of this class is given a configuration of its `kind`.

    Raises:
        UsageError: it is given something else.

    """
    hint = "; metarl.make_learner makes the learner of any configuration"
    wanted = f"{_public_name(learner)} takes a {_public_name(kind)}"
    expect_instance(config, kind, wanted, hint if isinstance(config, RunConfig) else "")


def expect_any_config(config: object, called: str) -> None:
    """Checks that a function is given a configuration, of whatever learner.

    Raises:
        UsageError: it is given something else.

    """
    wanted = f"{called} takes a configuration, such as metarl.Config(FAMILY)"
    expect_instance(config, RunConfig, wanted)


def _public_name(cls: type) -> str:
    """The name by which a user knows a class."""
    own = cls.__module__.startswith("metarl.")
    return f"metarl.{RENAMED.get(cls.__name__, cls.__name__)}" if own else cls.__name__


@dataclass(frozen=True)
class Budget:
    """What a comparison gives every learner."""

    episodes: int
    """Of the whole run."""
    batch: int
    """Episodes that MAML samples before adaptation, and again after each inner step."""
    stages: int
    """In which a held-out task is evaluated: before adaptation, and after each step."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: one frozen dataclass, whose fields are options of the command line and of config.json.

    Raises:
        UsageError: an option is out of its range; names the option and what would be right.

    """

    learner: str
    """Which learner trains: maml, rl2, few_shot, one that an installed package announces, or
    MODULE:CLASS. Each has options of its own: `metarl train --learner NAME --help`."""
    iterations: WholeNumber = 500
    """Iterations of training: meta-updates."""
    run_dir: Path | None = None
    """The run folder itself; a folder below `runs` if not given."""
    resume: bool = False
    """Continue from the newest checkpoint of the run folder; where --run-dir names it, options that
    are not given are those of the run."""
    init_from: str | None = None
    """Run folder of another run, whose newest checkpoint this run begins with: fine-tuning. Options
    of the policy that are not given are those of that run. The iterations, the optimiser and the
    random numbers are this run's own."""
    seed: WholeNumber = 1
    """Determines all random numbers of the run."""
    device: Device = "auto"
    """Where the learner computes; auto takes a GPU if there is one."""
    threads: WholeNumber = 0
    """Threads of the simulator and of the learner, which take turns; 0 uses one per core. Processes
    of torchrun on one host share the cores."""
    task_chunk: WholeNumber = 0
    """Tasks that adaptation and the meta-update compute at once, at most: the fewer, the less
    memory they take. 0 takes as many as is fast."""
    rank_timeout: Positive = 600.0
    """Seconds that the processes of torchrun wait for one another before the run gives up."""
    stop_timeout: Positive = 300.0
    """Seconds in which an iteration must end, and be saved, after Ctrl-C or a scheduler's signal.
    Then the run ends with the checkpoints that it has."""

    eval_every: WholeNumber = 10
    """Iterations between evaluations on held-out tasks; 0 never evaluates."""
    eval_tasks: Count = 40
    """Held-out tasks of an evaluation."""
    target: float | None = None
    """Measure on held-out tasks, after the last inner step, at which the run ends."""
    patience: WholeNumber = 0
    """Evaluations on held-out tasks without a better one after which the run ends; 0: any number.
    The best checkpoint is kept."""
    time_limit: NonNegative = 0.0
    """Minutes of training, in all its parts, after which the run ends; 0: any number."""
    non_finite: Literal["stop", "skip", "drop-task"] = "stop"
    """What follows where a number becomes infinite or NaN in training: stop ends the run; skip
    leaves out the meta-update of the iteration; drop-task repeats the iteration without the tasks
    that have such a number, and leaves out the update if it is of no single task. The metrics count
    both."""
    checkpoint_every: Count = 10
    """Iterations between checkpoints; the last iteration always has one."""
    keep_checkpoints: Count = 3
    """Newest checkpoints that are kept, beside the best by the return on held-out tasks."""
    callbacks: tuple[str, ...] = ()
    """Functions MODULE:NAME that are called after each iteration with the learner and its metrics;
    a text that one returns, the reason, ends the run."""
    sinks: tuple[str, ...] = ()
    """Services that get the metrics too: wandb and mlflow, which need the extra of that name, one
    that an installed package announces, or MODULE:CLASS."""

    changeable: ClassVar[frozenset[str]] = frozenset(
        (
            *("iterations", "run_dir", "resume", "device", "threads", "eval_every", "eval_tasks"),
            *("target", "patience", "time_limit", "callbacks", "non_finite", "task_chunk"),
            *("rank_timeout", "stop_timeout", "checkpoint_every", "keep_checkpoints", "sinks"),
        )
    )
    """Options that a resumed run may change, because no number of training depends on them."""

    of_policy: ClassVar[frozenset[str]] = frozenset()
    """Options that say what the learned parameters are those of: --init-from takes them over."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keeps the short `repr`, in whose place a dataclass would have one of all options."""
        super().__init_subclass__(**kwargs)
        cls.__repr__ = RunConfig.__repr__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Checks every choice and every number."""
        self._expect_own_learner()
        check_ranges(self)
        if not self.eval_every and (self.patience or self.target is not None):
            name = "patience" if self.patience else "target"
            raise UsageError(f"--{name} needs evaluations: --eval-every must be at least 1")

    def _expect_own_learner(self) -> None:
        hint, name = get_type_hints(type(self))["learner"], str(self.learner)
        if get_origin(hint) is Literal and name not in get_args(hint):
            right = "another learner's class has a configuration of its own, Config"
            if name in CONFIGS:
                right = f"metarl.{CONFIGS[name]} is for {name}"
            raise UsageError(f"--learner {name} must be {get_args(hint)[0]} here; {right}")

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = self.defaults
        return {n: v for n, v in values.items() if n not in defaults or v != defaults[n]}

    @property
    def defaults(self) -> dict[str, Any]:
        """The options that have a default."""
        return defaults_of(type(self))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What a table of runs shows: the options on which what is learned depends."""
        own = {n: v for n, v in self.to_json().items() if v not in (None, {}, (), "")}
        kept = {n: v for n, v in own.items() if n not in self.changeable}
        return {"algorithm": self.learner} | kept

    def __repr__(self) -> str:
        """The options that differ from their defaults."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.given.items())
        return f"{type(self).__name__}({given})"

    @property
    def run_folder(self) -> Path:
        """`run_dir`, or a folder named after the learner and the seed."""
        return Path(self.run_dir or Path("runs", f"{self.learner}-seed-{self.seed}"))

    def to_json(self) -> dict[str, Any]:
        """The options that config.json of a run folder holds."""
        return dataclasses.asdict(self) | {"run_dir": str(self.run_folder)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The configuration that config.json of a run folder holds.

        Raises:
            UsageError: this version does not have one of the options.
            ValueError: an option is not of its type, or one that has no default is missing.

        """
        hints = get_type_hints(cls, include_extras=True)
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(data) - set(names))
        if unknown:
            raise UsageError(f"this version of metarl has no option {unknown[0]}")
        held = defaults_of(cls)
        if missing := [name for name in names if name not in {*held, *data}]:
            raise ValueError(f'it has no "{missing[0]}"')
        for name, value in data.items():
            expect(value, hints[name], f'"{name}"')
        tuples = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        # What an older version did not write is the default, whatever the algorithm has now.
        return cls(**{**held, **data, **tuples, "run_dir": Path(data["run_dir"])})


def defaults_of(config_class: type[RunConfig]) -> dict[str, Any]:
    """The options of the class that have a default, whatever the algorithm."""
    fields = dataclasses.fields(config_class)
    plain = {x.name: x.default for x in fields if x.default is not MISSING}
    made = {x.name: x.default_factory() for x in fields if x.default_factory is not MISSING}
    return plain | made


@dataclass(frozen=True, kw_only=True)
class FamilyRunConfig(RunConfig):
    """A run on a task family.

    Options that are not given are those that the preset names, and then the defaults.
    """

    family: str = field(kw_only=False)
    """Task family, MODULE:ID; the module is imported first, from the working folder too."""
    family_options: dict[str, FamilyOption] = field(default_factory=dict)
    """The variant of the family, name and value in turn: `observation finn action_scale 1`."""
    preset: Literal["none", "tuned"] = "none"
    """`tuned` begins with the options that the family ships for the algorithm or the learner; each
    can still be set."""
    horizon: Count | None = None
    """Steps after which an episode is truncated; that of the family if not given."""
    action_scale: Positive | None = None
    """Policy actions from -scale to scale cover the range of bounded actions, so that the initial
    σ = 1 explores with 1/scale of it; that of the family if not given, which is 1 for most."""
    simulation: str = "auto"
    """What steps the environments: auto, batch (MuJoCo's batch engine), warp (mujoco-warp on a GPU,
    which auto does not take yet), gymnasium (one by one), one that an installed package announces,
    or MODULE:CLASS."""
    warp_contacts: WholeNumber = 0
    """Room that --simulation warp makes for contacts, per environment on average; 0: what the
    family declares."""
    warp_constraints: WholeNumber = 0
    """Room that --simulation warp makes for constraints of each environment; 0: what the family
    declares."""
    warp_deterministic: bool = False
    """Whether --simulation warp gives the same bits again on a GPU, which makes it slower; on the
    CPU it always does."""
    workers: WholeNumber = 0
    """Processes for environments that are stepped one by one; 0 steps them in this process. Their
    number changes no result."""
    worker_timeout: Positive = 60.0
    """Seconds that a worker may take for one step of its environments, or one environment for a
    step in this process, before the run ends with a message; more where a step takes longer."""
    eval_splits: tuple[str, ...] = ("test",)
    """Splits that are evaluated, as in `train test beyond`. The first that is not train judges the
    run: for --target, --patience, the best checkpoint and the value of a trial."""
    info_metrics: tuple[str, ...] = ()
    """Numbers in the info of the environment's steps that are recorded before and after adaptation:
    NAME for that of an episode's last step, NAME:mean for the mean of its steps."""

    changeable: ClassVar[frozenset[str]] = RunConfig.changeable | {
        "preset",
        "workers",
        "worker_timeout",
        "warp_contacts",
        "warp_constraints",
        "eval_splits",
        "info_metrics",
    }

    def __new__(cls, *_: object, **options: Any) -> Self:
        """Notes which options are given."""
        config = super().__new__(cls)
        if options:
            vars(config)["_given"] = options.keys()
        return config

    def __post_init__(self) -> None:
        """Sets what the preset names, and checks every choice and every number."""
        expect_named(self.family)
        given = vars(self).pop("_given", None)
        if given is not None and {field.name for field in dataclasses.fields(self)} - given:
            for name, value in self._named_options().items():
                if name not in given:
                    object.__setattr__(self, name, value)  # it is frozen
            self._expect_own_options(given)
        super().__post_init__()
        for text in self.info_metrics:
            InfoMetric.parse(text)

    def _expect_own_options(self, given: Collection[str]) -> None:
        """Checks that no option is given that this run ignores."""

    def _named_options(self) -> dict[str, Any]:
        """The options that the preset names."""
        if self.preset != "tuned":
            return {}
        family = make_family(self.family, 1, **self.family_options)
        return tuned_options(family, self.shipped_name)

    @property
    def shipped_name(self) -> str:
        """The name under which a family ships options for this run."""
        return self.learner

    @property
    def run_folder(self) -> Path:
        """`run_dir`, or a folder named after the family, the learner and the seed."""
        named = "" if self.learner == "maml" else f"{self.learner.rpartition(':')[2]}-"
        default = Path("runs", self.family.rpartition(":")[2], f"{named}seed-{self.seed}")
        return Path(self.run_dir or default)

    @property
    def episodes_per_iteration(self) -> int:
        """Episodes that an iteration samples, of all tasks and stages.

        Raises:
            UsageError: the class of another learner's options does not say.

        """
        raise UsageError(
            f"{type(self).__name__} must define episodes_per_iteration: a comparison gives all "
            "learners the same number of episodes"
        )

    @property
    def environments(self) -> int:
        """Environments that are stepped at once in training, by which --simulation auto chooses."""
        return 1

    @classmethod
    def at_budget(cls, budget: Budget, **options: Any) -> Self:
        """The configuration of a comparison, in which all learners sample as many episodes."""
        config = cls(**options)
        iterations = max(1, budget.episodes // config.episodes_per_iteration)
        return dataclasses.replace(config, iterations=iterations)


@dataclass(frozen=True, kw_only=True)
class PolicyRunConfig(FamilyRunConfig):
    """A run on a task family with a policy that is a network."""

    policy: str = "auto"
    """Network of the policy: mlp; cnn, for images; encoder, for a Dict or Tuple with images; or
    MODULE:CLASS, a torch.nn.Module. auto chooses by the observations. A recurrent learner puts it
    before its core, which reads vectors itself."""
    policy_options: dict[str, FamilyOption] = field(default_factory=dict)
    """Further arguments of the network's class, name and value in turn."""

    of_policy: ClassVar[frozenset[str]] = frozenset({"policy", "policy_options", "action_scale"})
