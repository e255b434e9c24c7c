"""Which rewards there are, and how a spec's terms become one function."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from uuid import UUID

from app.domain.errors import InvalidSpecError, JobError, TastemakerError, UnavailableError
from app.domain.specs import RewardTerm
from worker.ml.rewards import aesthetic, age, clip_similarity, jpeg, pixels
from worker.ml.rewards.base import (
    CheckedReward,
    Images,
    Reward,
    RewardInfo,
    RewardMap,
    RewardPlugin,
    Rewards,
    require_between,
)
from worker.ml.rewards.combined import CombinedReward
from worker.ml.rewards.host import RewardHost

ENTRY_POINT_GROUP = "tastemaker.rewards"
_ARGUMENTS = re.compile(r"unexpected keyword argument|required (positional|keyword-only) argument")
"""What Python says of a call that does not fit; any other TypeError is a fault inside a plugin."""

PREFERENCE = RewardInfo(
    name="preference",
    title="Learned preference",
    description="A reward model that was trained on raters' votes (`reward_model_id` says which). "
    "Parameter `k`: how many standard deviations of the ensemble are subtracted, as caution.",
    unit="standard deviations of the reference samples",
    direction="higher means more likely to be preferred",
    range=(None, None),
    needs="a trained reward model",
)


@lru_cache(maxsize=1)
def _plugins() -> dict[str, RewardPlugin]:
    built_in = (*jpeg.PLUGINS, *pixels.PLUGINS, *aesthetic.PLUGINS, *clip_similarity.PLUGINS, *age.PLUGINS)
    plugins = {plugin.name: plugin for plugin in built_in}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        plugins.setdefault(entry_point.name, _load(entry_point))
    return plugins


def _load(entry_point: EntryPoint) -> RewardPlugin:
    """A third party's plugin; one that cannot be imported, or is none, stays in the list, with the reason."""
    try:
        plugin: object = entry_point.load()
    except Exception as error:
        return _unusable(entry_point.name, f"The plugin {entry_point.value} cannot be imported: {_told(error)}")
    if not isinstance(plugin, RewardPlugin):
        kind = type(plugin).__name__
        return _unusable(entry_point.name, f"The plugin {entry_point.value} is no RewardPlugin but a {kind}")
    return plugin


def _unusable(name: str, why_not: str) -> RewardPlugin:
    def refuse(_: RewardHost, **params: object) -> Reward:
        raise UnavailableError(why_not)

    return RewardPlugin(name, lambda _: _cannot_run(name, why_not), refuse)


def _cannot_run(name: str, why_not: str) -> RewardInfo:
    return RewardInfo(
        name=name, title=name, description="A plugin.", unit="", direction="", range=(None, None), needs="",
        can_run=False, why_not=why_not,
    )  # fmt: skip


def _described(plugin: RewardPlugin, host: RewardHost) -> RewardInfo:
    """What the plugin says of itself, or that it cannot: one plugin's fault hides no other reward."""
    try:
        info: object = plugin.describe(host)
    except Exception as error:
        return _cannot_run(plugin.name, f"The plugin {plugin.name!r} cannot describe itself: {_told(error)}")
    if not isinstance(info, RewardInfo):
        return _cannot_run(plugin.name, f"The plugin {plugin.name!r} describes itself by a {type(info).__name__}")
    return info


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def catalogue(host: RewardHost) -> list[RewardInfo]:
    """Every reward that a spec may name and whether it can run on `host`, built-in ones first, `preference` last."""
    return [*(_described(plugin, host) for plugin in _plugins().values()), PREFERENCE]


def build_reward(
    terms: Sequence[RewardTerm], *, preference: Callable[[UUID, float], Reward], host: RewardHost | None = None
) -> Reward:
    """The reward that `terms` describe: one term times its weight, or several standardised ones summed.

    Args:
        preference: loads a learned reward by its id, less as many standard deviations of its ensemble as the number
            says (parameter `k`).
        host: where weights are; None for one without a weights folder, on the CPU.

    Raises:
        InvalidSpecError: an unknown reward or a parameter that it does not take; names both.
        UnavailableError: the reward's weights cannot be reached here.
    """
    rewards = [CheckedReward(term.name, _build(term, preference, host or RewardHost())) for term in terms]
    if len(rewards) == 1:
        return Weighted(rewards[0], terms[0].weight)
    return CombinedReward(rewards, [term.weight for term in terms])


class Weighted:
    """One reward times a number, in its own unit."""

    def __init__(self, reward: CheckedReward, weight: float) -> None:
        self._reward = reward
        self._weight = weight

    def __call__(self, images: Images) -> Rewards:
        return self._weight * self._reward(images)

    def reward_map(self, images: Images) -> RewardMap:
        return self._weight * self._reward.reward_map(images)


def _build(term: RewardTerm, preference: Callable[[UUID, float], Reward], host: RewardHost) -> Reward:
    if term.reward_model_id is not None:
        if unknown := term.params.keys() - {"k"}:
            names = ", ".join(sorted(unknown))
            raise InvalidSpecError(f"The reward {term.name!r} takes the parameter k alone, not {names}.")
        return preference(term.reward_model_id, require_between("k", term.params.get("k", 0.0), 0.0, 100.0))
    plugin = _plugins().get(term.name)
    if plugin is None:
        known = ", ".join((*_plugins(), PREFERENCE.name))
        raise InvalidSpecError(f"There is no reward {term.name!r}; known: {known}.")
    try:
        return plugin.build(host, **term.params)
    except TastemakerError:
        raise
    except Exception as error:
        if isinstance(error, TypeError) and _ARGUMENTS.search(str(error)):
            raise InvalidSpecError(f"The reward {term.name!r} does not take these parameters: {error}.") from error
        raise JobError(f"The reward {term.name!r} could not be set up: {_told(error)}") from error
