"""The preference reward: votes on pairs of images become a reward model with an honest report of how good it is.

Features of a frozen encoder and of colour maps -> principal components, block by block -> Bayesian Bradley-Terry
regression. Linear rewards on purpose: they keep rising beyond the images that were rated, where finetuning goes.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from threadpoolctl import threadpool_limits

from app.domain.errors import CorruptDataError, JobCancelledError, JobError
from worker.ml import bradley_terry, heldout
from worker.ml.block_components import BlockComponents, block_components
from worker.ml.encoders import Encoder
from worker.ml.image_features import colour_features, feature_blocks, join_features
from worker.ml.progress import Monitor
from worker.ml.reward_head import RewardHead

__all__ = [
    "LabelledPair",
    "PreferenceReward",
    "RewardHead",
    "RewardModelReport",
    "colour_features",
    "image_features",
    "reward_posterior",
    "train_reward_model",
]

MIN_VOTES = 10
"""Fewer votes that prefer a side than this cannot be learned from."""

_COMPONENTS = 48
"""Principal components kept of each block of features."""

_GROUPS = 12
"""Groups of images in the cross-validation; half as many from `_MANY_VOTES` votes on, where fewer suffice to train."""

_MANY_VOTES = 1000

_CURVE = (0.25, 0.5)
"""Shares of the training votes in the learning curve, beside all of them."""


@dataclass(frozen=True)
class LabelledPair:
    """One vote; `left` and `right` are rows of the image table."""

    left: int
    right: int
    left_share: float
    """1 for left, 0 for right, 0.5 for a tie."""
    weight: float = 1.0
    """How much the vote counts in the fit."""
    rater: str = ""
    random: bool = True
    """Whether the pair was chosen at random; accuracy is measured on those alone."""


@dataclass(frozen=True)
class RewardModelReport:
    """How well a reward model predicts votes on images that it never saw (see `heldout`)."""

    n_labels: int
    """Votes that were fitted, ties included."""
    n_train: int
    """Mean number of votes behind a held-out prediction; the head itself is fitted to all `n_labels`."""
    n_heldout: int
    """Held-out votes that preferred a side, on pairs chosen at random: what `accuracy` is the share of."""
    accuracy: float | None
    """None where no vote could be held out."""
    accuracy_interval: tuple[float, float] | None
    """95 %, clustered by image."""
    ece: float | None
    """Expected calibration error of P(left preferred), ties counted as halves."""
    calibration: list[dict[str, float]]
    """Reliability diagram: `{p, freq, n}`."""
    human_ceiling: float | None
    """How often two votes on one pair agree; None where no pair was repeated."""
    learning_curve: list[dict[str, float]]
    """`{n_train, accuracy}`, growing."""
    seconds: float


def image_features(encoder: Encoder, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """The features that `train_reward_model` and `PreferenceReward` use: colour maps, then the encoder's embedding."""
    return join_features(colour_features(images), encoder.encode(images))


def train_reward_model(
    features: Float[np.ndarray, "n d"],
    pairs: Sequence[LabelledPair],
    *,
    ensemble: int,
    seed: int,
    monitor: Monitor,
    blocks: Sequence[int] | None = None,
) -> tuple[RewardHead, RewardModelReport]:
    """Fit a reward head to votes and measure it on images held out from fits of the same kind.

    Args:
        features: of every image in the table, rated or not: all of them shape the principal components (no labels are
            involved) and are the reference set on which rewards have mean 0 and standard deviation 1.
        ensemble: number of heads: draws from the posterior that average to its mode.
        blocks: widths of the blocks of features; each gets a prior variance of its own by the evidence. Empty means
            the layout of `image_features`.

    Raises:
        JobError: too few votes, or no preference to be found in them.
        JobCancelledError: a cancel was asked for.
    """
    started = time.monotonic()
    if (decided := sum(pair.left_share != 0.5 for pair in pairs)) < MIN_VOTES:
        raise JobError(f"A reward model needs at least {MIN_VOTES} votes that prefer a side; there are {decided}.")
    rng = np.random.default_rng(seed)
    components = block_components(
        features, feature_blocks(features.shape[1]) if blocks is None else tuple(blocks), keep=_COMPONENTS
    )
    votes = _Votes.of(pairs, components)
    # The matrices are small: more threads wait for one another, up to seven times longer on a busy machine (measured).
    with threadpool_limits(limits=1, user_api="blas"):
        probability, curve, n_train = _measure(votes, rng, monitor)
        monitor.progress(0.9, stage="fitting the heads to all votes")
        head = _standardised_head(components, votes.fit(slice(None)).samples(ensemble, rng))
    report = _report(votes, probability, curve, n_train, seconds=time.monotonic() - started)
    monitor.progress(1.0, stage="trained")
    return head, report


def reward_posterior(
    features: Float[np.ndarray, "n d"], pairs: Sequence[LabelledPair], *, blocks: Sequence[int] | None = None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n z"]]:
    """Of every image its mean reward in log odds of votes, and z @ root: squared distances of two such rows are the
    posterior variance of the difference of their rewards. What `app.domain.uncertainty` publishes for pair selection.
    """
    components = block_components(
        features, feature_blocks(features.shape[1]) if blocks is None else tuple(blocks), keep=_COMPONENTS
    )
    with threadpool_limits(limits=1, user_api="blas"):
        posterior = _Votes.of(pairs, components).fit(slice(None))
    return components.values @ posterior.mean, components.values @ posterior.root


class PreferenceReward:
    """A learned reward of decoded images: mean over the heads minus `k` times their disagreement.

    Standardised on the head's reference set. Remembers the features of the last images, so that scoring the fixed
    evaluation samples twice costs nothing.
    """

    def __init__(self, encoder: Encoder, head: RewardHead, *, k: float = 0.0, cache_size: int = 4096) -> None:
        self._encoder = encoder
        self._head = head
        self._k = k
        self._cache_size = cache_size
        self._features: dict[bytes, Float[np.ndarray, " d"]] = {}

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, " n"]:
        """Rewards in the order of `images`.

        Raises:
            CorruptDataError: the head was trained on the features of another encoder.
        """
        if len(images) == 0:
            return np.zeros(0)
        features = self._cached_features(images)
        if features.shape[1] != self._head.dim:
            raise CorruptDataError(
                f"The reward model takes {self._head.dim} features and the encoder {self._encoder.name} gives "
                f"{features.shape[1]}; use the encoder that the model was trained with."
            )
        rewards = self._head.mean(features)
        return rewards - self._k * self._head.std(features) if self._k else rewards

    def _cached_features(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        shape = repr(images.shape[1:]).encode()
        keys = [hashlib.sha256(shape + image.tobytes()).digest() for image in images]
        new = {key: row for row, key in enumerate(keys) if key not in self._features}
        known = {key: self._features[key] for key in keys if key in self._features}
        if new:
            known |= dict(zip(new, image_features(self._encoder, images[list(new.values())]), strict=True))
            self._features |= known
            for oldest in list(self._features)[: max(0, len(self._features) - self._cache_size)]:
                del self._features[oldest]
        return np.stack([known[key] for key in keys])


@dataclass(frozen=True)
class _Votes:
    """The votes as arrays, in the space of the components."""

    images: Int[np.ndarray, "p 2"]
    differences: Float[np.ndarray, "p z"]
    left_share: Float[np.ndarray, " p"]
    weights: Float[np.ndarray, " p"]
    random: Bool[np.ndarray, " p"]
    measured: Bool[np.ndarray, " p"]
    """Votes that preferred a side on a pair chosen at random."""
    widths: tuple[int, ...]

    @classmethod
    def of(cls, pairs: Sequence[LabelledPair], components: BlockComponents) -> Self:
        images = np.array([(pair.left, pair.right) for pair in pairs])
        return cls(
            images=images,
            differences=components.values[images[:, 0]] - components.values[images[:, 1]],
            left_share=np.array([pair.left_share for pair in pairs]),
            weights=np.array([pair.weight for pair in pairs]),
            random=np.array([pair.random for pair in pairs]),
            measured=np.array([pair.random and pair.left_share != 0.5 for pair in pairs]),
            widths=components.widths,
        )

    def fit(self, rows: Int[np.ndarray, " m"] | slice) -> bradley_terry.Posterior:
        """Prior variances and posterior from some of the votes and from nothing else."""
        _, posterior = bradley_terry.fit_block_scales(
            self.differences[rows], self.left_share[rows], self.weights[rows], self.widths
        )
        return posterior

    def predict(self, train: Int[np.ndarray, " m"], test: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        return self.fit(train).win_probability(self.differences[test])


def _measure(
    votes: _Votes, rng: np.random.Generator, monitor: Monitor
) -> tuple[Float[np.ndarray, " p"], list[dict[str, float]], float]:
    """Held-out P(left preferred) of every vote (NaN where none could be made), the learning curve, and `n_train`."""
    groups = _GROUPS if len(votes.images) <= _MANY_VOTES else _GROUPS // 2
    curve: list[dict[str, float]] = []
    shares = (*_CURVE, 1.0)
    for step, fraction in enumerate(shares):

        def report(done: float, step: int = step) -> None:
            monitor.progress(0.9 * (step + done) / len(shares), stage="measuring on held-out images")
            if monitor.should_stop():
                raise JobCancelledError("Cancelled while the reward model was being measured; nothing was stored.")

        probability, n_train = heldout.held_out_probabilities(
            votes.images, votes.predict, groups=groups, rng=rng, fraction=fraction, report=report
        )
        rows = votes.measured & ~np.isnan(probability)
        if rows.any():
            correct = heldout.correctness(probability[rows], votes.left_share[rows])
            curve.append({"n_train": n_train, "accuracy": float(correct.mean())})
    return probability, curve, n_train


def _report(
    votes: _Votes,
    probability: Float[np.ndarray, " p"],
    curve: list[dict[str, float]],
    n_train: float,
    *,
    seconds: float,
) -> RewardModelReport:
    measured = votes.measured & ~np.isnan(probability)
    known = ~np.isnan(probability)
    calibrated = known & votes.random if (known & votes.random).any() else known
    correct = heldout.correctness(probability[measured], votes.left_share[measured])
    has_any = bool(measured.any())
    table, ece = heldout.calibration(probability[calibrated], votes.left_share[calibrated])
    return RewardModelReport(
        n_labels=len(votes.images),
        n_train=round(n_train),
        n_heldout=int(measured.sum()),
        accuracy=float(correct.mean()) if has_any else None,
        accuracy_interval=heldout.clustered_interval(correct, votes.images[measured]) if has_any else None,
        ece=ece,
        calibration=table,
        human_ceiling=heldout.repeat_agreement(votes.images[votes.random], votes.left_share[votes.random].tolist()),
        learning_curve=curve,
        seconds=seconds,
    )


def _standardised_head(components: BlockComponents, heads: Float[np.ndarray, "e z"]) -> RewardHead:
    """Heads over raw features whose mean reward has mean 0 and standard deviation 1 on the reference set."""
    reference = components.values @ heads.mean(axis=0)
    unit = float(reference.std())
    if not unit > 1e-6:
        raise JobError("No preference can be told from these votes: they look like coin flips. Collect more of them.")
    weights = heads @ components.projection.T / unit
    bias = -(weights @ components.mean)
    return RewardHead(weights=weights, bias=bias, logit_scale=unit)
