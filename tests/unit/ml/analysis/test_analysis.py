"""Analysis maths against closed forms and hand-made cases."""

import numpy as np
import pytest
from scipy.stats import binomtest
from tiny import tiny_policy

from app.domain.errors import JobCancelledError, JobError
from worker.ml.analysis.classes import class_shares, merged_share
from worker.ml.analysis.copies import copy_threshold, count_copies, nearest_neighbour_distances
from worker.ml.analysis.embedding_map import map_embeddings, spread_ratio
from worker.ml.analysis.reward_trajectory import Traces, choose_states, trace_rewards
from worker.ml.progress import SilentMonitor
from worker.ml.rewards.pixels import brightness, sharpness
from worker.ml.rollout import draw_samples

SEEDS = [650, 7, 0, 31, 5]


def trace(batch_size: int = 2, states: tuple[int, ...] = (0, 2, 4, 6)) -> Traces:
    return trace_rewards(
        tiny_policy(),
        SEEDS,
        {"brightness": brightness, "sharpness": sharpness},
        steps=6,
        eta=1.0,
        states=states,
        monitor=SilentMonitor(),
        batch_size=batch_size,
    )


def test_the_last_state_is_the_sample_that_is_drawn_for_the_seed() -> None:
    samples = draw_samples(tiny_policy(), SEEDS, steps=6, eta=1.0, monitor=SilentMonitor())
    traced = trace().rewards["sharpness"]
    np.testing.assert_array_equal(traced.noisy[:, -1], sharpness(samples))
    np.testing.assert_array_equal(traced.denoised[:, -1], traced.noisy[:, -1])


def test_the_first_state_is_noise_and_its_guess_is_not() -> None:
    traced = trace().rewards["sharpness"]
    assert (traced.noisy[:, 0] != traced.denoised[:, 0]).all()
    # decoded standard normal noise: the expected squared Laplacian is that of independent pixels, (1 + 4 ... + 16) var
    rng = np.random.default_rng(0)
    noise = (np.clip(rng.standard_normal((400, 8, 8, 3)) * 0.5 + 0.5, 0, 1) * 255).round().astype(np.uint8)
    expected = sharpness(noise)
    assert abs(traced.noisy[:, 0].mean() - expected.mean()) < 4 * expected.std() / len(SEEDS) ** 0.5


def test_batches_change_no_number_and_no_strip() -> None:
    one, other = trace(batch_size=2), trace(batch_size=5)
    for name in one.rewards:
        np.testing.assert_array_equal(one.rewards[name].noisy, other.rewards[name].noisy)
        np.testing.assert_array_equal(one.rewards[name].denoised, other.rewards[name].denoised)
        for rank in ("best", "worst"):
            assert one.rewards[name].strips[rank].seed == other.rewards[name].strips[rank].seed


def test_strips_show_the_trajectories_of_the_best_and_the_worst_sample() -> None:
    traced = trace().rewards["brightness"]
    best, worst = traced.strips["best"], traced.strips["worst"]
    assert best.seed == SEEDS[int(traced.noisy[:, -1].argmax())]
    assert worst.seed == SEEDS[int(traced.noisy[:, -1].argmin())]
    for strip in (best, worst):
        row = SEEDS.index(strip.seed)
        np.testing.assert_array_equal(brightness(strip.noisy), traced.noisy[row])
        np.testing.assert_array_equal(brightness(strip.denoised), traced.denoised[row])
        assert strip.reward == traced.noisy[row, -1]


def test_states_carry_the_timesteps_at_which_the_network_sees_them() -> None:
    assert trace().timesteps == [830, 498, 166, None]  # six leading steps of 1000: 830, 664, 498, 332, 166, 0


@pytest.mark.parametrize(
    ("steps", "k", "states"),
    [(40, 6, [0, 8, 16, 24, 32, 40]), (40, 2, [0, 40]), (3, 10, [0, 1, 2, 3]), (1, 6, [0, 1]), (10, 1, [0, 10])],
)
def test_states_are_spread_evenly_and_include_both_ends(steps: int, k: int, states: list[int]) -> None:
    assert choose_states(steps, k) == states


class StopAfterTwo(SilentMonitor):
    told = 0

    def progress(self, fraction: float, *, stage: str) -> None:
        self.told += 1

    def should_stop(self) -> bool:
        return self.told == 2


def test_a_cancel_is_heard_between_batches() -> None:
    with pytest.raises(JobCancelledError, match="4 of 5"):
        trace_rewards(tiny_policy(), SEEDS, {}, steps=2, eta=1.0, states=[0, 2], monitor=StopAfterTwo(), batch_size=2)


def embeddings(n: int, seed: int = 0, d: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_a_pca_map_of_points_in_a_plane_keeps_their_distances() -> None:
    angles = np.linspace(0, 2, 12)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ np.linalg.qr(embeddings(8))[0][:2]
    laid_out = map_embeddings(circle[:6], circle[6:], method="pca", seed=0)
    points = np.concatenate([laid_out.base, laid_out.finetuned])
    pairwise = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (points, circle)]
    np.testing.assert_allclose(pairwise[0], pairwise[1], atol=1e-9)
    assert laid_out.explained_variance is not None
    assert sum(laid_out.explained_variance) == pytest.approx(1)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_repeats_to_the_last_bit_and_ignores_lengths(method: str) -> None:
    base, tuned = embeddings(20), embeddings(20, seed=1)
    first = map_embeddings(base, tuned, method=method, seed=3)
    again = map_embeddings(base, tuned, method=method, seed=3)
    np.testing.assert_array_equal(first.base, again.base)
    np.testing.assert_array_equal(first.finetuned, again.finetuned)
    if method == "pca":
        np.testing.assert_allclose(map_embeddings(base * 4, tuned, method=method, seed=3).base, first.base, atol=1e-9)


def test_tsne_keeps_two_clusters_apart() -> None:
    base = np.eye(8)[0] + 0.01 * embeddings(15)
    tuned = np.eye(8)[1] + 0.01 * embeddings(15, seed=1)
    laid_out = map_embeddings(base, tuned, method="tsne", seed=0)
    centres = laid_out.base.mean(axis=0), laid_out.finetuned.mean(axis=0)
    own = np.linalg.norm(laid_out.base - centres[0], axis=1)
    other = np.linalg.norm(laid_out.base - centres[1], axis=1)
    assert (own < other).all()


def test_a_map_needs_pairs() -> None:
    with pytest.raises(JobError, match="same noise"):
        map_embeddings(embeddings(5), embeddings(4), method="pca", seed=0)


def test_the_spread_ratio_of_a_collapsed_set_is_zero_and_of_the_same_set_one() -> None:
    base = embeddings(30)
    assert spread_ratio(base, base) == 1
    assert spread_ratio(base, np.tile(base[:1], (30, 1))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_images_that_are_all_alike_leave_nothing_to_map(method: str) -> None:
    alike = np.tile(embeddings(1), (6, 1))
    with pytest.raises(JobError, match="nothing to map"):
        map_embeddings(alike, alike * 1.5, method=method, seed=0)
    assert spread_ratio(alike, embeddings(6)) is None
    assert map_embeddings(alike, embeddings(6), method=method, seed=0).base.shape == (6, 2)


def test_nearest_neighbours_are_those_of_brute_force() -> None:
    rows = embeddings(12)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [min(1 - unit[i] @ unit[j] for j in range(12) if j != i) for i in range(12)]
    np.testing.assert_allclose(nearest_neighbour_distances(rows), expected, atol=1e-12)


def test_copies_are_counted_and_the_base_has_next_to_none() -> None:
    base = embeddings(400)
    threshold = copy_threshold(base)
    assert count_copies(base, threshold) <= 0.02 * 400
    tuned = embeddings(50, seed=2)
    tuned[:10] = tuned[0] * np.arange(1, 11)[:, None]  # one image, at ten lengths
    assert count_copies(tuned, threshold) >= 10
    assert count_copies(tuned[9:], threshold) < 5


def test_class_shares_count_the_highest_logit_with_wilson_intervals() -> None:
    logits = np.eye(3)[[0, 0, 2, 0, 2, 2, 0, 0, 0, 0]]
    shares = class_shares(logits, ["young", "middle", "old"])
    assert [share.count for share in shares] == [7, 0, 3]
    for share in shares:
        interval = binomtest(share.count, 10).proportion_ci(method="wilson")
        assert (share.low, share.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert merged_share(shares, "not young", slice(1, None)).share == pytest.approx(0.3)


def test_class_shares_need_samples_and_a_name_each() -> None:
    for logits in (np.zeros((0, 2)), np.zeros((3, 3))):
        with pytest.raises(ValueError, match="one name"):
            class_shares(logits, ["a", "b"])
