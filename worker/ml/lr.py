"""The learning rate of every update: constant, or a linear warm-up and a half-cosine decay (the thesis's Table A.2)."""

import math

from app.domain.specs import LrSpec


def lr_at(spec: LrSpec, update: int, total: int) -> float:
    """Learning rate of update number `update` of `total` (from 0).

    The warm-up climbs from `initial` to `peak`; then `peak` holds, or falls along half a cosine to `floor`, which the
    last update reaches.
    """
    warmup = round(spec.warmup * total)
    if update < warmup:
        return spec.initial + (spec.peak - spec.initial) * update / warmup
    if spec.floor is None:
        return spec.peak
    progress = (update - warmup) / max(1, total - 1 - warmup)
    return spec.floor + (spec.peak - spec.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
