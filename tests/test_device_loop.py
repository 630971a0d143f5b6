"""What runs on a device stays there: counted noise, and no look at a value inside the loop."""

import gc
import time
import warnings

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from scipy import stats
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from metarl import Config, Learner
from metarl.learners.rl2 import RL2Config, RL2Learner
from metarl.maml import meta_objective
from metarl.maml.estimators import SURROGATES
from metarl.maml.inner_loop import InnerLoop, adapt
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.outer import natural_gradient, policy_gradient, ppo, reptile, trpo
from metarl.outer.registry import OUTER_LOOPS
from metarl.policies.action_units import ActionUnits
from metarl.policies.normalisation import sums_of
from metarl.policies.observations import Observations
from metarl.policies.parameters import expand
from metarl.policies.policy import make_policy
from metarl.sampling import rollout as sampling
from metarl.sampling.actor import MostLikely, PolicyActor
from metarl.sampling.advantage import make_scaled_batch
from metarl.sampling.baseline import fit_values
from metarl.sampling.data import Rollout
from metarl.sampling.noise import CountedNoise
from metarl.sampling.trials import Memory, TrialActor
from metarl.simulation.backends import make_simulation
from metarl.simulation.device import DeviceSimulation
from metarl.simulation.dynamics import DynamicsPhysics
from metarl.simulation.physics import WarpOptions
from metarl.support import finite, graphs
from metarl.support.foreign import POLL
from metarl.support.looks import read
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey
from metarl.tasks.family import make_family
from metarl.tasks.noise import Noise, Purpose
from metarl.tasks.registry import registered_families

ELSEWHERE = torch.device("meta")
"""Tensors without values: whoever looks at one is an error, as on a GPU it would be a wait."""
TASKS, EPISODES, HORIZON = 2, 3, 4


def collected(family, simulation, device, mean=False, tasks=TASKS, horizon=HORIZON):
    key = RandomKey(0)
    policy = make_policy(family.prototype.observation_space, family.prototype.action_space)
    parameters = policy.initial_parameters(np.random.default_rng(0))
    actor = PolicyActor(policy, expand({n: p.to(device) for n, p in parameters.items()}, tasks))
    return sampling.collect(
        [simulation],
        MostLikely(actor) if mean else actor,
        ActionUnits.of(family.prototype.action_space, family.action_scale),
        family.sample_tasks(tasks, key),
        EPISODES,
        horizon,
        key,
        0,
        Workers(1),
    )


def devices(values):
    return {value.device for value in values if isinstance(value, torch.Tensor)}


class SendsNoNumbers(TorchFunctionMode):
    """Fails where numbers of Python become a tensor of a device."""

    makers = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        made = function in self.makers and not isinstance(args[-1], torch.Tensor)
        sends = made and result.device == ELSEWHERE
        assert not sends, f"{function.__name__} sends numbers to the device"
        return result


class StaysOnDevice(TorchDispatchMode):
    """Fails where an operation reads a value of a device, or moves one between devices.

    The host's own numbers are free, such as the number of its steps that torch's Adam counts.
    """

    looks = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.seen = 0
        self.sending = SendsNoNumbers()

    def __enter__(self):
        self.sending.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.sending.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        reads = name in self.looks and ELSEWHERE in devices(args)
        assert not reads, f"{name} reads a value on the host"
        result = function(*args, **kwargs or {})
        of = devices((result, *args))
        moves = name in ("_to_copy", "copy_") and len(of) > 1
        assert not moves, f"{name} moves values between {of}"
        self.seen += 1
        return result


class Watched:
    """In place of the capture, which needs a GPU: calls the function under watch."""

    calls = 0

    def __init__(self, function, captures):
        assert captures, "on a GPU the loop is captured"
        self.function = function

    def __call__(self):
        with StaysOnDevice() as watch:
            result = self.function()
        assert watch.seen > 20
        Watched.calls += 1
        return result

    def wait(self):
        pass


@pytest.fixture
def watched(monkeypatch):
    """A loop under watch, without what needs the values of the rollout afterwards."""
    monkeypatch.setattr(sampling, "Replayed", Watched)
    monkeypatch.setattr(sampling, "_assembled", lambda *_: None)
    monkeypatch.setattr(sampling, "_joined", lambda _: None)
    Watched.calls = 0


def there(tensors):
    return {name: torch.empty_like(x, device=ELSEWHERE) for name, x in tensors.items()}


def elsewhere(family, number):
    """The family's simulation with all its tensors there; warp's kernels are not run."""
    declared = family.declaration
    if not hasattr(declared, "xml"):
        return DeviceSimulation(
            declared, DynamicsPhysics(declared, number), number, HORIZON, ELSEWHERE
        )
    from metarl.simulation.warp import WarpPhysics

    physics = WarpPhysics(declared, number, torch.device("cpu"), WarpOptions())
    for name, value in list(vars(physics).items()):
        if isinstance(value, dict):
            setattr(physics, name, there(value))
        elif isinstance(value, torch.Tensor):
            setattr(physics, name, torch.empty_like(value, device=ELSEWHERE))
    physics._range = [x.to(ELSEWHERE) for x in physics._range]
    physics._launch = physics.begin = physics.prepare = lambda *_: None
    physics.expect_no_overflow = lambda *_: None
    return DeviceSimulation(declared, physics, number, HORIZON, ELSEWHERE, info=("velocity",))


NAVIGATION = "envs:Navigation2D-v0"
DECLARED = [id for id in registered_families() if make_family(id).declaration]
CASES = [*((id, False) for id in DECLARED), (NAVIGATION, True), ("envs:HumanoidDir-v0", True)]


@pytest.mark.parametrize(("id", "mean"), CASES)
def test_no_value_leaves_the_device_in_the_loop(id, mean, watched):
    family = make_family(id, horizon=HORIZON)
    if hasattr(family.declaration, "xml"):
        pytest.importorskip("mujoco_warp")
    collected(family, elsewhere(family, TASKS * EPISODES), ELSEWHERE, mean=mean)
    assert Watched.calls == HORIZON


def test_nor_do_those_of_a_recurrent_policy(watched):
    family = make_family(NAVIGATION, horizon=HORIZON)
    network = RL2Learner(RL2Config(NAVIGATION, hidden_size=8)).network.to(ELSEWHERE)
    sampling.collect(
        [elsewhere(family, TASKS)],
        TrialActor(network, Memory.empty(network, TASKS)).actor(),
        ActionUnits.of(family.prototype.action_space, family.action_scale),
        family.sample_tasks(TASKS, RandomKey(0)),
        1,
        HORIZON,
        RandomKey(0),
        0,
        Workers(1),
    )
    assert Watched.calls == HORIZON


def test_what_images_are_divided_by_goes_to_the_device_once(watched):
    observations = Observations.of(Box(0, 255, (2, 2, 3), np.uint8))
    rows = torch.ones(5, observations.size, device=ELSEWHERE)
    observations.scaled(rows)  # in a warm-up
    with StaysOnDevice():
        observations.scaled(rows)
    count, sums = sums_of(rows)
    assert count.device == sums.device == ELSEWHERE, "processes exchange them together"


def test_compiling_is_no_part_of_the_time_of_a_reset():
    class Compiles(DynamicsPhysics):
        prepared = False

        def prepare(self):
            time.sleep(4 * POLL)
            self.prepared = True

        def expect_no_overflow(self, failed):
            """There is room for all."""

    family = make_family(NAVIGATION, horizon=HORIZON)
    device = torch.device("cpu")
    physics = Compiles(family.declaration, 2)
    simulation = DeviceSimulation(family.declaration, physics, 2, HORIZON, device, timeout=POLL)
    simulation.begin(family.sample_tasks(2, RandomKey(0)), np.arange(2))  # or this process ends
    assert physics.prepared


def test_the_watch_sees_a_look_and_a_copy():
    x = torch.ones(3, device=ELSEWHERE)
    with StaysOnDevice():
        with pytest.raises(AssertionError, match="moves values between"):
            torch.ones(3).to(ELSEWHERE)
        with pytest.raises(AssertionError, match="moves values between"):
            x.copy_(torch.ones(3))
        for make in (torch.tensor, torch.as_tensor):
            with pytest.raises(AssertionError, match="sends numbers to the device"):
                make([1.0, 2.0], device=ELSEWHERE)
        with pytest.raises(AssertionError, match="nonzero reads"):
            x.nonzero()
        for look in (torch.Tensor.item, torch.Tensor.tolist, float, bool):
            with pytest.raises((RuntimeError, AssertionError), match=r"meta|reads"):
                look(x[0])
        for look in (torch.Tensor.cpu, torch.Tensor.numpy):
            with pytest.raises((NotImplementedError, TypeError), match=r"copy out|meta"):
                look(x)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_recording_counts_on_the_host_or_on_the_device(on_device):
    counter = torch.zeros(1, dtype=torch.int64) if on_device else None
    recording = sampling._Recording(3, counter)
    noise = torch.arange(6.0).reshape(3, 1, 2)
    for _ in range(2):
        recording.write(x=10 * recording.now(noise))
        recording.end_step()
    assert recording.read("x", 3).tolist() == [[[0, 20, 0], [10, 30, 0]]]


def test_counted_noise_is_that_of_numpy_on_every_device(device):
    """The same bits; a function of the episode's stream and the step alone."""
    streams = np.array([[3, 2**63 - 1], [-5, 7]])
    source = CountedNoise(torch.from_numpy(streams).to(device))
    normal = source.standard_normal((50, 2, 2, 3), np.float32)
    gumbel = source.gumbel(size=(50, 2, 2, 2, 4))
    assert (normal.dtype, gumbel.dtype) == (torch.float32, torch.float64)
    for t in (0, 1, 49):
        own = Noise(streams, Purpose.ACTION)
        same = own.normal_at(np.array(t), 3).astype(np.float32)
        np.testing.assert_array_equal(normal[t].cpu().numpy(), same)
        same = own.gumbel_at(np.array(t), 8).reshape(2, 2, 2, 4)
        np.testing.assert_array_equal(gumbel[t].cpu().numpy(), same)
    alone = CountedNoise(torch.tensor([[-5]], device=device)).standard_normal(
        (60, 1, 1, 3), np.float32
    )
    assert torch.equal(alone[:50, 0, 0], normal[:, 1, 0])


def test_counted_noise_has_its_distribution():
    source = CountedNoise(torch.arange(40).reshape(4, 10))
    normal = source.standard_normal((250, 4, 10, 2), np.float32).flatten().numpy()
    gumbel = source.gumbel(size=(250, 4, 10, 2)).flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(gumbel, "gumbel_r").pvalue > 1e-3
    assert abs(np.corrcoef(normal[:-2], normal[2:])[0, 1]) < 0.03


def test_an_episode_on_a_device_does_not_depend_on_the_others():
    """Tasks of two processes, or of a larger batch, have the noise that they have together."""
    family = make_family(NAVIGATION, horizon=HORIZON)

    def actions(number):
        physics = DynamicsPhysics(family.declaration, number * EPISODES)
        cpu = torch.device("cpu")
        simulation = DeviceSimulation(family.declaration, physics, number * EPISODES, HORIZON, cpu)
        return collected(family, simulation, cpu, tasks=number).actions

    assert torch.equal(actions(1)[0], actions(2)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("id", [NAVIGATION, "envs:BernoulliBandit-v0", "envs:HalfCheetahDir-v0"])
def test_a_captured_loop_gives_what_the_same_loop_gives_uncaptured(id, monkeypatch):
    family = make_family(id, horizon=12)
    if hasattr(family.declaration, "xml"):
        pytest.importorskip("mujoco_warp")
    simulation = make_simulation(family, TASKS * EPISODES, simulation="warp")
    captured = collected(family, simulation, simulation.device, horizon=12)
    again = collected(family, simulation, simulation.device, horizon=12)
    monkeypatch.setattr(graphs, "WARM_UPS", 10**6)
    eager = collected(family, simulation, simulation.device, horizon=12)
    for name in ("observations", "actions", "rewards", "valid", "terminated"):
        one, two, three = (getattr(rollout, name) for rollout in (captured, again, eager))
        assert one.device.type == "cuda"
        # warp adds up in an order of its own at each call
        torch.testing.assert_close(one.float(), three.float(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(one.float(), two.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_an_iteration_waits_for_the_gpu_as_often_whatever_the_number_of_steps():
    """And whatever that of the conjugate gradients."""
    pytest.importorskip("mujoco_warp")

    def waits(horizon, iterations):
        sizes = {"meta_batch_size": 4, "episodes": 4, "hidden_sizes": (8,), "horizon": horizon}
        decisions = {"cg_iterations": iterations, "line_search_steps": 1}
        learner = Learner(Config("envs:HalfCheetahDir-v0", simulation="warp", **sizes, **decisions))
        learner.iterate()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                learner.iterate()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    number = waits(10, 2)
    print(f"{number} waits of an iteration")
    assert 0 < number == waits(20, 10)


@pytest.fixture
def looks(monkeypatch):
    """How many numbers each look is at; the host is told that all is finite, and else .5."""
    counted = []

    def told(*values):
        counted.append(len(values))
        return [1.0 if value.dtype == torch.bool else 0.5 for value in values]

    for module in (finite, meta_objective, trpo, natural_gradient, ppo, policy_gradient, reptile):
        monkeypatch.setattr(module, "read", told)
    return counted


def updated(outer, estimator="naive", baseline=fit_values, **options):
    """θ after an inner step and a meta-update of the outer loop, all of it under watch."""
    family = make_family(NAVIGATION, horizon=HORIZON)
    policy = make_policy(family.prototype.observation_space, family.prototype.action_space)
    theta = there(policy.initial_parameters(np.random.default_rng(0)))
    shape = TASKS, EPISODES, HORIZON
    steps = torch.zeros(shape, device=ELSEWHERE)
    rollout = Rollout(
        observations=steps.new_zeros(*shape, 2),
        actions=steps.new_zeros(*shape, 2),
        log_probs=steps,
        rewards=steps.double(),
        valid=steps.bool(),
        terminated=steps[..., 0].bool(),
        final_observations=steps.new_zeros(*shape[:2], 2),
    )
    inner = InnerLoop(
        policy_objective(policy, SURROGATES[estimator]), 0.1, first_order=estimator == "first_order"
    )
    kind = OUTER_LOOPS.find(outer)
    with StaysOnDevice() as watch:
        batch, _ = make_scaled_batch(rollout, 0.99, 0.9, Workers(1), baseline)
        adapted = adapt(inner, inner.begin(theta, TASKS), batch, 0, Workers(1))
        objective = MetaObjective(policy, inner, [batch, batch], theta, adapted, Workers(1))
        changed, _ = kind(kind.Options(**options)).step(objective, theta)
    assert watch.seen > 200
    assert changed.keys() == theta.keys()


BATCH, ADAPTED, GRADIENT, DIRECTION, TRIAL, NORM = [4], [7], [8, 2], [1], [2], [1]
"""Numbers of each look: in expect_finite those of tensors, otherwise those that are asked for."""


@pytest.mark.parametrize(("trials", "iterations"), [(1, 3), (3, 1)])
def test_nor_in_value_fitting_advantages_adaptation_and_meta_update(trials, iterations, looks):
    """The host looks once at each batch and each trial of the line search, and nowhere else."""
    updated("trpo", line_search_steps=trials, cg_iterations=iterations)
    assert looks == [*BATCH, *ADAPTED, *GRADIENT, *DIRECTION, *trials * TRIAL, *NORM]


@pytest.mark.parametrize("estimator", SURROGATES)
def test_nor_in_any_estimator(estimator, looks):
    updated("natural", estimator, cg_iterations=1)
    assert looks == [*BATCH, *ADAPTED, *GRADIENT, *DIRECTION, *TRIAL, 2]


@pytest.mark.parametrize(
    ("outer", "options", "expected"),
    [
        ("ppo", {"ppo_epochs": 2, "inner_kl_penalty": 1.0}, [*2 * GRADIENT, 3, *NORM]),
        ("gradient", {}, [*GRADIENT, *TRIAL, *NORM]),
        ("reptile", {}, [*2 * TRIAL, *NORM]),
    ],
)
def test_nor_in_other_outer_loops(outer, options, expected, looks):
    updated(outer, **options)
    assert looks == [*BATCH, *ADAPTED, *expected]


def test_one_look_reads_numbers_of_any_type():
    values = torch.tensor(0.1), torch.tensor(True), torch.tensor(0.1, dtype=torch.float64)
    assert read(*values) == [float(value) for value in values]


class FakeGraph:
    """In place of torch's graph: notes what it would do."""

    def __init__(self, log):
        self.log = log

    def capture_begin(self, pool, capture_error_mode):
        self.log.append("begin")

    def capture_end(self):
        self.log.append("end")

    def replay(self):
        self.log.append("replay")


def test_a_captured_step_is_divided_where_another_library_launches(monkeypatch):
    log = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(log))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 8)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4, 80))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("empty"))

    def step():
        log.append("act")
        graphs.launched(lambda: log.append("physics"))
        log.append("record")
        return len(log)

    replayed = graphs.Replayed(step, captures=True)
    eager = ["act", "physics", "record"]
    for _ in range(graphs.WARM_UPS):
        replayed()
    assert log == eager * graphs.WARM_UPS
    log.clear()
    first, second = replayed(), replayed()
    captured = ["empty", "begin", "act", "end", "begin", "record", "end"]
    assert log == captured + ["replay", "physics", "replay"] * 2
    assert first == second == 6, "the result is that of the captured call"
    assert gc.isenabled()
    plain = graphs.Replayed(step, captures=False)
    log.clear()
    for _ in range(4):
        plain()
    assert log == eager * 4


SMALL = {"horizon": 6, "eval_tasks": 2, "simulation": "warp", "device": "cpu"}


def test_maml_and_rl2_train_evaluate_and_adapt_on_a_device():
    """On the CPU, as on a GPU, two runs of one seed have the same numbers."""
    small = {"meta_batch_size": 4, "episodes": 3, "hidden_sizes": (4,), **SMALL}
    maml = Config(NAVIGATION, normalise_observations=True, normalise_rewards=True, **small)
    rl2 = RL2Config(NAVIGATION, trials=4, episodes=2, hidden_size=4, minibatches=2, **SMALL)
    for learner_class, config in ((Learner, maml), (RL2Learner, rl2)):
        one, other = learner_class(config), learner_class(config)
        numbers = [
            [learner.iterate()["return/after"] for _ in range(2)] for learner in (one, other)
        ]
        assert numbers[0] == numbers[1]
        assert isinstance(one.simulations.of(4, one.episodes)[0], DeviceSimulation)
        assert np.isfinite(one.evaluate(steps=1).returns).all()
        assert np.isfinite(one.adapt({"goal": [0.1, 0.2]}).returns).all()
        one.close()
