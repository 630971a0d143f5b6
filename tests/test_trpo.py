import math

import pytest
import torch

from metarl.outer.fisher import NaturalOptions, conjugate_gradient
from metarl.outer.natural_gradient import NaturalGradient
from metarl.outer.objective import divergence
from metarl.outer.trpo import TRPO, TRPOOptions


class Quadratic:
    """surrogate = gᵀx, KL = ½ xᵀFx around the origin: TRPO's step is √(2δ / gᵀF⁻¹g) F⁻¹g."""

    def __init__(self, fisher, slope, kl_factor=1.0):
        self.fisher, self.slope, self.kl_factor = fisher, slope, kl_factor
        self.strides = []

    def value(self, parameters):
        x = parameters["x"]
        return (self.slope @ x).item(), self.kl_factor * (0.5 * x @ self.fisher @ x).item()

    def gradient(self, parameters):
        return self.value(parameters)[0], {"x": self.slope}

    def curvature(self, parameters, term, stride=1):
        assert term is divergence
        self.strides.append(stride)
        return lambda vector: {"x": self.fisher @ vector["x"]}


@pytest.fixture
def fisher():
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return root @ root.T + torch.eye(4)


SLOPE = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
ORIGIN = {"x": torch.zeros(4, dtype=torch.float64)}


def test_conjugate_gradient_solves_in_as_many_iterations_as_dimensions(fisher):
    x, residual = conjugate_gradient(lambda v: fisher @ v, SLOPE, 4)
    torch.testing.assert_close(x, torch.linalg.solve(fisher, SLOPE))
    torch.testing.assert_close(residual, SLOPE - fisher @ x, atol=1e-12, rtol=0)


def test_conjugate_gradient_changes_nothing_once_the_tolerance_is_reached(fisher):
    """Whatever the iterations that follow, also where b is 0 and the first one divides by 0."""
    for b in (SLOPE, torch.zeros_like(SLOPE)):
        solved = conjugate_gradient(lambda v: fisher @ v, b, 4)
        assert (solved[1] @ solved[1]) < 1e-10
        for more in (5, 40):
            for one, other in zip(
                solved, conjugate_gradient(lambda v: fisher @ v, b, more), strict=True
            ):
                assert torch.equal(one, other)


def test_conjugate_gradient_reports_the_residual_when_it_stops_early(fisher):
    x, residual = conjugate_gradient(lambda v: fisher @ v, SLOPE, 2)
    torch.testing.assert_close(residual, SLOPE - fisher @ x)
    assert residual.norm() > 1e-3


def test_the_step_is_the_natural_gradient_to_the_border_of_the_trust_region(fisher):
    # A hair under 1, so that rounding does not decide whether the border itself is accepted.
    objective = Quadratic(fisher, SLOPE, kl_factor=1 - 1e-6)
    new, metrics = TRPO(TRPOOptions(max_kl=0.02, cg_damping=0.0, fisher_fraction=0.3)).step(
        objective, ORIGIN
    )
    natural = torch.linalg.solve(fisher, SLOPE)
    expected = math.sqrt(2 * 0.02 / (SLOPE @ natural)) * natural
    torch.testing.assert_close(new["x"], expected)
    assert metrics["outer/kl"] == pytest.approx(0.02, rel=1e-5)
    assert metrics["outer/surrogate"] == pytest.approx((SLOPE @ expected).item())
    assert metrics["outer/accepted"] == metrics["outer/line_search_steps"] == 1
    assert objective.strides == [3]


@pytest.mark.parametrize("factor", [0.2, 0.5, 1.02, 4.0, 100.0])
def test_the_line_search_finds_the_border_where_the_curvature_was_misjudged(fisher, factor):
    _, metrics = TRPO(TRPOOptions(cg_damping=0.0)).step(Quadratic(fisher, SLOPE, factor), ORIGIN)
    assert 0.009 <= metrics["outer/kl"] <= 0.01
    assert metrics["outer/line_search_steps"] <= 3
    assert metrics["outer/kl"] == pytest.approx(factor * metrics["outer/kl_claimed"])


class Bumpy(Quadratic):
    """The surrogate rises only close by."""

    def value(self, parameters):
        _, kl = super().value(parameters)
        x = self.slope @ parameters["x"]
        return (x - 10 * x**2).item(), kl


def test_the_line_search_shrinks_where_the_surrogate_does_not_rise(fisher):
    natural = torch.linalg.solve(fisher, SLOPE)
    first = math.sqrt(2 * 0.01 * (SLOPE @ natural))
    new, metrics = TRPO(TRPOOptions(cg_damping=0.0)).step(Bumpy(fisher, SLOPE), ORIGIN)
    tries = math.floor(math.log(0.1 / first) / math.log(0.8)) + 1
    assert (SLOPE @ new["x"]).item() == pytest.approx(first * 0.8**tries)
    assert metrics["outer/surrogate"] > 0


class Deceptive(Quadratic):
    """The surrogate falls wherever one goes."""

    def value(self, parameters):
        return -parameters["x"].norm().item(), 0.0


def test_no_step_is_taken_where_none_improves(fisher):
    new, metrics = TRPO(TRPOOptions()).step(Deceptive(fisher, SLOPE), ORIGIN)
    assert torch.equal(new["x"], ORIGIN["x"])
    assert metrics["outer/accepted"] == 0
    assert metrics["outer/surrogate"] == metrics["outer/kl"] == 0


class Broken(Quadratic):
    """Every candidate gives NaN."""

    def value(self, parameters):
        return (0.0 if not parameters["x"].any() else math.nan), math.nan


def test_a_nan_is_never_accepted(fisher):
    new, metrics = TRPO(TRPOOptions()).step(Broken(fisher, SLOPE), ORIGIN)
    assert torch.equal(new["x"], ORIGIN["x"])
    assert metrics["outer/accepted"] == 0


def test_without_a_gradient_nothing_moves(fisher):
    """As where no reward has been seen yet."""
    new, metrics = TRPO(TRPOOptions()).step(Quadratic(fisher, torch.zeros_like(SLOPE)), ORIGIN)
    assert torch.equal(new["x"], ORIGIN["x"])
    assert metrics["outer/accepted"] == 0


def test_the_natural_gradient_goes_there_at_once(fisher):
    objective = Quadratic(fisher, SLOPE, kl_factor=2.0)
    new, metrics = NaturalGradient(NaturalOptions(cg_damping=0.0)).step(objective, ORIGIN)
    natural = torch.linalg.solve(fisher, SLOPE)
    torch.testing.assert_close(new["x"], math.sqrt(0.02 / (SLOPE @ natural)) * natural)
    assert metrics["outer/kl"] == pytest.approx(0.02), "the measured KL, not the aim"
