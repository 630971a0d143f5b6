"""The truth that estimators are held against: small tabular MDPs whose every trajectory is known.

Expected returns, adapted policies and meta-gradients are computed without sampling, in float64.
Where an estimator is a mean over trajectories, `enumerate_batch` gives it all of them at once, each
with its probability, so that what it returns is its own expectation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.maml.estimators import Surrogate
from metarl.maml.inner_loop import InnerLoop
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.policies.action_distributions import Categorical
from metarl.policies.actions import DiscreteActions
from metarl.policies.mlp import MLP
from metarl.policies.parameters import Parameters, expand
from metarl.policies.policy import Policy
from metarl.sampling.advantage import discounted_sums
from metarl.sampling.data import Batch
from metarl.support.parallel import Workers


@dataclass(frozen=True)
class TabularMDP:
    """A finite Markov decision process with rewards r(s, a), all float64."""

    initial: Tensor  # [states]: p(s_0)
    transition: Tensor  # [states, actions, states]: p(s' | s, a)
    reward: Tensor  # [states, actions]

    @property
    def policy(self) -> Policy:
        """A softmax policy that is linear in the one-hot state: one logit for each (s, a)."""
        states, actions = self.reward.shape
        return Policy(MLP(states, actions, hidden_sizes=()), DiscreteActions(actions))

    def log_policy(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Log π(a | s) under parameters without a task dimension: [states, actions]."""
        eye = torch.eye(len(self.initial), dtype=torch.float64)
        policy = self.policy.distribution(expand(parameters, 1), eye.unsqueeze(0))
        assert isinstance(policy, Categorical)
        return policy.log_probs[0]


def random_mdp(generator: np.random.Generator, states: int = 3, actions: int = 2) -> TabularMDP:
    """P(·|s, a) and p(s_0) ~ Dirichlet(1), r(s, a) ~ N(0, ½²)."""
    return TabularMDP(
        torch.from_numpy(generator.dirichlet(np.ones(states))),
        torch.from_numpy(generator.dirichlet(np.ones(states), (states, actions))),
        torch.from_numpy(generator.normal(0, 0.5, (states, actions))),
    )


def random_parameters(mdp: TabularMDP, generator: np.random.Generator) -> Parameters:
    """Logits ~ N(0, ¾²), as parameters of `mdp.policy` without a task dimension."""
    logits = torch.from_numpy(generator.normal(0, 0.75, mdp.reward.shape))
    return {"layer_0.weight": logits, "layer_0.bias": torch.zeros_like(logits[0])}


def values_to_go(
    mdp: TabularMDP, parameters: Mapping[str, Tensor], horizon: int, discount: float = 1.0
) -> Tensor:
    """V_t(s) = E[Σ_{k ≥ t} γ^{k−t} r_k | s_t = s] by dynamic programming: [horizon + 1, states]."""
    policy = mdp.log_policy(parameters).exp()
    values = [torch.zeros_like(mdp.initial)]
    for _ in range(horizon):
        action_values = mdp.reward + discount * mdp.transition @ values[0]
        values.insert(0, (policy * action_values).sum(-1))
    return torch.stack(values)


def expected_return(
    mdp: TabularMDP, parameters: Mapping[str, Tensor], horizon: int, discount: float = 1.0
) -> Tensor:
    """J(θ) = E Σ_{t < horizon} γ^t r_t; differentiable."""
    return mdp.initial @ values_to_go(mdp, parameters, horizon, discount)[0]


def stationary_return(mdp: TabularMDP, parameters: Mapping[str, Tensor], discount: float) -> Tensor:
    """J(θ) = p_0ᵀ (I − γ P_π)⁻¹ r_π: the discounted return of an endless episode."""
    policy = mdp.log_policy(parameters).exp()
    transition = torch.einsum("sa,sap->sp", policy, mdp.transition)
    reward = (policy * mdp.reward).sum(-1)
    eye = torch.eye(len(reward), dtype=reward.dtype)
    values: Tensor = torch.linalg.solve(eye - discount * transition, reward)
    return mdp.initial @ values


def adapted_exactly(
    expected: Callable[[Parameters], Tensor], parameters: Parameters, rate: float, steps: int
) -> Parameters:
    """θ after `steps` steps θ + rate · ∇J(θ) along the gradient of the expected return J."""
    for _ in range(steps):
        gradients = torch.autograd.grad(
            expected(parameters), tuple(parameters.values()), create_graph=True
        )
        parameters = {
            name: p + rate * gradient
            for (name, p), gradient in zip(parameters.items(), gradients, strict=True)
        }
    return parameters


def exact_meta_gradient(
    expected: Callable[[Parameters], Tensor], parameters: Parameters, rate: float, steps: int
) -> Parameters:
    """∇_θ J(θ_K(θ)), through every inner step."""
    theta = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    after = expected(adapted_exactly(expected, theta, rate, steps))
    return dict(zip(theta, torch.autograd.grad(after, tuple(theta.values())), strict=True))


def trajectories(mdp: TabularMDP, horizon: int) -> tuple[Tensor, Tensor, Tensor]:
    """All of them: states and actions [number, horizon], and the dynamics' probability [number]."""
    states, actions = mdp.reward.shape
    index = torch.cartesian_prod(*[torch.arange(states), torch.arange(actions)] * horizon)
    s, a = index[:, 0::2], index[:, 1::2]
    steps = mdp.transition[s[:, :-1], a[:, :-1], s[:, 1:]]
    return s, a, mdp.initial[s[:, 0]] * steps.prod(-1)


def tabular_batch(
    mdp: TabularMDP,
    parameters: Mapping[str, Tensor],
    states: Tensor,
    actions: Tensor,
    weight: Tensor | None = None,
    baseline: bool = True,
) -> Batch:
    """The batch of one task that holds these trajectories, undiscounted and not normalised.

    Args:
        parameters: of the policy that took the actions, without a task dimension.
        states, actions: [number, horizon].
        weight: [number], 1 each if not given.
        baseline: subtract V_t(s_t) from the rewards to go.

    """
    number, horizon = states.shape
    rewards = mdp.reward[states, actions]
    values = torch.zeros_like(rewards)
    if baseline:
        values = values_to_go(mdp, parameters, horizon)[torch.arange(horizon), states]
    weight = torch.ones(number, dtype=rewards.dtype) if weight is None else weight
    return Batch(
        observations=torch.eye(len(mdp.initial), dtype=rewards.dtype)[states].unsqueeze(0),
        actions=actions.unsqueeze(0),
        log_probs=mdp.log_policy(parameters)[states, actions].unsqueeze(0),
        advantages=(discounted_sums(rewards, 1.0) - values).unsqueeze(0),
        rewards=rewards.unsqueeze(0),
        values=values.unsqueeze(0),
        weight=weight.reshape(1, number, 1).expand(1, number, horizon),
    )


def enumerated_batch(
    mdp: TabularMDP, parameters: Mapping[str, Tensor], horizon: int, baseline: bool = True
) -> Batch:
    """Every trajectory, weighted with its probability under the parameters."""
    states, actions, dynamics = trajectories(mdp, horizon)
    probability = dynamics * mdp.log_policy(parameters)[states, actions].sum(-1).exp()
    return tabular_batch(mdp, parameters, states, actions, probability.detach(), baseline)


def sampler(
    mdp: TabularMDP,
    horizon: int,
    episodes: int,
    generator: np.random.Generator,
    baseline: bool = True,
) -> Callable[[Parameters], Batch]:
    """Parameters -> a batch of `episodes` trajectories drawn under them."""
    states, actions, dynamics = trajectories(mdp, horizon)

    def collect(parameters: Parameters) -> Batch:
        probability = dynamics * mdp.log_policy(parameters)[states, actions].sum(-1).exp()
        p = probability.detach().numpy()
        drawn = generator.choice(len(states), episodes, p=p / p.sum())
        return tabular_batch(mdp, parameters, states[drawn], actions[drawn], baseline=baseline)

    return collect


def estimated_meta_gradient(
    mdp: TabularMDP,
    parameters: Parameters,
    surrogate: Surrogate,
    horizon: int,
    rate: float,
    steps: int,
    first_order: bool = False,
    collect: Callable[[Parameters], Batch] | None = None,
    baseline: bool = True,
) -> Parameters:
    """The meta-gradient that training computes with a surrogate, from one task's experience.

    `collect` (parameters -> batch) gives the experience; without it every batch is an enumeration,
    and the result the estimator's expectation.
    """
    policy = mdp.policy
    if collect is None:

        def collect(theta: Parameters) -> Batch:
            return enumerated_batch(mdp, theta, horizon, baseline)

    # Surrogates are means over steps: the return is `horizon` times as much.
    inner = InnerLoop(policy_objective(policy, surrogate), rate * horizon, first_order=first_order)
    adapted = expand(parameters, 1)
    batches = [collect(parameters)]
    for number in range(steps):
        adapted = inner.step(adapted, batches[-1], number)
        batches.append(collect({name: p[0] for name, p in adapted.items()}))
    objective = MetaObjective(policy, inner, batches, parameters, adapted, Workers(1))
    _, gradient = objective.gradient(parameters)
    return {name: horizon * g for name, g in gradient.items()}
