"""The cache, and the checks that every reward's answer goes through."""

import numpy as np
import pytest

from app.domain.errors import JobError, UnavailableError
from worker.ml.rewards import CheckedReward
from worker.ml.rewards.cache import CachedReward

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


class Counting:
    """Mean of the pixels; remembers how many images each call was given."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.calls.append(len(images))
        return images.mean(axis=(1, 2, 3))


def test_a_second_pass_over_the_same_images_computes_nothing() -> None:
    counting = Counting()
    reward = CachedReward(counting)
    first, second = reward(IMAGES), reward(IMAGES[::-1])
    np.testing.assert_array_equal(first, IMAGES.mean(axis=(1, 2, 3)))
    np.testing.assert_array_equal(second, first[::-1])
    assert counting.calls == [6]


def test_only_new_images_are_computed_and_repeats_once() -> None:
    counting = Counting()
    reward = CachedReward(counting)
    reward(IMAGES[:2])
    values = reward(IMAGES[[0, 3, 3, 1, 4]])
    np.testing.assert_array_equal(values, IMAGES[[0, 3, 3, 1, 4]].mean(axis=(1, 2, 3)))
    assert counting.calls == [2, 2]


def test_the_cache_forgets_what_was_asked_for_longest_ago() -> None:
    counting = Counting()
    reward = CachedReward(counting, capacity=2)
    reward(IMAGES[:2])
    reward(IMAGES[:1])  # 0 is now younger than 1
    reward(IMAGES[2:3])  # pushes 1 out
    reward(IMAGES[:1])
    assert counting.calls == [2, 1]
    reward(IMAGES[1:2])
    assert counting.calls == [2, 1, 1]


def test_images_of_the_same_bytes_but_another_shape_are_others() -> None:
    counting = Counting()
    reward = CachedReward(counting)
    reward(np.zeros((1, 4, 16, 3), np.uint8))
    reward(np.zeros((1, 8, 8, 3), np.uint8))
    assert counting.calls == [1, 1]


def test_a_batch_larger_than_the_cache_is_still_answered_whole() -> None:
    np.testing.assert_array_equal(CachedReward(Counting(), capacity=2)(IMAGES), IMAGES.mean(axis=(1, 2, 3)))


@pytest.mark.parametrize("images", [IMAGES / 127.5 - 1, IMAGES.transpose(0, 3, 1, 2), IMAGES[0]])
def test_undecoded_images_never_reach_a_reward(images: np.ndarray) -> None:
    counting = Counting()
    with pytest.raises(JobError, match=r"'mean'.*decoded"):
        CheckedReward("mean", counting)(images)
    assert counting.calls == []


def test_a_reward_that_raises_is_named() -> None:
    def broken(images: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("no luck")

    with pytest.raises(JobError, match="'unlucky' failed: ZeroDivisionError: no luck"):
        CheckedReward("unlucky", broken)(IMAGES)


def test_a_reward_that_explains_itself_keeps_its_words() -> None:
    def away(images: np.ndarray) -> np.ndarray:
        raise UnavailableError("The service is away; start it.")

    with pytest.raises(UnavailableError, match="start it"):
        CheckedReward("remote", away)(IMAGES)
