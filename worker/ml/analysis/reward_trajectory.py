"""Rewards along the trajectory (thesis, section 4.2): of the noisy x_t and of x_0_pred, at chosen steps.

x_0_pred is the model's guess of the final image at x_t (DDIM, arXiv:2010.02502, eq. 12; the thesis's eq. 4.5).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from worker.ml import ddim
from worker.ml.lanes import side_by_side
from worker.ml.policy import Policy
from worker.ml.progress import Monitor
from worker.ml.rewards import Reward
from worker.ml.rollout import Trajectories, collect, decode

Rank = Literal["best", "worst"]
RANKS: tuple[Rank, ...] = ("best", "worst")

_States = tuple[UInt8[np.ndarray, "n k h w 3"], UInt8[np.ndarray, "n k h w 3"]]


@dataclass(frozen=True)
class Strip:
    """One trajectory's images at the chosen states, and the reward of its final sample."""

    seed: int
    reward: float
    noisy: UInt8[np.ndarray, "k h w 3"]
    denoised: UInt8[np.ndarray, "k h w 3"]


@dataclass(frozen=True)
class RewardTrajectories:
    """One reward of n trajectories at k states; the last state is the final sample, in both arrays."""

    noisy: Float[np.ndarray, "n k"]
    denoised: Float[np.ndarray, "n k"]
    strips: Mapping[Rank, Strip]
    """The trajectories whose final samples have the highest and the lowest reward."""


@dataclass(frozen=True)
class Traces:
    states: list[int]
    """How many transitions each state has behind it: 0 is pure noise, the number of steps is the final sample."""
    timesteps: list[int | None]
    """The timestep at which the network sees each state; None for the final sample, which it never sees."""
    seeds: list[int]
    rewards: Mapping[str, RewardTrajectories]


def choose_states(steps: int, k: int) -> list[int]:
    """At most `k` states spread evenly from pure noise (0) to the final sample (`steps`), both included."""
    return sorted({round(float(state)) for state in np.linspace(0, steps, max(2, k))})


def trace_rewards(
    policy: Policy,
    seeds: Sequence[int],
    rewards: Mapping[str, Reward],
    *,
    steps: int,
    eta: float,
    states: Sequence[int],
    monitor: Monitor,
    batch_size: int = 16,
    fraction: tuple[float, float] = (0.0, 1.0),
) -> Traces:
    """Draw a trajectory a seed and score its states, decoded as samples are.

    Memory holds a few batches of trajectories at a time, so `n` is bounded by patience alone.

    Args:
        states: ascending, the last one `steps`.
        fraction: the share of the whole job that this call covers, for progress.

    Raises:
        JobCancelledError: a stop was asked for.
    """
    schedule = ddim.make_schedule(policy.scheduler_config, steps=steps, eta=eta)
    columns: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {name: ([], []) for name in rewards}
    strips: dict[str, dict[Rank, Strip]] = {name: {} for name in rewards}

    def follow(batch: Sequence[int], go_on: Callable[[], None]) -> _States:
        trajectories = collect(
            policy, batch, schedule, batch_size=len(batch), keep_x_0_images=True, between_steps=go_on
        )
        return _images(trajectories, states)

    start, end = fraction
    done = 0
    with side_by_side(
        follow,
        seeds,
        batch_size=batch_size,
        image_size=policy.image_size,
        device=policy.device,
        should_stop=monitor.should_stop,
    ) as batches:
        for batch, (noisy, denoised) in batches:
            for name, reward in rewards.items():
                along = _score(reward, noisy), _score(reward, denoised)
                for column, values in zip(columns[name], along, strict=True):
                    column.append(values)
                _keep_extremes(strips[name], batch, along[0][:, -1], noisy, denoised)
            done += len(batch)
            share = start + (end - start) * done / len(seeds)
            monitor.progress(share, stage=f"Following trajectories: {done} of {len(seeds)}")
    timesteps = schedule.timesteps.tolist()
    return Traces(
        states=list(states),
        timesteps=[timesteps[state] if state < steps else None for state in states],
        seeds=list(seeds),
        rewards={
            name: RewardTrajectories(np.concatenate(noisy), np.concatenate(denoised), strips[name])
            for name, (noisy, denoised) in columns.items()
        },
    )


def _images(trajectories: Trajectories, states: Sequence[int]) -> _States:
    """(x_t, x_0_pred) at the states, decoded; the final sample is its own x_0_pred."""
    assert trajectories.x_0_images is not None
    steps = trajectories.x_0_images.shape[1]
    final = trajectories.images
    noisy = [decode(trajectories.x[:, state]) for state in states]
    denoised = [trajectories.x_0_images[:, state] if state < steps else final for state in states]
    return np.stack(noisy, axis=1), np.stack(denoised, axis=1)


def _score(reward: Reward, images: UInt8[np.ndarray, "n k h w 3"]) -> Float[np.ndarray, "n k"]:
    n, k = images.shape[:2]
    return np.asarray(reward(images.reshape(n * k, *images.shape[2:]))).reshape(n, k)


def _keep_extremes(
    strips: dict[Rank, Strip],
    seeds: Sequence[int],
    final: Float[np.ndarray, " n"],
    noisy: UInt8[np.ndarray, "n k h w 3"],
    denoised: UInt8[np.ndarray, "n k h w 3"],
) -> None:
    """Replace the best or the worst strip where this batch holds a better or a worse one; the first of equals stays."""
    for rank in RANKS:
        sign = 1 if rank == "best" else -1
        index = int((sign * final).argmax())
        if rank not in strips or sign * final[index] > sign * strips[rank].reward:
            strips[rank] = Strip(seeds[index], float(final[index]), noisy[index].copy(), denoised[index].copy())
