"""Splits by image, intervals and calibration against closed forms."""

import numpy as np
import pytest

from worker.ml.heldout import (
    calibration,
    clustered_interval,
    correctness,
    held_out_probabilities,
    image_folds,
    repeat_agreement,
)


def random_pairs(n_images=40, n_votes=120, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(n_images, 2, replace=False) for _ in range(n_votes)])


def test_no_training_vote_shares_an_image_with_a_held_out_one():
    images = random_pairs()
    for train, test in image_folds(images, groups=8, rng=np.random.default_rng(1)):
        assert not set(images[train].ravel()) & set(images[test].ravel())


def test_every_vote_is_held_out_exactly_once():
    images = random_pairs()
    held_out = np.concatenate([test for _, test in image_folds(images, groups=8, rng=np.random.default_rng(1))])
    assert sorted(held_out) == list(range(len(images)))


def test_most_other_votes_train_in_every_fold():
    images = random_pairs(n_images=400, n_votes=1000)
    sizes = [len(train) for train, _ in image_folds(images, groups=12, rng=np.random.default_rng(1))]
    assert np.mean(sizes) / 1000 == pytest.approx((1 - 2 / 12) ** 2, abs=0.03)


def test_predictions_come_from_the_fold_that_held_the_vote_out():
    images = random_pairs()

    def predict(train, test):
        return np.full(len(test), len(train) / len(images))

    probability, n_train = held_out_probabilities(images, predict, groups=8, rng=np.random.default_rng(1))
    for train, test in image_folds(images, groups=8, rng=np.random.default_rng(1)):
        np.testing.assert_array_equal(probability[test], len(train) / len(images))
    assert n_train == pytest.approx(probability.mean() * len(images))


def test_a_fraction_trains_on_that_share_of_the_votes():
    images = random_pairs(n_images=400, n_votes=1000)
    sizes = {}
    for fraction in (0.25, 1.0):
        _, sizes[fraction] = held_out_probabilities(
            images, lambda train, test: np.zeros(len(test)), groups=12, rng=np.random.default_rng(1), fraction=fraction
        )
    assert sizes[0.25] / sizes[1.0] == pytest.approx(0.25, abs=0.01)


def test_votes_that_nothing_is_left_to_train_for_have_no_prediction():
    probability, n_train = held_out_probabilities(
        np.array([[0, 1], [1, 0]]), lambda train, test: np.zeros(len(test)), groups=4, rng=np.random.default_rng(0)
    )
    assert np.isnan(probability).all()
    assert n_train == 0


def test_correctness_gives_half_a_point_to_a_model_that_cannot_tell():
    np.testing.assert_array_equal(
        correctness(np.array([0.9, 0.9, 0.2, 0.5]), np.array([1.0, 0.0, 0.0, 1.0])), [1, 0, 1, 0.5]
    )


def test_the_interval_of_votes_without_common_images_is_wilsons():
    images = np.arange(20).reshape(10, 2)
    low, high = clustered_interval(np.array([1.0] * 8 + [0.0] * 2), images)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))  # Newcombe 1998's method 3


def test_saying_every_vote_twice_does_not_narrow_the_interval():
    images = np.arange(80).reshape(40, 2)
    correct = np.array([1.0] * 30 + [0.0] * 10)
    once = clustered_interval(correct, images)
    # Half of the repeats have their sides swapped.
    again = np.where((np.arange(40) % 2 == 0)[:, None], images, images[:, ::-1])
    twice = clustered_interval(np.tile(correct, 2), np.concatenate([images, again]))
    assert twice == (pytest.approx(once[0]), pytest.approx(once[1]))


def test_votes_that_fail_together_on_one_image_widen_the_interval():
    star = np.array([[0, i] for i in range(1, 11)] + [[i, i + 100] for i in range(20, 50)])
    correct = np.array([0.0] * 10 + [1.0] * 30)
    low, high = clustered_interval(correct, star)
    wilson_low, wilson_high = clustered_interval(correct, np.arange(80).reshape(40, 2))
    assert low < wilson_low
    assert high > wilson_high


def test_an_interval_of_certain_success_still_has_a_width():
    low, high = clustered_interval(np.ones(30), random_pairs(n_votes=30))
    assert low == pytest.approx(30 / (30 + 1.959964**2))
    assert high == 1


def test_calibration_of_a_hand_made_table():
    table, error = calibration(np.array([0.15, 0.15, 0.95, 1.0]), np.array([0.0, 0.5, 1.0, 1.0]))
    assert table == [
        {"p": pytest.approx(0.15), "freq": 0.25, "n": 2},
        {"p": pytest.approx(0.975), "freq": 1.0, "n": 2},
    ]
    assert error == pytest.approx((2 * 0.1 + 2 * 0.025) / 4)


def test_agreement_is_counted_over_repeats_whichever_side_they_were_shown_on():
    images = np.array([[0, 1], [1, 0], [0, 1], [2, 3], [4, 5], [4, 5]])
    left_share = [1.0, 0.0, 0.0, 1.0, 1.0, 0.5]
    # Pair {0, 1}: votes for 0, 0 and 1: one agreement in three; {2, 3} once; {4, 5} has a tie.
    assert repeat_agreement(images, left_share) == pytest.approx(1 / 3)
    assert repeat_agreement(images[3:4], [1.0]) is None
