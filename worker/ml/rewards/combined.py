"""A weighted sum of rewards of different units: each is standardised on the first images it sees, then fixed."""

from collections.abc import Sequence

import numpy as np

from app.domain.errors import JobError
from worker.ml.rewards.base import CheckedReward, Images, RewardMap, Rewards

_SMALLEST_STD = 1e-8


class CombinedReward:
    """sum_k weight_k * (reward_k - mean_k) / std_k.

    Mean and standard deviation come from the first call, which a finetune makes on the base policy's evaluation
    samples, and stay fixed: the combined reward means the same at every epoch. A resumed run sets `statistics`.
    """

    def __init__(self, rewards: Sequence[CheckedReward], weights: Sequence[float]) -> None:
        self._rewards = tuple(rewards)
        self._weights = tuple(weights)
        self.statistics: list[tuple[float, float]] | None = None
        """(mean, standard deviation) of every reward, in order; None before the first call."""

    def __call__(self, images: Images) -> Rewards:
        columns = [reward(images) for reward in self._rewards]
        if self.statistics is None:
            self.statistics = [
                self._reference(reward.name, values) for reward, values in zip(self._rewards, columns, strict=True)
            ]
        total = np.zeros(len(images))
        for weight, values, (mean, std) in zip(self._weights, columns, self.statistics, strict=True):
            total += weight * (values - mean) / std
        return total

    def reward_map(self, images: Images) -> RewardMap:
        """The weighted sum of all maps; before the first call, in the rewards' own units."""
        statistics = self.statistics or [(0.0, 1.0)] * len(self._rewards)
        maps = [reward.reward_map(images) for reward in self._rewards]
        parts = [w * m / std for w, m, (_, std) in zip(self._weights, maps, statistics, strict=True)]
        return np.asarray(np.sum(parts, axis=0))

    @staticmethod
    def _reference(name: str, values: Rewards) -> tuple[float, float]:
        std = float(values.std())
        if len(values) < 2 or std < _SMALLEST_STD:
            raise JobError(
                f"The reward {name!r} is the same for all {len(values)} reference samples, so it cannot be "
                "weighed against others; use more samples or leave it out."
            )
        return float(values.mean()), std
