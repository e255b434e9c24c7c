"""What raters together think of each image, and how closely one of them follows it. numpy alone.

Bradley-Terry log-strengths of images with a normal prior, fitted by Newton's method with conjugate gradients: a vote
costs a few additions a step, so a hundred thousand votes take about a second.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.estimates import Z_95, Estimate
from app.domain.ratings import Floats, Ints

PRIOR_SD = 1.5
"""Standard deviation of the images' log-strengths before any vote. It keeps images with one vote near the middle."""

FOLDS = 5
"""A rater is held against a consensus that was fitted without them: raters fall into this many groups."""

SLOPE_PRIOR = (1.0, 2.0)
"""Mean and standard deviation of a rater's slope before their votes: like the others, but it need not be."""

_LEAN_PRIOR_SD = 1.5
_LEAST_COMMON_SLOPE = 0.1
"""Where raters have nothing in common, their slopes are not blown up by dividing by it."""

_NEWTON_STEPS = 30
_CG_STEPS = 60


@dataclass(frozen=True)
class Ballots:
    """Votes as arrays: rater `rater[v]` gave image `left[v]` the share `score[v]` (1, 0.5, 0) against `right[v]`."""

    rater: Ints
    left: Ints
    right: Ints
    score: Floats

    def __len__(self) -> int:
        return len(self.score)

    def rows(self, chosen: NDArray[np.bool_]) -> "Ballots":
        return Ballots(self.rater[chosen], self.left[chosen], self.right[chosen], self.score[chosen])


def strengths(ballots: Ballots, n_images: int, *, prior_sd: float = PRIOR_SD) -> Floats:
    """Posterior mode of the log-strengths of `n_images` images, each N(0, prior_sd^2) before the votes."""
    left, right = ballots.left, ballots.right
    precision = 1 / prior_sd**2
    s = np.zeros(n_images)

    def scatter(values: Floats) -> Floats:
        return np.asarray(np.bincount(left, values, n_images) - np.bincount(right, values, n_images), np.float64)

    def value(s: Floats) -> float:
        return _log_likelihood(s[left] - s[right], ballots.score) - precision / 2 * float(s @ s)

    for _ in range(_NEWTON_STEPS):
        chance = _sigmoid(s[left] - s[right])
        gradient = scatter(ballots.score - chance) - precision * s
        information = chance * (1 - chance)

        def hessian(v: Floats, information: Floats = information) -> Floats:
            return scatter(information * (v[left] - v[right])) + precision * v

        step = _conjugate_gradients(hessian, gradient)
        s = _climb(value, s, step)
        if float(np.abs(step).max(initial=0.0)) < 1e-6:
            break
    return s


def slopes(ballots: Ballots, n_raters: int, n_images: int) -> list[Estimate]:
    """How strongly each rater follows the others: 1 as raters do on the whole, 0 a coin flip, below 0 against them.

    P(rater chooses left) = sigmoid(slope * c * (s_left - s_right) + lean) with the others' log-strengths s, ties
    counted half; c is the one slope that fits everybody's votes best, and the lean to one side is the rater's own, so
    that it does not pass for disagreement. The interval is the slope's at 95 % by Laplace's approximation. None for
    raters whose images nobody else judged.
    """
    estimates = [Estimate(None, None, 0)] * n_raters
    margin = _held_out_margins(ballots, n_raters, n_images)
    known = ~np.isnan(margin)
    if not known.any():
        return estimates
    ballots, margin = ballots.rows(known), margin[known]
    common = _slope(margin, ballots.score).value
    for rater in np.unique(ballots.rater):
        own = ballots.rater == rater
        estimates[rater] = _slope(max(common or 0.0, _LEAST_COMMON_SLOPE) * margin[own], ballots.score[own])
    return estimates


def _held_out_margins(ballots: Ballots, n_raters: int, n_images: int) -> Floats:
    """s_left - s_right of every vote by raters of other groups; NaN where they did not judge both images."""
    margin: Floats = np.full(len(ballots), np.nan)
    fold_of = _folds(ballots.rater, n_raters)
    for fold in range(int(fold_of.max(initial=-1)) + 1):
        mine = fold_of[ballots.rater] == fold
        others = ballots.rows(~mine)
        known = np.zeros(n_images, bool)
        known[others.left] = known[others.right] = True
        consensus = np.where(known, strengths(others, n_images), np.nan)
        margin[mine] = consensus[ballots.left[mine]] - consensus[ballots.right[mine]]
    return margin


def _slope(margin: Floats, score: Floats) -> Estimate:
    mean, sd = SLOPE_PRIOR
    prior = np.array([mean, 0.0])
    precision = np.diag([1 / sd**2, 1 / _LEAN_PRIOR_SD**2])
    design = np.stack([margin, np.ones_like(margin)], axis=1)
    w = prior.copy()

    def value(w: Floats) -> float:
        return _log_likelihood(design @ w, score) - float((w - prior) @ precision @ (w - prior)) / 2

    for _ in range(_NEWTON_STEPS):
        chance = _sigmoid(design @ w)
        gradient = design.T @ (score - chance) - precision @ (w - prior)
        hessian = (design * (chance * (1 - chance))[:, None]).T @ design + precision
        step = np.linalg.solve(hessian, gradient)
        w = _climb(value, w, step)
        if float(np.abs(step).max()) < 1e-9:
            break
    half = Z_95 * float(np.sqrt(np.linalg.inv(hessian)[0, 0]))
    return Estimate(float(w[0]), (float(w[0]) - half, float(w[0]) + half), len(score))


def _climb(value: Callable[[Floats], float], start: Floats, step: Floats) -> Floats:
    """The full step, or as many halvings of it as make `value` no smaller: Newton's alone may leap back and forth."""
    before = value(start)
    for _ in range(20):
        if value(start + step) >= before:
            break
        step = step / 2
    return start + step


def _log_likelihood(logits: Floats, score: Floats) -> float:
    return float((score * logits - np.logaddexp(0, logits)).sum())


def _folds(rater: Ints, n_raters: int) -> Ints:
    """Raters dealt out by their number of votes, so that no group holds most of them."""
    folds: Ints = np.zeros(n_raters, np.int64)
    busiest = np.argsort(-np.bincount(rater, minlength=n_raters), kind="stable")
    folds[busiest] = np.arange(n_raters) % min(FOLDS, max(n_raters, 1))
    return folds


def _conjugate_gradients(product: Callable[[Floats], Floats], b: Floats) -> Floats:
    """x with product(x) = b for a positive definite product."""
    x = np.zeros_like(b)
    residual = b.copy()
    direction = residual.copy()
    size = float(residual @ residual)
    target = 1e-12 * max(size, 1e-30)
    for _ in range(_CG_STEPS):
        if size <= target:
            break
        image = product(direction)
        along = size / float(direction @ image)
        x = x + along * direction
        residual = residual - along * image
        new_size = float(residual @ residual)
        direction = residual + (new_size / size) * direction
        size = new_size
    return x


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))
