"""Bradley-Terry regression: linear rewards fitted to preferences as a Bayesian, so that nothing needs early stopping.

P(i preferred to j) = sigmoid(w . (z_i - z_j)), w ~ N(0, diag(prior_variance)): a concave problem with one optimum,
solved by Newton's method; Laplace's approximation around it gives the uncertainty of w and the evidence by which prior
variances are compared (MacKay 2003, chapters 27, 28 and 41).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve, solve_triangular

_NEWTON_STEPS = 50
_TOLERANCE = 1e-6
"""Newton stops where the next step would gain less than this, in nats."""

PRIOR_VARIANCES = (0.01, 1000.0)
"""Bounds of a block's prior variance; blocks have unit mean squared norm, so 1 means rewards of about one nat."""

_FIRST_VARIANCE = 10.0
_FIXED_POINT_STEPS = 20
_SETTLED = 0.2
"""The fixed point has settled when no variance changes by more than this, in logs."""


@dataclass(frozen=True)
class Posterior:
    """Laplace's approximation of p(w | votes): N(mean, covariance)."""

    mean: Float[np.ndarray, " d"]
    root: Float[np.ndarray, "d d"]
    """A root of the covariance: covariance = root @ root.T."""
    log_evidence: float

    def samples(self, n: int, rng: np.random.Generator) -> Float[np.ndarray, "n d"]:
        """`n` draws of w, shifted and scaled so that they average exactly to `mean` and keep an unbiased covariance."""
        if n == 1:
            return self.mean[None]
        deviations = rng.standard_normal((n, len(self.mean))) @ self.root.T
        deviations -= deviations.mean(axis=0)
        return np.asarray(self.mean + deviations * np.sqrt(n / (n - 1)))

    def win_probability(self, differences: Float[np.ndarray, "p d"]) -> Float[np.ndarray, " p"]:
        """P(first preferred to second), the uncertainty of w integrated out (MacKay 1992's probit approximation)."""
        variance = np.square(differences @ self.root).sum(axis=1)
        return sigmoid(differences @ self.mean / np.sqrt(1 + np.pi * variance / 8))


def sigmoid(x: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def fit(
    differences: Float[np.ndarray, "p d"],
    left_share: Float[np.ndarray, " p"],
    weights: Float[np.ndarray, " p"],
    prior_variance: Float[np.ndarray, " d"],
    *,
    start: Float[np.ndarray, " d"] | None = None,
) -> Posterior:
    """The posterior of w given `p` votes.

    Args:
        differences: features of the left image minus those of the right one.
        left_share: 1 for left, 0 for right, 0.5 for a tie.
        weights: how much each vote counts.
        prior_variance: positive, one a feature.
        start: where Newton's method begins; zero unless given, and no matter for the result.
    """
    scale = np.sqrt(prior_variance)
    # In units of the prior's standard deviation the prior is N(0, 1) and the problem is well conditioned.
    scaled = differences * scale
    w = np.zeros(scaled.shape[1]) if start is None else start / scale
    value = _log_posterior(scaled, left_share, weights, w)
    factor = None
    for _ in range(_NEWTON_STEPS):
        chance = sigmoid(scaled @ w)
        gradient = scaled.T @ (weights * (left_share - chance)) - w
        hessian = (scaled * (weights * chance * (1 - chance))[:, None]).T @ scaled + np.eye(len(w))
        factor = cho_factor(hessian, lower=True)
        step = cho_solve(factor, gradient)
        gain = float(gradient @ step)
        if gain < _TOLERANCE:
            break
        size = 1.0
        while (new_value := _log_posterior(scaled, left_share, weights, w + size * step)) < value + 1e-4 * size * gain:
            size /= 2
        w, value = w + size * step, new_value
    assert factor is not None
    lower = np.tril(factor[0])
    root = solve_triangular(lower, np.eye(len(w)), lower=True).T
    return Posterior(
        mean=w * scale,
        root=root * scale[:, None],
        log_evidence=value - float(np.log(np.diag(lower)).sum()),
    )


def fit_block_scales(
    differences: Float[np.ndarray, "p d"],
    left_share: Float[np.ndarray, " p"],
    weights: Float[np.ndarray, " p"],
    widths: Sequence[int],
) -> tuple[tuple[float, ...], Posterior]:
    """Prior variances, one a block of features, that make the votes most probable, and the posterior under them.

    MacKay's fixed point on the evidence: a block's variance is the squared length of its part of w over the number of
    its directions that the votes determine, gamma (MacKay 1992, eq. 4.9). A block that says nothing shrinks to the
    lower bound of `PRIOR_VARIANCES`.

    Args:
        widths: number of features in each block, in order; they sum to `d`.
    """
    variances = np.full(len(widths), _FIRST_VARIANCE)
    edges = np.cumsum([0, *widths[:-1]])
    posterior = fit(differences, left_share, weights, np.repeat(variances, widths))
    for _ in range(_FIXED_POINT_STEPS):
        length = np.add.reduceat(np.square(posterior.mean), edges)
        undetermined = np.add.reduceat(np.square(posterior.root).sum(axis=1), edges) / variances
        gamma = np.maximum(np.array(widths) - undetermined, 1e-9)
        updated = np.clip(length / gamma, *PRIOR_VARIANCES)
        change = float(np.abs(np.log(updated / variances)).max())
        variances = updated
        posterior = fit(differences, left_share, weights, np.repeat(variances, widths), start=posterior.mean)
        if change < _SETTLED:
            break
    return tuple(variances.tolist()), posterior


def _log_posterior(
    scaled: Float[np.ndarray, "p d"],
    left_share: Float[np.ndarray, " p"],
    weights: Float[np.ndarray, " p"],
    w: Float[np.ndarray, " d"],
) -> float:
    logits = scaled @ w
    log_likelihood = weights @ (left_share * logits - np.logaddexp(0, logits))
    return float(log_likelihood - 0.5 * w @ w)
