"""The fit against a general optimiser, numerical integration and a grid."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize

from worker.ml.bradley_terry import fit, fit_block_scales, sigmoid


def votes(rng, n=120, d=4, w=None):
    differences = rng.standard_normal((n, d))
    w = np.array([1.5, -1.0, 0.0, 0.5]) if w is None else w
    left_share = (rng.random(n) < sigmoid(differences @ w)).astype(float)
    left_share[::10] = 0.5
    return differences, left_share, rng.uniform(0.2, 1.5, n)


def negative_log_posterior(w, differences, left_share, weights, prior_variance):
    logits = differences @ w
    likelihood = left_share * np.log(sigmoid(logits)) + (1 - left_share) * np.log(sigmoid(-logits))
    return -(weights @ likelihood) + 0.5 * np.sum(w**2 / prior_variance)


def test_the_fit_is_the_optimum_that_a_general_optimiser_finds():
    data = votes(np.random.default_rng(0))
    prior = np.array([0.5, 1.0, 2.0, 4.0])
    oracle = minimize(negative_log_posterior, np.zeros(4), args=(*data, prior), tol=1e-10)
    np.testing.assert_allclose(fit(*data, prior).mean, oracle.x, atol=1e-3)


def test_the_covariance_is_the_inverse_curvature():
    differences, left_share, weights = votes(np.random.default_rng(1))
    prior = np.array([0.5, 1.0, 2.0, 4.0])
    posterior = fit(differences, left_share, weights, prior)
    p = sigmoid(differences @ posterior.mean)
    hessian = (differences * (weights * p * (1 - p))[:, None]).T @ differences + np.diag(1 / prior)
    np.testing.assert_allclose(posterior.root @ posterior.root.T, np.linalg.inv(hessian), rtol=1e-2, atol=1e-5)


def test_the_evidence_is_close_to_the_integral_over_w():
    differences, left_share, weights = votes(np.random.default_rng(2), n=60, d=1, w=np.array([1.0]))
    prior = np.array([2.0])

    def joint(w):
        return np.exp(-negative_log_posterior(np.array([w]), differences, left_share, weights, prior))

    integral = quad(joint, -10, 10)[0] / np.sqrt(2 * np.pi * prior[0])
    assert fit(differences, left_share, weights, prior).log_evidence == pytest.approx(np.log(integral), abs=0.02)


def test_swapping_the_sides_of_every_vote_changes_nothing():
    differences, left_share, weights = votes(np.random.default_rng(3))
    prior = np.ones(4)
    swapped = fit(-differences, 1 - left_share, weights, prior)
    np.testing.assert_allclose(swapped.mean, fit(differences, left_share, weights, prior).mean, atol=1e-12)


def test_a_vote_of_weight_two_counts_like_two_votes():
    differences, left_share, _ = votes(np.random.default_rng(4))
    prior = np.ones(4)
    doubled = fit(np.repeat(differences, 2, axis=0), np.repeat(left_share, 2), np.ones(240), prior)
    np.testing.assert_allclose(fit(differences, left_share, np.full(120, 2.0), prior).mean, doubled.mean, atol=1e-9)


def test_only_ties_teach_indifference():
    posterior = fit(np.random.default_rng(5).standard_normal((30, 3)), np.full(30, 0.5), np.ones(30), np.ones(3))
    np.testing.assert_allclose(posterior.mean, 0, atol=1e-12)


def test_perfectly_separable_votes_stay_finite():
    differences = np.abs(np.random.default_rng(6).standard_normal((50, 1)))
    posterior = fit(differences, np.ones(50), np.ones(50), np.array([1000.0]))
    assert np.isfinite(posterior.mean).all()
    assert (posterior.win_probability(differences) > 0.5).all()


def test_samples_average_to_the_mean_and_spread_like_the_posterior():
    posterior = fit(*votes(np.random.default_rng(7)), np.ones(4))
    np.testing.assert_allclose(posterior.samples(5, np.random.default_rng(0)).mean(axis=0), posterior.mean, atol=1e-12)
    many = posterior.samples(20_000, np.random.default_rng(0))
    covariance = posterior.root @ posterior.root.T
    np.testing.assert_allclose(np.cov(many.T), covariance, atol=0.05 * covariance.max())
    np.testing.assert_array_equal(posterior.samples(1, np.random.default_rng(0)), posterior.mean[None])


def test_block_scales_reach_the_evidence_that_a_grid_finds():
    rng = np.random.default_rng(8)
    differences, left_share, weights = votes(rng, n=300, d=8, w=np.array([2.0, -2, 1, 1, 0, 0, 0, 0]))
    scales, posterior = fit_block_scales(differences, left_share, weights, (4, 4))
    grid = np.geomspace(0.01, 1000, 16)
    best = max(fit(differences, left_share, weights, np.repeat([a, b], 4)).log_evidence for a in grid for b in grid)
    assert posterior.log_evidence > best - 0.3
    assert scales[0] > 10 * scales[1]
