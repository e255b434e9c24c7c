"""Noise as a pure function of (seed, step): the same sample at any batch size, in any order, at every checkpoint."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

START = 0
"""The step whose noise is x_T. Transition `i` (0 is the noisiest) takes the noise of step `i + 1`."""

_TRAINING = 1 << 63


def noise_of_step(
    seeds: Sequence[int], step: int, shape: tuple[int, ...], *, device: torch.device | str = "cpu"
) -> Float[Tensor, "n ..."]:
    """Standard normal noise of `shape` for every seed.

    Philox is a counter-based generator: the pair (seed, step) is its 128-bit key, so streams never overlap and no
    draw depends on another. It runs on the CPU whatever the device, so that devices agree on the noise.
    """
    noise = np.empty((len(seeds), *shape), dtype=np.float32)
    for row, seed in zip(noise, seeds, strict=True):
        generator(seed, step).standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(noise).to(device)


def generator(seed: int, step: int) -> np.random.Generator:
    """The random stream that belongs to (seed, step), both in [0, 2**64)."""
    key = np.array([seed, step], dtype=np.uint64)  # as a list, keys above 2**63 would go through float64
    return np.random.Generator(np.random.Philox(key=key))


def training_seeds(run_seed: int, epoch: int, n: int) -> list[int]:
    """Seeds of an epoch's rollouts: distinct for every (run, epoch) and, by their highest bit, from any seed that a
    person can choose, so that evaluation samples are never trained on."""
    stream = generator(run_seed, _TRAINING | epoch)
    return [_TRAINING | int(seed) for seed in stream.integers(0, _TRAINING, size=n, dtype=np.uint64)]
