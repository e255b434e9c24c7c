"""Which rewards there are, and how a spec's terms become one function."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from uuid import UUID

from app.domain.errors import InvalidSpecError
from app.domain.specs import RewardTerm
from worker.ml.rewards import jpeg, pixels
from worker.ml.rewards.base import CheckedReward, Images, Reward, RewardInfo, RewardPlugin, Rewards
from worker.ml.rewards.combined import CombinedReward

ENTRY_POINT_GROUP = "tastemaker.rewards"
PREFERENCE = RewardInfo(
    name="preference",
    title="Learned preference",
    description="A reward model that was trained on raters' votes (`reward_model_id` says which).",
    unit="standard deviations of the reference samples",
    direction="higher means more likely to be preferred",
    range=(None, None),
    needs="a trained reward model",
)


@lru_cache(maxsize=1)
def _plugins() -> dict[str, RewardPlugin]:
    plugins = {plugin.describe().name: plugin for plugin in (*jpeg.PLUGINS, *pixels.PLUGINS)}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        plugins.setdefault(entry_point.name, entry_point.load())
    return plugins


def catalogue() -> list[RewardInfo]:
    """Every reward that a spec may name, built-in ones first, `preference` last."""
    return [*(plugin.describe() for plugin in _plugins().values()), PREFERENCE]


def build_reward(terms: Sequence[RewardTerm], *, preference: Callable[[UUID], Reward]) -> Reward:
    """The reward that `terms` describe: one term times its weight, or several standardised ones summed.

    Args:
        preference: loads a learned reward by its id.

    Raises:
        InvalidSpecError: an unknown reward or a parameter that it does not take; names both.
        UnavailableError: the reward's weights cannot be reached here.
    """
    rewards = [CheckedReward(term.name, _build(term, preference)) for term in terms]
    if len(rewards) == 1:
        return Weighted(rewards[0], terms[0].weight)
    return CombinedReward(rewards, [term.weight for term in terms])


class Weighted:
    """One reward times a number, in its own unit."""

    def __init__(self, reward: Reward, weight: float) -> None:
        self._reward = reward
        self._weight = weight

    def __call__(self, images: Images) -> Rewards:
        return self._weight * self._reward(images)


def _build(term: RewardTerm, preference: Callable[[UUID], Reward]) -> Reward:
    if term.reward_model_id is not None:
        return preference(term.reward_model_id)
    plugin = _plugins().get(term.name)
    if plugin is None:
        known = ", ".join(info.name for info in catalogue())
        raise InvalidSpecError(f"There is no reward {term.name!r}; known: {known}.")
    try:
        return plugin.build(**term.params)
    except TypeError as error:
        raise InvalidSpecError(f"The reward {term.name!r} does not take these parameters: {error}.") from error
