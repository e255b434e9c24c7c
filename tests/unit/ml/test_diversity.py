import numpy as np
import pytest

from worker.ml.diversity import bootstrap_interval, mean_pairwise_distance, vendi_score


def test_images_that_are_all_the_same_count_as_one():
    assert vendi_score(np.tile([[3.0, 4.0, 0.0]], (7, 1))) == pytest.approx(1)


@pytest.mark.parametrize(("n", "d"), [(5, 5), (5, 40)])
def test_images_that_have_nothing_in_common_count_fully(n, d):
    assert vendi_score(5.0 * np.eye(n, d)) == pytest.approx(n)


def test_groups_of_copies_count_as_many_as_there_are_groups():
    assert vendi_score(np.eye(3).repeat(4, axis=0)) == pytest.approx(3)


def test_the_score_of_two_images_is_the_closed_form_of_their_cosine():
    cosine = 0.6
    shares = np.array([1 + cosine, 1 - cosine]) / 2
    embeddings = np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]])
    assert vendi_score(embeddings) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_length_does_not_matter_and_more_images_than_dimensions_work():
    embeddings = np.random.default_rng(0).standard_normal((30, 4))
    lengths = np.random.default_rng(1).uniform(0.1, 9, (30, 1))
    assert vendi_score(embeddings * lengths) == pytest.approx(vendi_score(embeddings))
    assert 1 < vendi_score(embeddings) <= 4


def test_mean_distance_is_the_mean_over_all_pairs():
    embeddings = np.random.default_rng(0).standard_normal((9, 5))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    pairs = [1 - unit[i] @ unit[j] for i in range(9) for j in range(i)]
    assert mean_pairwise_distance(embeddings) == pytest.approx(np.mean(pairs))


def test_the_interval_of_a_mean_is_the_normal_one():
    embeddings = np.random.default_rng(0).standard_normal((400, 2)) + 3
    low, high = bootstrap_interval(
        embeddings, lambda rows: float(rows[:, 0].mean()), rng=np.random.default_rng(1), resamples=2000
    )
    half = 1.96 * embeddings[:, 0].std(ddof=1) / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    assert (low + high) / 2 == pytest.approx(embeddings[:, 0].mean(), abs=half / 5)


@pytest.mark.parametrize("embeddings", [np.zeros((0, 3)), np.array([[1.0, 0.0], [0.0, 0.0]])], ids=["none", "zero"])
def test_embeddings_without_a_direction_are_refused(embeddings):
    with pytest.raises(ValueError, match="embeddings"):
        vendi_score(embeddings)
