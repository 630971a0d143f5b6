"""Shared data: small batches that are cheap and have padding in them."""

import contextlib
from collections.abc import Callable, Iterator

import fault_counts
import hypothesis
import numpy as np
import pytest
import torch
from network import Host, two_hosts

from metarl.policies.actions import ContinuousActions
from metarl.policies.mlp import MLP
from metarl.policies.parameters import Parameters, expand
from metarl.policies.policy import Policy
from metarl.sampling.data import Batch
from metarl.support.parallel import Workers

# On a busy machine an example may take any time.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

TASKS, EPISODES, TIME, OBSERVATION, ACTION = 3, 4, 5, 3, 2


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def workers() -> Workers:
    return Workers(2)


@pytest.fixture
def policy() -> Policy:
    return Policy(MLP(OBSERVATION, ACTION, hidden_sizes=(4,)), ContinuousActions(ACTION))


@pytest.fixture
def theta(policy: Policy) -> Parameters:
    generator = np.random.default_rng(0)
    initial = policy.initial_parameters(generator)
    return {
        name: p.double() + torch.from_numpy(0.1 * generator.standard_normal(p.shape))
        for name, p in initial.items()
    }


@pytest.fixture
def make_random_batch(policy: Policy, theta: Parameters) -> Callable[[int], Batch]:
    """seed -> a batch whose actions have the log-probabilities of θ."""

    def make(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        shape = (TASKS, EPISODES, TIME)
        lengths = torch.randint(1, TIME + 1, (TASKS, EPISODES, 1), generator=generator)
        valid = torch.arange(TIME) < lengths

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator, dtype=torch.float64)

        observations = normal(*shape, OBSERVATION) * valid.unsqueeze(-1)
        actions = normal(*shape, ACTION) * valid.unsqueeze(-1)
        log_probs = policy.distribution(expand(theta, TASKS), observations).log_prob(actions)
        advantages, rewards, values = (normal(*shape) * valid for _ in range(3))
        return Batch(
            observations, actions, log_probs * valid, advantages, rewards, values, valid.double()
        )

    return make


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that can reach each other."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(two_hosts())
        except OSError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield found


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Runs draw no figures of their evaluations, which takes most of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl.runs.run.evaluation_figures", lambda *_: {})
        yield


def pytest_terminal_summary(terminalreporter):
    """A table of what the tests of faults have tried."""
    sums = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for property_name, row in getattr(report, "user_properties", ()):
                if property_name == fault_counts.PROPERTY:
                    name, *numbers = row
                    before = sums.get(name, [0] * len(numbers))
                    sums[name] = [a + b for a, b in zip(before, numbers, strict=True)]
    if sums:
        terminalreporter.section("faults")
        rows = [[name, *numbers] for name, numbers in sums.items()]
        whole = ["all", *(sum(column) for column in zip(*sums.values(), strict=True))]
        terminalreporter.write_line(
            fault_counts.table([["what", *fault_counts.COLUMNS], *rows, whole])
        )
