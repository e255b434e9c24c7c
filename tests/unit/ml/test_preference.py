"""Reward models on votes whose truth is known: synthetic features, and real critters rated by a simulated taste."""

import dataclasses

import numpy as np
import pytest

from app.client.tastes import TASTES, SimulatedRater
from app.domain.errors import CorruptDataError, JobCancelledError, JobError
from worker.ml.dicebear import render_avatar
from worker.ml.encoders import load_encoder
from worker.ml.image_features import COLOUR_DIM
from worker.ml.preference import (
    LabelledPair,
    PreferenceReward,
    RewardHead,
    image_features,
    reward_posterior,
    train_reward_model,
)
from worker.ml.progress import SilentMonitor

TASTE_DIRECTION = np.array([3.0, -2.0, 0.0, 0.0, 0.0, 0.0])
FEATURES = np.random.default_rng(0).standard_normal((80, 6))


def synthetic_votes(n=200, *, direction=TASTE_DIRECTION, seed=1, **fields):
    rng = np.random.default_rng(seed)
    rewards = FEATURES @ direction
    pairs = []
    for _ in range(n):
        i, j = (int(row) for row in rng.choice(len(FEATURES), 2, replace=False))
        left_share = float(rng.random() < 1 / (1 + np.exp(rewards[j] - rewards[i])))
        pairs.append(LabelledPair(i, j, left_share, **fields))
    return pairs


def train(pairs, *, features=FEATURES, ensemble=5, seed=0, monitor=None, blocks=(6,)):
    return train_reward_model(
        features, pairs, ensemble=ensemble, seed=seed, monitor=monitor or SilentMonitor(), blocks=blocks
    )


def test_the_head_finds_the_taste_behind_the_votes():
    head, report = train(synthetic_votes())
    fresh = np.random.default_rng(9).standard_normal((500, 6))
    assert np.corrcoef(head.mean(fresh), fresh @ TASTE_DIRECTION)[0, 1] > 0.97
    low, high = report.accuracy_interval
    assert low < report.accuracy < high
    assert report.accuracy > 0.8
    assert report.n_labels == 200
    assert report.n_heldout == 200


def test_votes_of_coin_flippers_harm_less_when_they_weigh_less():
    """Half of the votes are coin flips; at a coin flipper's weight they are nearly gone (mean of eight draws)."""

    def likeness(weight: float) -> float:
        found = []
        for seed in range(8):
            rng = np.random.default_rng(100 + seed)
            flips = [
                dataclasses.replace(pair, left_share=float(rng.integers(2)), weight=weight)
                for pair in synthetic_votes(60, seed=seed + 50)
            ]
            head, _ = train(synthetic_votes(60, seed=seed) + flips)
            fresh = np.random.default_rng(9).standard_normal((500, 6))
            found.append(np.corrcoef(head.mean(fresh), fresh @ TASTE_DIRECTION)[0, 1])
        return float(np.mean(found))

    assert likeness(0.1) > likeness(1.0) + 0.01


def test_the_published_uncertainty_is_that_of_margins_and_shrinks_with_votes():
    few, many = (reward_posterior(FEATURES, synthetic_votes(n), blocks=(6,)) for n in (40, 800))
    variance = [np.square(roots[:40] - roots[40:]).sum(1) for _, roots in (few, many)]
    assert (variance[1] < variance[0]).mean() > 0.95
    means, roots = many
    truth = FEATURES @ TASTE_DIRECTION
    error = (means[:40] - means[40:]) - (truth[:40] - truth[40:])
    assert 0.8 < (np.square(error) < 1.96**2 * np.square(roots[:40] - roots[40:]).sum(1)).mean() <= 1


def test_rewards_have_mean_0_and_standard_deviation_1_on_the_reference_set():
    rewards = train(synthetic_votes())[0].mean(FEATURES)
    assert rewards.mean() == pytest.approx(0, abs=1e-9)
    assert rewards.std() == pytest.approx(1)


def test_the_logit_scale_leads_back_to_the_odds_of_the_raters():
    head, _ = train(synthetic_votes(900, seed=3))
    logits = head.logit_scale * head.mean(FEATURES)
    truth = FEATURES @ TASTE_DIRECTION
    assert np.polyfit(truth - truth.mean(), logits, 1)[0] == pytest.approx(1, abs=0.25)


def test_coin_flips_cannot_be_predicted_on_images_that_were_held_out():
    _, report = train(synthetic_votes(direction=np.zeros(6), seed=5))
    low, high = report.accuracy_interval
    assert low < 0.5 < high or report.accuracy < 0.6


def test_a_leak_would_show_images_that_are_pure_names_teach_nothing_about_others():
    # Each image has a feature of its own: a model that saw either image of a held-out vote would do well above chance.
    names = np.eye(40)
    rng = np.random.default_rng(2)
    rewards = rng.standard_normal(40) * 5
    pairs = []
    for _ in range(400):
        i, j = (int(row) for row in rng.choice(40, 2, replace=False))
        pairs.append(LabelledPair(i, j, float(rewards[i] > rewards[j])))
    head, report = train(pairs, features=names, blocks=(40,))
    assert np.corrcoef(head.mean(names), rewards)[0, 1] > 0.9
    assert report.accuracy == pytest.approx(0.5, abs=0.12)


def test_the_same_seed_gives_the_same_head_to_the_byte():
    pairs = synthetic_votes(60)
    first, report = train(pairs, seed=0)
    again, repeated = train(pairs, seed=0)
    assert first.to_bytes() == again.to_bytes()
    assert dataclasses.replace(report, seconds=0) == dataclasses.replace(repeated, seconds=0)
    assert first.to_bytes() != train(pairs, seed=1)[0].to_bytes()


def test_more_heads_change_the_uncertainty_and_not_the_reward():
    pairs = synthetic_votes(60)
    one, many = train(pairs, ensemble=1)[0], train(pairs, ensemble=8)[0]
    np.testing.assert_allclose(one.mean(FEATURES), many.mean(FEATURES), atol=1e-9)
    assert (one.std(FEATURES) == 0).all()
    assert (many.std(FEATURES) > 0).all()


def test_heads_agree_more_after_more_votes():
    few, many = (train(synthetic_votes(n), ensemble=16)[0] for n in (40, 800))
    assert many.std(FEATURES).mean() < 0.6 * few.std(FEATURES).mean()


def test_ties_and_chosen_pairs_are_fitted_but_not_measured():
    pairs = synthetic_votes(100) + synthetic_votes(40, seed=2, random=False) + [LabelledPair(0, 1, 0.5)] * 10
    _, report = train(pairs)
    assert report.n_labels == 150
    assert report.n_heldout == 100


def test_the_human_ceiling_is_how_often_repeats_agree():
    pairs = synthetic_votes(60)
    repeats = [LabelledPair(p.right, p.left, 1 - p.left_share, rater="second") for p in pairs]
    assert train([*pairs, *repeats])[1].human_ceiling > 0.9


def test_the_learning_curve_ends_at_the_accuracy():
    _, report = train(synthetic_votes())
    assert [round(point["n_train"] / report.n_train, 2) for point in report.learning_curve] == [0.25, 0.5, 1.0]
    assert report.learning_curve[-1]["accuracy"] == report.accuracy


def test_too_few_votes_end_in_a_sentence():
    with pytest.raises(JobError, match="at least 10"):
        train(synthetic_votes(9) + [LabelledPair(0, 1, 0.5)] * 50)


def test_a_cancel_is_heard_between_folds():
    class Cancelled(SilentMonitor):
        def should_stop(self) -> bool:
            return True

    with pytest.raises(JobCancelledError):
        train(synthetic_votes(), monitor=Cancelled())


def test_progress_only_grows_and_ends_at_one():
    class Recorder(SilentMonitor):
        def __init__(self) -> None:
            self.fractions: list[float] = []

        def progress(self, fraction: float, *, stage: str) -> None:
            self.fractions.append(fraction)

    recorder = Recorder()
    train(synthetic_votes(60), monitor=recorder)
    assert recorder.fractions == sorted(recorder.fractions)
    assert recorder.fractions[-1] == 1.0


@pytest.fixture(scope="module")
def critters():
    return np.stack([render_avatar("critters", index, size=64) for index in range(96)])


@pytest.fixture(scope="module")
def critter_features(critters):
    return image_features(load_encoder("efficientnet-lite0"), critters)


@pytest.mark.parametrize("taste", ["warm", "bright"])
def test_300_votes_with_5_percent_error_teach_a_taste(critters, critter_features, taste):
    rng = np.random.default_rng(0)
    rater = SimulatedRater(TASTES[taste], error=0.05, seed=1)
    pairs = []
    for _ in range(300):
        i, j = (int(row) for row in rng.choice(len(critters), 2, replace=False))
        pairs.append(LabelledPair(i, j, rater.choose(critters[i], critters[j]).left_share))
    head, report = train_reward_model(critter_features, pairs, ensemble=5, seed=0, monitor=SilentMonitor())
    assert report.accuracy >= 0.8
    attribute = [TASTES[taste].attribute(image) for image in critters]
    assert np.corrcoef(head.mean(critter_features), attribute)[0, 1] > 0.9


class CountingEncoder:
    """Mean colour as an embedding; counts the images that it is asked for."""

    name, dim, has_text = "mean-colour", 3, False

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, images, *, batch_size=32):
        self.encoded += len(images)
        return images.reshape(len(images), -1, 3).mean(axis=1) / 255


IMAGES = np.random.default_rng(4).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
HEAD = RewardHead(np.random.default_rng(5).standard_normal((4, COLOUR_DIM + 3)), np.zeros(4), 1.0)


def test_a_preference_reward_is_the_mean_minus_k_times_the_disagreement():
    features = image_features(CountingEncoder(), IMAGES)
    np.testing.assert_allclose(PreferenceReward(CountingEncoder(), HEAD)(IMAGES), HEAD.mean(features))
    np.testing.assert_allclose(
        PreferenceReward(CountingEncoder(), HEAD, k=2.0)(IMAGES), HEAD.mean(features) - 2 * HEAD.std(features)
    )


def test_an_image_is_encoded_once():
    encoder = CountingEncoder()
    reward = PreferenceReward(encoder, HEAD)
    twice = reward(np.concatenate([IMAGES, IMAGES[::-1]]))
    np.testing.assert_array_equal(twice[:6], twice[6:][::-1])
    np.testing.assert_array_equal(reward(IMAGES), twice[:6])
    assert encoder.encoded == 6


def test_the_cache_forgets_and_the_rewards_stay_the_same():
    encoder = CountingEncoder()
    reward = PreferenceReward(encoder, HEAD, cache_size=2)
    np.testing.assert_array_equal(reward(IMAGES), reward(IMAGES))
    assert encoder.encoded == 10
    assert reward(IMAGES[:0]).shape == (0,)


def test_a_head_of_another_encoder_is_refused():
    with pytest.raises(CorruptDataError, match="mean-colour"):
        PreferenceReward(CountingEncoder(), RewardHead(np.zeros((1, 9)), np.zeros(1), 1.0))(IMAGES)
