"""Near copies: samples whose nearest neighbour is closer than almost any two samples of the base are."""

import numpy as np
from jaxtyping import Float

_BASE_QUANTILE = 0.01


def nearest_neighbour_distances(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Cosine distance, in [0, 2], of every sample to the one that is most like it.

    Raises:
        ValueError: there are fewer than two embeddings.
    """
    if len(embeddings) < 2:
        raise ValueError("a nearest neighbour needs at least two embeddings")
    rows = np.asarray(embeddings, np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(np.clip(1 - cosines.max(axis=1), 0.0, 2.0))


def copy_threshold(base: Float[np.ndarray, "n d"]) -> float:
    """The distance below which two samples count as copies: the 1 % quantile of the base's nearest neighbours."""
    return float(np.quantile(nearest_neighbour_distances(base), _BASE_QUANTILE))


def count_copies(embeddings: Float[np.ndarray, "n d"], threshold: float) -> int:
    """How many samples have a neighbour at most `threshold` away."""
    return int(np.count_nonzero(nearest_neighbour_distances(embeddings) <= threshold))
