"""How a classifier's classes are spread over a set of samples (thesis, figure 5.10): shares with Wilson's intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from app.domain.ratings import wilson_interval


@dataclass(frozen=True)
class ClassShare:
    """A class, how many of the samples fell into it, their share and its 95 % interval."""

    name: str
    count: int
    share: float
    low: float
    high: float


def class_shares(logits: Float[np.ndarray, "n c"], names: Sequence[str]) -> list[ClassShare]:
    """Shares of the classes with the highest logit, in the order of `names`.

    Raises:
        ValueError: there are no samples, or not one name a class.
    """
    n, classes = logits.shape
    if n == 0 or classes != len(names):
        raise ValueError("shares need at least one sample and one name for each class")
    counts = np.bincount(logits.argmax(axis=1), minlength=classes).tolist()
    return [
        ClassShare(name, count, count / n, *wilson_interval(count, n))
        for name, count in zip(names, counts, strict=True)
    ]


def merged_share(shares: Sequence[ClassShare], name: str, classes: slice) -> ClassShare:
    """Several classes as one, such as all ages from 50."""
    n = sum(share.count for share in shares)
    count = sum(share.count for share in shares[classes])
    return ClassShare(name, count, count / n, *wilson_interval(count, n))
