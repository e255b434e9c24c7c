"""Rewards: decoded images in, one number an image out."""

from worker.ml.rewards.base import (
    CheckedReward,
    Images,
    MappedReward,
    Reward,
    RewardInfo,
    RewardMap,
    RewardPlugin,
    Rewards,
)
from worker.ml.rewards.combined import CombinedReward
from worker.ml.rewards.host import RewardHost
from worker.ml.rewards.registry import build_reward, catalogue

__all__ = [
    "CheckedReward",
    "CombinedReward",
    "Images",
    "MappedReward",
    "Reward",
    "RewardHost",
    "RewardInfo",
    "RewardMap",
    "RewardPlugin",
    "Rewards",
    "build_reward",
    "catalogue",
]
