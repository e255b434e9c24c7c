"""The map of a model's images before and after finetuning (thesis, figure 5.14): embeddings in two dimensions."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from app.domain.errors import JobError

Method = Literal["pca", "tsne"]

_TSNE_INPUT_DIMENSIONS = 50  # as van der Maaten and Hinton (2008) reduce first: noise off, time down
_PERPLEXITY = 30.0
_ALIKE = 1e-10
"""Total variance of unit embeddings below which they differ by rounding alone."""


@dataclass(frozen=True)
class EmbeddingMap:
    """Base and finetuned samples in one plane; row i of both comes from the same noise."""

    base: Float[np.ndarray, "n 2"]
    finetuned: Float[np.ndarray, "n 2"]
    explained_variance: tuple[float, float] | None
    """Shares of the variance along the two axes; None for t-SNE, whose axes have no meaning."""


def map_embeddings(
    base: Float[np.ndarray, "n d"], finetuned: Float[np.ndarray, "n d"], *, method: Method, seed: int
) -> EmbeddingMap:
    """Lay both sets out together, on unit-length embeddings, repeatably for a seed.

    Raises:
        JobError: fewer than three samples, the two sets do not pair up, or all images embed alike.
    """
    if len(base) != len(finetuned) or len(base) < 3:
        raise JobError("A map needs at least three samples, each drawn from the same noise by both models.")
    together = _unit_rows(np.concatenate([base, finetuned]))
    if _variance(together) < _ALIKE:  # t-SNE does not survive it
        raise JobError("There is nothing to map: the encoder sees no difference between any of these images.")
    with threadpool_limits(limits=1):  # sums over several threads end in a different order each time
        if method == "pca":
            pca = PCA(n_components=2, svd_solver="full")
            points = pca.fit_transform(together)
            first, second = (float(share) for share in pca.explained_variance_ratio_)
            return EmbeddingMap(points[: len(base)], points[len(base) :], (first, second))
        points = _tsne(together, seed)
    return EmbeddingMap(points[: len(base)], points[len(base) :], None)


def spread_ratio(base: Float[np.ndarray, "n d"], finetuned: Float[np.ndarray, "n d"]) -> float | None:
    """Total variance of the finetuned unit embeddings over the base's: below 1 the images have drawn together. None
    where the base's are all alike."""
    before, after = _variance(_unit_rows(base)), _variance(_unit_rows(finetuned))
    return None if before < _ALIKE else after / before


def _variance(rows: Float[np.ndarray, "n d"]) -> float:
    return float(rows.var(axis=0).sum())


def _tsne(embeddings: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    dimensions = min(_TSNE_INPUT_DIMENSIONS, *embeddings.shape)
    reduced = PCA(n_components=dimensions, svd_solver="full").fit_transform(embeddings)
    perplexity = min(_PERPLEXITY, (len(reduced) - 1) / 3)
    tsne = TSNE(n_components=2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    return np.asarray(tsne.fit_transform(reduced), np.float64)


def _unit_rows(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    rows = np.asarray(embeddings, np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
