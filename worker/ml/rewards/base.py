"""What a reward is, how one is described, and the checks that every reward's answer goes through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from app.domain.errors import InvalidSpecError, JobError, TastemakerError
from app.domain.rewards import BUILT_IN_REWARDS
from worker.ml.rewards.host import RewardHost

Images = UInt8[np.ndarray, "n h w 3"]
Rewards = Float[np.ndarray, " n"]
RewardMap = Float[np.ndarray, "n rows columns"]


@runtime_checkable
class Reward(Protocol):
    """Decoded images in, one number an image out; higher is what finetuning moves toward."""

    def __call__(self, images: Images) -> Rewards:
        """Rewards in the order of `images`."""
        ...


@runtime_checkable
class MappedReward(Reward, Protocol):
    """A reward that is nearly a sum over tiles of the image and can say what each contributed."""

    def reward_map(self, images: Images) -> RewardMap:
        """Contributions of equal tiles; they sum to the reward, but for a constant."""
        ...


@dataclass(frozen=True)
class RewardInfo:
    """A reward as people see it in a list, and whether it can run on this machine."""

    name: str
    title: str
    description: str
    unit: str
    direction: str
    """What a higher reward means, in words; a reward is always maximised."""
    range: tuple[float | None, float | None]
    needs: str
    """What must be there for it to run, in words; empty where nothing is needed."""
    can_run: bool = True
    why_not: str | None = None

    @classmethod
    def of_built_in(cls, name: str, why_not: str | None) -> Self:
        """The shared description of a built-in reward, and why it cannot run here (None where it can)."""
        description = next(reward for reward in BUILT_IN_REWARDS if reward.name == name)
        return cls(**description.model_dump(), can_run=why_not is None, why_not=why_not)


@dataclass(frozen=True)
class RewardPlugin:
    """One entry of the registry. Third parties expose one as an entry point of the group `tastemaker.rewards`."""

    name: str
    describe: Callable[[RewardHost], RewardInfo]
    build: Callable[..., Reward]
    """Called with the host, and the term's `params` as keywords; raises InvalidSpecError where they make no sense."""


class CheckedReward:
    """A reward under its name: its answers are finite and of the right shape, or the job ends saying whose were not."""

    def __init__(self, name: str, reward: Reward) -> None:
        self.name = name
        self._reward = reward

    def __call__(self, images: Images) -> Rewards:
        """Rewards as float64.

        Raises:
            JobError: the reward failed, gave the wrong shape, or a value that is not a finite number; or the images
                are not decoded.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise JobError(
                f"The reward {self.name!r} was given {images.dtype} of shape {images.shape}; rewards take decoded "
                "images, uint8 of shape (n, h, w, 3)."
            )
        try:
            rewards = np.asarray(self._reward(images), dtype=np.float64)
        except TastemakerError:
            raise
        except Exception as error:  # a plugin of others may raise anything; the operator must learn whose it was
            raise JobError(f"The reward {self.name!r} failed: {type(error).__name__}: {error}") from error
        if rewards.shape != (len(images),):
            raise JobError(
                f"The reward {self.name!r} returned shape {rewards.shape} for {len(images)} images; "
                f"it must return one number an image, shape ({len(images)},)."
            )
        bad = int(np.count_nonzero(~np.isfinite(rewards)))
        if bad:
            raise JobError(
                f"The reward {self.name!r} is NaN or infinite for {bad} of {len(images)} images; "
                "fix the reward or take it out of the spec."
            )
        return rewards

    def reward_map(self, images: Images) -> RewardMap:
        """The wrapped reward's map.

        Raises:
            JobError: the reward has none, failed at these images, or gave numbers that are not finite.
        """
        inner = self._reward
        if not isinstance(inner, MappedReward):
            raise JobError(f"The reward {self.name!r} cannot say where in the image it was earned; use credit 'image'.")
        try:
            tiles = inner.reward_map(images)
        except TastemakerError:
            raise
        except Exception as error:  # for example tiles that do not fit images of this size
            raise JobError(f"The reward {self.name!r} has no map here: {error}. Use credit 'image'.") from error
        if not np.isfinite(tiles).all():
            raise JobError(f"The map of the reward {self.name!r} is NaN or infinite; use credit 'image'.")
        return tiles


def require_between(name: str, value: object, low: float, high: float) -> float:
    """`value` as a number in [low, high].

    Raises:
        InvalidSpecError: names the parameter and its bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidSpecError(
            f"The reward parameter {name!r} must be a number from {low:g} to {high:g}, not {value!r}."
        )
    return float(value)
