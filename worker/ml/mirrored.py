"""Mirrored noise: the same trajectory with one step's noise turned round, as a baseline for that step's transition."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from app.domain.enums import Precision
from worker.ml.ddim import Schedule
from worker.ml.noise import noise_of_step
from worker.ml.policy import Policy
from worker.ml.rollout import Trajectories, decode, roll_on


def mirrored_steps(schedule: Schedule, last: int) -> list[int]:
    """The `last` stochastic steps with the least noise, which are the cheapest to mirror."""
    return schedule.trainable[len(schedule.trainable) - last :] if last else []


def mirrored_evaluations(schedule: Schedule, last: int) -> int:
    """Network evaluations that mirroring costs a trajectory."""
    return sum(len(schedule) - 1 - step for step in mirrored_steps(schedule, last))


def mirrored_images(
    policy: Policy,
    trajectories: Trajectories,
    schedule: Schedule,
    steps: Sequence[int],
    *,
    batch_size: int,
    precision: Precision = Precision.FP32,
    between_batches: Callable[[int], None] = lambda evaluations: None,
) -> UInt8[np.ndarray, "m n h w 3"]:
    r"""Where every trajectory would have ended, had the noise z of one step been -z and all other noise the same.

    With A = (R(z) - R(-z)) / 2 the estimate A grad log p(z) is unbiased, because R(-z) z has minus the mean of R(z) z;
    and whatever z and -z do alike, which near the end is almost all of a reward's spread, has gone from it
    (antithetic variates; Hammersley and Morton, 1956).

    Args:
        steps: step indices, each mirrored by itself; step i costs `len(schedule) - 1 - i` network evaluations a sample.
        between_batches: called after every batch with the network evaluations it took; may raise to stop.
    """
    ends = []
    for step in steps:
        images = []
        for first in range(0, len(trajectories.seeds), batch_size):
            seeds = trajectories.seeds[first : first + batch_size]
            noise = noise_of_step(seeds, step + 1, policy.image_shape, device=policy.device)
            x = trajectories.x[first : first + len(seeds), step + 1] - 2 * float(schedule.sigma[step]) * noise
            images.append(decode(roll_on(policy, seeds, schedule, x, first=step + 1, precision=precision)))
            between_batches(len(seeds) * (len(schedule) - 1 - step))
        ends.append(np.concatenate(images))
    if not ends:
        return np.empty((0, *trajectories.images.shape), dtype=np.uint8)
    return np.stack(ends)
