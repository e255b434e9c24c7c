"""How good a reward model is on images that it never saw: cross-validation by image, intervals, calibration."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Predict = Callable[[Int[np.ndarray, " train"], Int[np.ndarray, " test"]], Float[np.ndarray, " test"]]
"""From row numbers of training votes and of test votes to P(left preferred) of the test votes."""

_Z95 = 1.959964


def image_folds(
    images: Int[np.ndarray, "p 2"], *, groups: int, rng: np.random.Generator
) -> Iterator[tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]]:
    """Splits of the votes in which no training vote shares an image with a test vote.

    Images fall into `groups` at random. For each unordered pair of groups {a, b} the votes between a and b are held out
    and the votes that touch neither group train, so every vote is held out exactly once, by a model that trained on
    about (1 - 2 / groups)^2 of the others. One split by image would throw the votes across it away: with random pairs,
    about half of them.
    """
    seen = np.unique(images)
    group_of = np.zeros(int(images.max()) + 1, np.int64)
    group_of[rng.permutation(seen)] = np.arange(len(seen)) % groups
    first, second = np.sort(group_of[images], axis=1).T
    for a, b in sorted(set(zip(first.tolist(), second.tolist(), strict=True))):
        touched = np.isin(first, (a, b)) | np.isin(second, (a, b))
        yield np.flatnonzero(~touched), np.flatnonzero((first == a) & (second == b))


def held_out_probabilities(
    images: Int[np.ndarray, "p 2"],
    predict: Predict,
    *,
    groups: int,
    rng: np.random.Generator,
    fraction: float = 1.0,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Float[np.ndarray, " p"], float]:
    """P(left preferred) of every vote, each from a model that saw neither of its images.

    Args:
        images: left and right image of each vote.
        groups: see `image_folds`.
        fraction: share of each fold's training votes to use, drawn at random (for learning curves).
        report: told the share of the votes that is done.

    Returns:
        the probabilities, NaN where no vote was left to train on, and the mean number of training votes.
    """
    probabilities = np.full(len(images), np.nan)
    n_train = 0.0
    done = 0
    for train, test in image_folds(images, groups=groups, rng=rng):
        kept = rng.permutation(train)[: round(fraction * len(train))]
        if len(kept) > 0:
            probabilities[test] = predict(kept, test)
        n_train += len(kept) * len(test) / len(images)
        done += len(test)
        report(done / len(images))
    return probabilities, n_train


def correctness(probability: Float[np.ndarray, " p"], left_share: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """1 where the more probable side was preferred, 0 where it was not, 0.5 where the model cannot tell."""
    return np.asarray(0.5 + 0.5 * np.sign(probability - 0.5) * np.sign(left_share - 0.5))


def clustered_interval(correct: Float[np.ndarray, " p"], images: Int[np.ndarray, "p 2"]) -> tuple[float, float]:
    """95 % interval of the mean of `correct` for votes that share images.

    Wilson's interval for as many independent votes as carry the same variance. That variance is the dyadic
    cluster-robust one: the sum of e_u e_v over all votes u, v with an image in common, over p^2 (Aronow, Samii and
    Assenova 2015, eq. 5). Sharing widens the interval and never narrows it.
    """
    n, share = len(correct), float(correct.mean())
    errors = correct - share
    by_image: dict[int, float] = defaultdict(float)
    by_pair: dict[tuple[int, int], float] = defaultdict(float)
    for (left, right), error in zip(images.tolist(), errors.tolist(), strict=True):
        by_image[left] += error
        by_image[right] += error
        by_pair[min(left, right), max(left, right)] += error
    # Votes on the very same pair share two images and would count twice.
    variance = (sum(e * e for e in by_image.values()) - sum(e * e for e in by_pair.values())) / n**2
    independent = float(np.square(errors).sum()) / n**2
    n_effective = n * independent / variance if variance > independent else float(n)
    return _wilson(share, n_effective)


def _wilson(share: float, n: float) -> tuple[float, float]:
    centre = share + _Z95**2 / (2 * n)
    half = _Z95 * np.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + _Z95**2 / n) for sign in (-1, 1))
    return max(0.0, float(low)), min(1.0, float(high))


def calibration(
    probability: Float[np.ndarray, " p"], left_share: Float[np.ndarray, " p"], *, bins: int = 10
) -> tuple[list[dict[str, float]], float]:
    """Reliability diagram and expected calibration error of P(left preferred).

    Returns:
        `{p, freq, n}` of every bin that is not empty (mean prediction, share that preferred left with ties as halves,
        number of votes), and the mean of |p - freq| weighted by n.
    """
    of_bin = np.minimum((probability * bins).astype(np.int64), bins - 1)
    table = []
    for index in np.unique(of_bin):
        members: Bool[np.ndarray, " p"] = of_bin == index
        table.append(
            {
                "p": float(probability[members].mean()),
                "freq": float(left_share[members].mean()),
                "n": int(members.sum()),
            }
        )
    error = sum(row["n"] * abs(row["p"] - row["freq"]) for row in table) / len(probability)
    return table, float(error)


def repeat_agreement(images: Int[np.ndarray, "p 2"], left_share: Sequence[float]) -> float | None:
    """How often two votes on one pair agree, over all such twos that are not ties; None where no pair was repeated.

    This is the human ceiling; `app.domain.estimates.predictable_share` is what it allows a model.
    """
    votes: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for (left, right), share in zip(images.tolist(), left_share, strict=True):
        if share != 0.5:
            votes[min(left, right), max(left, right)][(share > 0.5) == (left < right)] += 1
    agreed = sum(n * (n - 1) // 2 for sides in votes.values() for n in sides)
    twos = sum(sum(sides) * (sum(sides) - 1) // 2 for sides in votes.values())
    return agreed / twos if twos else None
