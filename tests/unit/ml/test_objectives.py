"""SF and IS against an analytic policy gradient: a three-step linear Gaussian chain with a quadratic reward."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from app.domain.enums import Baseline
from worker.ml import ddim, objectives
from worker.ml.advantages import BaselineState, rewards_to_go, subtract_baseline

SIGMA = torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)
TARGET, OFFSET, DIMENSIONS = 1.5, 20.0, 2
THETA = torch.tensor([0.9, 0.2], dtype=torch.float64)  # mean = w x + b at every step
CHAIN = ddim.Schedule(torch.arange(3), SIGMA, SIGMA, SIGMA, "epsilon", None)  # log_prob reads sigma alone


def expected_reward(theta: Tensor) -> Tensor:
    """E[OFFSET - |x_0 - TARGET|^2] in closed form: the mean and variance of a linear Gaussian chain from N(0, 1)."""
    mean, variance = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for sigma in SIGMA:
        mean, variance = theta[0] * mean + theta[1], theta[0] ** 2 * variance + sigma**2
    return OFFSET - DIMENSIONS * (variance + (mean - TARGET) ** 2)


def true_gradient(theta: Tensor) -> Tensor:
    point = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_reward(point), point)
    return gradient


def roll_out(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(states [n, 4, D], rewards [n]) under THETA."""
    x = [torch.randn(n, DIMENSIONS, generator=rng, dtype=torch.float64)]
    for sigma in SIGMA:
        noise = torch.randn(n, DIMENSIONS, generator=rng, dtype=torch.float64)
        x.append(THETA[0] * x[-1] + THETA[1] + sigma * noise)
    return torch.stack(x, 1), OFFSET - (x[-1] - TARGET).square().sum(1)


def log_probs(theta: Tensor, states: Tensor) -> Tensor:
    n = len(states)
    steps = torch.arange(3).repeat(n)
    here, following = states[:, :-1].reshape(-1, DIMENSIONS), states[:, 1:].reshape(-1, DIMENSIONS)
    return ddim.log_prob(CHAIN, steps, following, theta[0] * here + theta[1]).reshape(n, 3)


def estimate(objective: str, states: Tensor, advantage: Tensor) -> Tensor:
    """The gradient of E[reward] that one epoch of rollouts gives at THETA."""
    theta = THETA.clone().requires_grad_()
    new, old = log_probs(theta, states).reshape(-1), log_probs(THETA, states).reshape(-1)
    if objective == "sf":
        result = objectives.score_function(new, old, advantage.reshape(-1), dimensions=DIMENSIONS)
    else:
        result = objectives.importance_sampling(new, old, advantage.reshape(-1), dimensions=DIMENSIONS, clip_nats=1.64)
    (gradient,) = torch.autograd.grad(result.loss.sum() * DIMENSIONS / len(states), theta)
    return -gradient


def test_is_equals_sf_at_theta_old() -> None:
    states, rewards = roll_out(256, torch.Generator().manual_seed(0))
    advantage = rewards[:, None].expand(-1, 3)
    torch.testing.assert_close(estimate("is", states, advantage), estimate("sf", states, advantage))


def estimates(baseline: Baseline, epochs: int, n: int) -> np.ndarray:
    """SF gradients of many independent epochs of n samples, after one unmeasured epoch."""
    rng, state = torch.Generator().manual_seed(1), BaselineState()
    found = []
    for _ in range(epochs + 1):
        states, rewards = roll_out(n, rng)
        returns = rewards_to_go(rewards.numpy(), None, steps=3)
        log_prob = log_probs(THETA, states)
        squares = -2 * (log_prob + DIMENSIONS * (SIGMA.log() + 0.5 * np.log(2 * np.pi)))
        value = OFFSET - (states[:, :-1] - TARGET).square().sum(2).numpy()  # some function of the state
        table = subtract_baseline(returns, baseline, state=state, weights=(squares / SIGMA**2).numpy(), value=value)
        found.append(estimate("sf", states, torch.from_numpy(table)).numpy())
    return np.stack(found[1:])


@pytest.fixture(scope="module")
def variance_without() -> float:
    return float(estimates(Baseline.NONE, 400, 16).var(axis=0).sum())


@pytest.mark.parametrize("baseline", list(Baseline))
def test_every_baseline_keeps_the_mean_and_lowers_the_variance(
    baseline: Baseline, variance_without: float, record_property: Callable[[str, object], None]
) -> None:
    found = estimates(baseline, 400, 16)
    expected = true_gradient(THETA).numpy() * (15 / 16 if baseline is Baseline.MEAN else 1.0)
    standard_error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - expected) < 3 * standard_error)
    variance = float(found.var(axis=0).sum())
    record_property("gradient_variance", variance)
    if baseline is not Baseline.NONE:
        assert variance < 0.5 * variance_without


def test_is_off_policy_converges_to_the_gradient_at_the_new_policy() -> None:
    """One step in one dimension, where the ratio is exact: samples of N(0, 1), gradient at a mean of 0.3."""
    schedule = ddim.Schedule(torch.arange(1), *[torch.ones(1, dtype=torch.float64)] * 3, "epsilon", None)
    rng, n = torch.Generator().manual_seed(2), 400_000
    x = torch.randn(n, 1, generator=rng, dtype=torch.float64)
    reward = -(x[:, 0] - TARGET).square()
    zero = torch.zeros(n, dtype=torch.long)
    means = torch.full((n, 1), 0.3, dtype=torch.float64, requires_grad=True)
    result = objectives.importance_sampling(
        ddim.log_prob(schedule, zero, x, means),
        ddim.log_prob(schedule, zero, x, torch.zeros_like(x)),
        reward,
        dimensions=1,
        clip_nats=1e3,
    )
    (gradient,) = torch.autograd.grad(-result.loss.sum(), means)
    expected = -2 * (0.3 - TARGET)  # d/dm of -E(x - c)^2 under N(m, 1)
    assert abs(float(gradient.mean()) - expected) < 3 * float(gradient.std()) / n**0.5


@pytest.mark.parametrize(("advantage", "sign"), [(1.0, 1), (-1.0, -1)])
@pytest.mark.parametrize("dimensions", [16_384, 3 * 64 * 64, 3 * 256 * 256])
def test_the_clip_acts_exactly_at_its_nats_at_every_image_size(advantage: float, sign: int, dimensions: int) -> None:
    log_ratio = torch.tensor([sign * 1.639, sign * 1.641, -sign * 50.0], dtype=torch.float64, requires_grad=True)
    result = objectives.importance_sampling(
        log_ratio, torch.zeros(3), torch.full((3,), advantage), dimensions=dimensions, clip_nats=1.64
    )
    (gradient,) = torch.autograd.grad(result.loss.sum(), log_ratio)
    assert result.clipped.tolist() == [False, True, False]
    assert (gradient != 0).tolist() == [True, False, True]  # the wrong side is pulled back, however far


def test_at_the_papers_size_the_clip_is_the_papers_1e_4() -> None:
    log_ratio = torch.tensor([1e6], dtype=torch.float64)
    result = objectives.importance_sampling(log_ratio, torch.zeros(1), torch.ones(1), dimensions=16_384, clip_nats=1.64)
    assert float(-result.loss - 1) == pytest.approx(1e-4, rel=2e-3)


def test_approx_kl_is_never_negative_and_estimates_the_kl() -> None:
    shift, rng = 0.1, torch.Generator().manual_seed(3)
    x = torch.randn(200_000, generator=rng, dtype=torch.float64)
    log_ratio = -0.5 * (x - shift) ** 2 + 0.5 * x**2
    estimate = objectives.approx_kl(log_ratio)
    assert float(estimate.min()) >= 0
    assert float(estimate.mean()) == pytest.approx(shift**2 / 2, rel=0.02)
    assert torch.isfinite(objectives.approx_kl(torch.tensor([1e9, -1e9]))).all()
