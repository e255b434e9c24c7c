"""What workers publish for pair selection, and the gain by which pairs are ranked, against exact matrices."""

import numpy as np
import pytest

from app.domain import uncertainty


def test_distances_of_sketches_are_the_variances_of_margins():
    rng = np.random.default_rng(0)
    z, root = rng.normal(size=(40, 20)), rng.normal(size=(20, 20)) / 5
    table = uncertainty.decode(uncertainty.encode(z @ rng.normal(size=20), z @ root))
    variance = np.square(table[3, 1:] - table[7, 1:]).sum()
    difference = z[3] - z[7]
    assert variance == pytest.approx(difference @ root @ root.T @ difference, rel=0.01)


def test_wide_sketches_keep_the_directions_that_matter():
    rng = np.random.default_rng(1)
    spectrum = 1 / (1 + np.arange(150.0)) ** 1.5
    roots = rng.normal(size=(200, 150)) * spectrum
    vectors = uncertainty.encode(np.zeros(200), roots)
    assert {len(vector) for vector in vectors} == {2 * (1 + uncertainty.SKETCH_DIM)}
    table = uncertainty.decode(vectors)[:, 1:]
    kept = np.square(table[:100] - table[100:]).sum(1)
    exact = np.square(roots[:100] - roots[100:]).sum(1)
    assert (kept / exact).mean() > 0.98
    assert (kept <= exact * 1.01).all()


def test_the_gain_is_what_a_vote_adds_to_the_log_determinant_of_the_precision():
    rng = np.random.default_rng(2)
    precision = np.diag(rng.uniform(5, 9, 6))  # so sharp that the win probability is hardly softened by it
    root = np.linalg.cholesky(np.linalg.inv(precision))
    z, w = rng.normal(size=(2, 6)), rng.normal(size=6) / 4
    table = np.concatenate([(z @ w)[:, None], z @ root], axis=1).astype(np.float32)
    difference = z[0] - z[1]
    p = 1 / (1 + np.exp(-(difference @ w) / np.sqrt(1 + np.pi / 8 * difference @ root @ root.T @ difference)))
    after = precision + p * (1 - p) * np.outer(difference, difference)
    gained = (np.linalg.slogdet(after)[1] - np.linalg.slogdet(precision)[1]) / 2
    assert uncertainty.information(table[:1], table[1:])[0] == pytest.approx(gained, rel=1e-5)


def test_what_is_known_and_what_is_decided_teach_nothing():
    known = np.array([[0.0, 1.0]], np.float32)
    assert uncertainty.information(known, np.array([[0.1, 1.0]], np.float32))[0] == 0
    decided = uncertainty.information(known, np.array([[60.0, 2.0]], np.float32))[0]
    assert decided < 1e-6 < uncertainty.information(known, np.array([[0.5, 2.0]], np.float32))[0]
