"""How different the images of a set are from one another: finetuning that collapses them has over-optimised."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

Embeddings = Float[np.ndarray, "n d"]


def vendi_score(embeddings: Embeddings) -> float:
    """Effective number of different images, in [1, n] (Friedman and Dieng 2022, arXiv:2210.02410, definition 3.1).

    The exponential of the Shannon entropy of the eigenvalues of K / n, where K holds the cosine similarities of the
    embeddings as they are (not centred). Rows must not be zero.

    Raises:
        ValueError: there are no embeddings, or one has no direction.
    """
    unit = _unit_rows(embeddings)
    # The Gram matrix over images and that over dimensions have the same eigenvalues; take the smaller one.
    gram = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    eigenvalues = np.linalg.eigvalsh(gram / len(unit))
    positive = eigenvalues[eigenvalues > 0]
    return float(np.exp(-np.sum(positive * np.log(positive))))


def mean_pairwise_distance(embeddings: Embeddings) -> float:
    """Mean cosine distance, 1 - cos, over all pairs of different images; in [0, 2].

    Raises:
        ValueError: there are fewer than two embeddings, or one has no direction.
    """
    n = len(embeddings)
    if n < 2:
        raise ValueError("a distance needs at least two embeddings")
    total = float(
        np.square(_unit_rows(embeddings).sum(axis=0)).sum()
    )  # the sum of all cosines, the n of 1 with itself too
    return 1.0 - (total - n) / (n * (n - 1))


def bootstrap_interval(
    embeddings: Embeddings,
    statistic: Callable[[Embeddings], float],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 200,
) -> tuple[float, float]:
    """Interval of a diversity over the choice of images: basic bootstrap over subsets of half the images.

    Drawing with replacement would repeat images, and repeats are exactly what diversity counts; halves drawn without
    replacement have none. The spread of a mean over n / 2 of n images drawn without replacement is that over n
    independent ones (Politis and Romano 1994 with b = n / 2), so quantiles around the halves' mean carry over to the
    whole set as they are.

    Raises:
        ValueError: there are fewer than four embeddings.
    """
    n = len(embeddings)
    if n < 4:
        raise ValueError("an interval needs at least four embeddings")
    # One thread: threads wait for one another on matrices this small, and their sums end in another order each time.
    with threadpool_limits(limits=1, user_api="blas"):
        whole = statistic(embeddings)
        halves = np.array([statistic(embeddings[rng.permutation(n)[: n // 2]]) for _ in range(resamples)])
    low, high = np.quantile(halves - halves.mean(), [(1 - level) / 2, (1 + level) / 2])
    return whole - float(high), whole - float(low)


def _unit_rows(embeddings: Embeddings) -> Float[np.ndarray, "n d"]:
    rows = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if len(rows) == 0 or not (norms > 0).all():
        raise ValueError("diversity needs embeddings, none of them zero")
    return np.asarray(rows / norms)
