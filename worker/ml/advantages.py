"""From rewards to the advantages that weigh the gradient: rewards on the way, baselines, standardisation, clipping."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from app.domain.enums import Baseline

Table = Float[np.ndarray, "n s ..."]
"""One number a transition, or one for each tile of the image it was drawn in."""

_EMA_DECAY = 0.9
_SMALLEST_STD = 1e-8


def rewards_to_go(rewards: Float[np.ndarray, "n ..."], potential: Table | None, *, steps: int) -> Table:
    """The return that follows every step; rewards by tile give returns by tile.

    Without a potential it is the final reward. With one (the reward of x_0_pred at x_t), every transition earns
    potential(next) - potential(here) and the sum telescopes to reward - potential(here): potential-based shaping
    (Ng et al., 1999) with reward-to-go acts as a baseline that depends on the state, so the gradient stays unbiased.
    """
    table = np.repeat(rewards[:, None], steps, axis=1).astype(np.float64)
    return table if potential is None else table - potential


@dataclass
class BaselineState:
    """What baselines remember between epochs; stored with the resumable state."""

    ema: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"ema": self.ema}


def mirror_steps(
    returns: Table, rewards: Float[np.ndarray, "n ..."], mirrored: Mapping[int, Float[np.ndarray, "n ..."]]
) -> Table:
    """`returns` with half the difference to the mirrored trajectories' rewards at the steps that `mirrored` has."""
    table = returns.copy()
    for step, values in mirrored.items():
        table[:, step] = (rewards - values) / 2
    return table


def subtract_baseline(
    returns: Table, baseline: Baseline, *, state: BaselineState, weights: Table, value: Table | None = None
) -> Table:
    """`returns` minus the chosen baseline. No baseline sees the sample it is subtracted from, except MEAN, whose
    shrinkage by (n - 1) / n leaves the direction of the expected gradient alone. Columns (steps, or steps by tile) are
    treated apart.

    Args:
        weights: squared norm of the score of every transition, which the variance-optimal constants are weighted by
            (Greensmith et al., 2004); OPTIMAL uses one constant a trajectory, TIME_DEPENDENT one a step.
        value: V(x_t, t) of a value function that was fitted to earlier epochs (the thesis's Algorithm 4).
    """
    known: Table
    match baseline:
        case Baseline.NONE:
            return returns
        case Baseline.MEAN:
            known = returns.mean(axis=0, keepdims=True)
        case Baseline.LEAVE_ONE_OUT:
            known = _mean_of_others(returns, np.ones_like(returns))
        case Baseline.OPTIMAL:
            known = _mean_of_others(returns, np.repeat(weights.sum(axis=1, keepdims=True), returns.shape[1], axis=1))
        case Baseline.TIME_DEPENDENT:
            known = _mean_of_others(returns, weights)
        case Baseline.EMA:
            known = _mean_of_earlier_epochs(returns, state)
        case Baseline.VALUE:
            assert value is not None
            known = value
    return np.asarray(returns - known)


def standardise(advantages: Table, *, clip: float, per_step: bool = False) -> Table:
    """Divide by the standard deviation over the whole epoch, then clip to +/- clip. All zero where nothing differs.

    Only the scale is changed: what is subtracted is the baseline's business.

    Args:
        per_step: every step by its own standard deviation, where the steps' advantages differ in size.
    """
    if per_step:
        steps = range(advantages.shape[1])
        return np.concatenate([standardise(advantages[:, [step]], clip=clip) for step in steps], axis=1)
    scale = float(advantages.std())
    if scale < _SMALLEST_STD:
        return np.zeros_like(advantages)
    return np.clip(advantages / scale, -clip, clip)


def _mean_of_others(returns: Table, weights: Table) -> Table:
    """For every row, the weighted mean of the other rows, column by column."""
    others = weights.sum(axis=0, keepdims=True) - weights
    weighted = (weights * returns).sum(axis=0, keepdims=True) - weights * returns
    return np.asarray(weighted / others)


def _mean_of_earlier_epochs(returns: Table, state: BaselineState) -> Table:
    """The moving average of the epochs before this one, which is then updated; the first epoch leaves one out."""
    means = returns.mean(axis=0)
    if not state.ema:
        state.ema = means.tolist()
        return _mean_of_others(returns, np.ones_like(returns))
    known = np.asarray(state.ema)
    state.ema = (_EMA_DECAY * known + (1 - _EMA_DECAY) * means).tolist()
    return known[None, :]
