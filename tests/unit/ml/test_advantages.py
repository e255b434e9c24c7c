"""Advantages, potential-based shaping, and the learning-rate schedule, against hand-made cases."""

import numpy as np
import pytest

from app.domain.enums import Baseline
from app.domain.specs import LrSpec
from worker.ml.advantages import BaselineState, rewards_to_go, standardise, subtract_baseline
from worker.ml.lr import lr_at

REWARDS = np.array([1.0, 2.0, 6.0])
TABLE = rewards_to_go(REWARDS, None, steps=2)
ONES = np.ones_like(TABLE)


def relative(baseline: Baseline, weights: np.ndarray = ONES, state: BaselineState | None = None) -> np.ndarray:
    return subtract_baseline(TABLE, baseline, state=state or BaselineState(), weights=weights)


def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others() -> None:
    assert relative(Baseline.LEAVE_ONE_OUT)[:, 0].tolist() == [1 - 4, 2 - 3.5, 6 - 1.5]


def test_the_optimal_constants_weigh_by_the_squared_score() -> None:
    weights = np.array([[1.0, 3.0], [1.0, 1.0], [2.0, 0.0]])
    trajectory = relative(Baseline.OPTIMAL, weights)  # trajectory weights 4, 2, 2
    assert trajectory[:, 0] == pytest.approx([1 - (2 * 2 + 2 * 6) / 4, 2 - (4 * 1 + 2 * 6) / 6, 6 - (4 + 4) / 6])
    per_step = relative(Baseline.TIME_DEPENDENT, weights)
    assert per_step[0] == pytest.approx([1 - (2 + 12) / 3, 1 - 2 / 1])


def test_the_ema_baseline_knows_earlier_epochs_only() -> None:
    state = BaselineState()
    first = relative(Baseline.EMA, state=state)
    assert np.array_equal(first, relative(Baseline.LEAVE_ONE_OUT))
    second = subtract_baseline(TABLE + 10, Baseline.EMA, state=state, weights=ONES)
    assert np.allclose(second, TABLE + 10 - REWARDS.mean())
    assert state.ema == pytest.approx([REWARDS.mean() + 1.0] * 2)


def test_shaping_telescopes_to_the_reward_minus_the_potential() -> None:
    potential = np.array([[0.5, 0.8], [1.0, 1.5], [4.0, 7.0]])
    states = np.column_stack([potential, REWARDS])  # the potential of x_0 itself is its reward
    earned = np.diff(states, axis=1)
    to_go = np.cumsum(earned[:, ::-1], axis=1)[:, ::-1]
    assert np.allclose(rewards_to_go(REWARDS, potential, steps=2), to_go)


def test_standardising_scales_the_whole_epoch_and_clips() -> None:
    table = np.array([[3.0, -3.0], [0.0, 0.0]])
    found = standardise(table, clip=1.2)
    assert found.tolist() == [[1.2, -1.2], [0.0, 0.0]]
    assert standardise(table, clip=5.0).std() == pytest.approx(1.0)


def test_equal_rewards_teach_nothing() -> None:
    assert not standardise(np.zeros((4, 3)), clip=5.0).any()


def test_the_learning_rate_warms_up_then_falls_along_half_a_cosine() -> None:
    spec = LrSpec(initial=1e-5, peak=1e-3, warmup=0.25, floor=1e-4)
    rates = [lr_at(spec, update, 41) for update in range(41)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[5] == pytest.approx((1e-5 + 1e-3) / 2)
    assert rates[10] == max(rates) == pytest.approx(1e-3)
    assert rates[25] == pytest.approx((1e-3 + 1e-4) / 2)
    assert rates[-1] == pytest.approx(1e-4)


def test_without_floor_and_warm_up_the_learning_rate_is_constant() -> None:
    assert {lr_at(LrSpec(peak=9e-8), update, 10) for update in range(10)} == {9e-8}
