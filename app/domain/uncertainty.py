"""How much the answer to a pair would teach the reward model: the uncertainty strategy ranks pairs by it. numpy alone.

The worker publishes of every sample a short vector in units of votes' log odds: the reward's mean, then a sketch of its
uncertainty such that the squared distance of two sketches is the posterior variance of the difference of their rewards
(the rows are z @ root of `bradley_terry.Posterior`, rotated onto their leading directions).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Sketches = NDArray[np.float32]

SKETCH_DIM = 32
"""Directions of the posterior that are kept: on the bundled model's samples they hold nearly all of the variance."""


def encode(means: NDArray[np.float64], roots: NDArray[np.float64]) -> list[bytes]:
    """One little-endian float16 vector a sample, from rewards (n) and sketches of any width (n, d).

    Of wider sketches the leading `SKETCH_DIM` principal directions are kept; distances shrink by what is dropped.
    """
    centred = roots - roots.mean(axis=0)
    if centred.shape[1] > SKETCH_DIM:
        _, axes = np.linalg.eigh(centred.T @ centred)
        centred = centred @ axes[:, -SKETCH_DIM:]
    table = np.concatenate([means[:, None] - means.mean(), centred], axis=1)
    return [row.tobytes() for row in np.clip(table, -60_000, 60_000).astype("<f2")]


def decode(vectors: Sequence[bytes]) -> Sketches:
    """The table that `encode` made, one row a sample."""
    return np.stack([np.frombuffer(vector, "<f2") for vector in vectors]).astype(np.float32)


def information(first: Sketches, second: Sketches) -> NDArray[np.float64]:
    """Expected gain of asking each pair, in nats: log(1 + p (1 - p) v) / 2 with the pair's win probability p and the
    variance v of its margin.

    This is what one vote adds to the log determinant of the posterior's precision, the Fisher information of the head's
    last layer under D-optimal design (Chaloner & Verdinelli 1995; for reward models arXiv:2502.04354). A pair is worth
    asking where its answer is open and depends on what is not known yet.
    """
    difference = (first - second).astype(np.float64)
    margin, variance = difference[:, 0], np.square(difference[:, 1:]).sum(axis=1)
    p = 1 / (1 + np.exp(-margin / np.sqrt(1 + np.pi * variance / 8)))
    return np.asarray(np.log1p(p * (1 - p) * variance) / 2)
