"""Scales, ticks and paths of the figures that the server draws."""

import numpy as np
import pytest

from app.web.analysis_figures import diversity_panels, map_figure, trace_panels
from app.web.figures import Scale, band, dots, line, nice_values, quantile, scale_for


def test_a_scale_runs_either_way() -> None:
    assert [Scale(0, 10, 0, 100)(value) for value in (0, 2.5, 10)] == [0, 25, 100]
    assert [Scale(0, 10, 100, 0)(value) for value in (0, 2.5, 10)] == [100, 75, 0]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.3, 4.1), (1e-4, 3e-4), (1234, 98_765), (0.5, 0.51)])
def test_ticks_are_round_inside_and_neither_few_nor_many(low: float, high: float) -> None:
    values = nice_values(low, high)
    assert 2 <= len(values) <= 6
    assert all(low <= value <= high for value in values)
    step = values[1] - values[0]
    mantissa = step / 10 ** np.floor(np.log10(step) + 1e-9)
    assert min(abs(mantissa - nice) for nice in (1, 2, 5)) < 1e-6


def test_a_scale_is_never_empty_and_leaves_out_what_is_not_finite() -> None:
    assert scale_for([3.0, 3.0], start=0, end=1).low < 3 < scale_for([3.0, 3.0], start=0, end=1).high
    assert scale_for([], start=0, end=1).low < scale_for([], start=0, end=1).high
    assert scale_for([1.0, float("nan"), float("inf")], start=0, end=1).high < 2
    assert scale_for([5.0, 6.0], start=0, end=1, around=(0.0,)).low < 0


def test_quantiles_are_numpy_s() -> None:
    values = sorted(np.random.default_rng(0).normal(size=37).tolist())
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_paths() -> None:
    assert line([(0, 1), (2.5, 3)]) == "M0 1L2.5 3"
    assert band([(0, 1), (1, 1)], [(0, 0), (1, 0)]) == "M0 1L1 1L1 0L0 0Z"
    assert dots([(1, 2), (3, 4)]) == "M1 2h0M3 4h0"


def test_a_trace_shows_the_mean_with_its_error_and_the_extremes_by_seed() -> None:
    values = [[0.0, 1.0], [0.0, 3.0], [0.0, 5.0]]
    part = {"mean": [0.0, 3.0], "values": values}
    best, worst = {"seed": 12, "reward": 5.0}, {"seed": 10, "reward": 1.0}
    traced = {
        "states": [0, 4],
        "timesteps": [900, None],
        "rewards": {"brightness": {"noisy": part, "denoised": part, "best": best, "worst": worst}},
    }
    noisy, denoised = trace_panels(traced, "brightness", [10, 11, 12])
    assert noisy.rows == [("t = 900", 0.0, 0.0), ("the sample", 3.0, pytest.approx(2 / np.sqrt(3)))]
    y_of = {path: float(path.rpartition(" ")[2]) for path in (noisy.best, noisy.mean, noisy.worst)}
    assert y_of[noisy.best] < y_of[noisy.mean] < y_of[noisy.worst]  # upward is less
    assert noisy.mean == denoised.mean


def test_a_map_lists_the_pairs_that_moved_furthest_first_and_shades_by_reward() -> None:
    document = {
        "seeds": [7, 8, 9],
        "images": [["a", "b", "c"], ["d", "e", "f"]],
        "rewards": {"brightness": [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]},
        "maps": [{"pca": {"base": [[0, 0], [1, 0], [2, 0]], "finetuned": [[0, 3], [1, 1], [2, 2]]}}],
    }
    drawn = map_figure(document, place=0, method="pca", reward="brightness")
    assert [(pair.seed, pair.moved) for pair in drawn.pairs] == [(7, 3.0), (9, 2.0), (8, 1.0)]
    assert (drawn.pairs[0].base, drawn.pairs[0].finetuned, drawn.pairs[0].rewards) == ("a", "d", (0.0, 1.0))
    low, high = drawn.shades
    assert low[1].count("M") == 3
    assert low[2] == ""
    assert high[1] == ""
    assert high[2].count("M") == 3
    assert drawn.lines.count("M") == 3


def test_diversity_marks_stand_inside_their_intervals() -> None:
    row = {"value": 4.0, "interval": [3.0, 6.0]}
    document = {"diversity": [{"vendi": row, "mean_pairwise_distance": row, "near_copies": row}] * 2}
    for panel in diversity_panels(document, ["base", "ep. 1"]):
        for _, y, low, high, _ in panel.marks:
            assert high < y < low
