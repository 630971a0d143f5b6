"""What is found when a network of one's own is tried on a few observations."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from metarl import Config, Learner, UsageError
from metarl.policies.policy import PolicyOptions, make_encoder, make_policy

HERE = __name__
VECTOR = spaces.Box(-1.0, 1.0, (2,))
NAVIGATION = "envs:Navigation2D-v0"


class Plain(nn.Linear):
    def __init__(self, space, outputs):
        super().__init__(2, outputs)


class Dropping(Plain):
    def forward(self, observations):
        return nn.functional.dropout(super().forward(observations), 0.5)


class Noisy(Plain):
    def forward(self, observations):
        outputs = super().forward(observations)
        return outputs + torch.randn_like(outputs) + float(np.random.normal())


class Centred(Plain):
    def forward(self, observations):
        outputs = super().forward(observations)
        return outputs - outputs.mean(0, keepdim=True)


class Signed(Plain):
    def forward(self, observations):
        outputs = super().forward(observations)
        return outputs if outputs.mean() > 0 else 2 * outputs


class Standardised(Plain):
    def forward(self, observations):
        return nn.functional.batch_norm(super().forward(observations), None, None, training=True)


class Detached(Plain):
    def forward(self, observations):
        return super().forward(observations).tanh().detach()


class Nested(Plain):
    def forward(self, observations):
        return super().forward(observations).unsqueeze(-1)


class Squeezed(Plain):
    def forward(self, observations):
        return super().forward(observations).squeeze(-1)


OF_ROWS = {
    "Dropping": r"gives other outputs .* again with the same observations: leave out what is rand",
    "Noisy": r"gives other outputs .* again with the same observations: leave out what is random",
    "Centred": r"gives other outputs for an observation alone than beside others, .*x\.mean\(0\)",
    "Signed": "gives other outputs for an observation alone than beside others, .*branches",
    "Standardised": "fails on .* a single one: ValueError: .*raised at",
    "Detached": r"cannot learn, because its outputs have no gradient .* detach\(\)",
    "Nested": r"gives \[8, 2, 1\] for 8 observations: it must be .* \[8, 2\]",
}


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_network_whose_outputs_are_no_function_of_one_row_is_refused(name):
    numbers, words = torch.get_rng_state(), np.random.get_state()[1].copy()
    with pytest.raises(UsageError, match=f"--policy {HERE}:{name} {OF_ROWS[name]}"):
        make_policy(VECTOR, VECTOR, PolicyOptions(f"{HERE}:{name}"))
    assert torch.equal(numbers, torch.get_rng_state())
    assert np.array_equal(words, np.random.get_state()[1])


def test_a_network_without_a_dimension_for_the_action_is_refused():
    one = spaces.Box(-1.0, 1.0, (1,))
    with pytest.raises(UsageError, match=r"gives \[8\] for 8 observations: .* \[8, 1\]"):
        make_policy(VECTOR, one, PolicyOptions(f"{HERE}:Squeezed"))


def test_an_encoder_that_learns_nothing_is_no_fault_of_a_recurrent_policy():
    assert make_encoder(VECTOR, 4, PolicyOptions(f"{HERE}:Detached")) is not None
    with pytest.raises(UsageError, match="leave out what is random"):
        make_encoder(VECTOR, 4, PolicyOptions(f"{HERE}:Dropping"))


def test_evolution_alone_needs_no_gradient():
    options = {
        "policy": f"{HERE}:Detached",
        "outer": "evolution",
        "estimator": "first_order",
        "meta_batch_size": 2,
        "episodes": 2,
        "device": "cpu",
    }
    Learner(Config(NAVIGATION, **options, inner_steps=0)).iterate()
    with pytest.raises(UsageError, match="cannot learn"):
        Learner(Config(NAVIGATION, **options))


class Embedded(nn.Embedding):
    """Takes numbers for indices, which fails on those that no environment gives."""

    def __init__(self, space, outputs):
        super().__init__(3, outputs)

    def forward(self, observations):
        return super().forward(observations[:, 0].long())


@pytest.mark.parametrize(
    ("policy", "space"),
    [
        ("Embedded", spaces.Box(-np.inf, np.inf, (2,))),
        ("Embedded", spaces.Box(0, 2, (2,), np.int64)),
        ("Plain", spaces.Box(-3e38, 3e38, (2,))),
        ("Plain", spaces.Box(100.0, 200.0, (2,))),
    ],
)
def test_a_network_is_tried_on_observations_that_fit(policy, space):
    make_policy(space, VECTOR, PolicyOptions(f"{HERE}:{policy}"))
