"""Which of the checkpoints that a finetune saved on its way are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


Count = Annotated[int, BeforeValidator(_no_truth)]


class RetentionRule(BaseModel):
    """What is kept of the checkpoints that finished finetunes saved; the others may go.

    Whatever the rule says, these stay: a run's result, what is starred, tagged or noted, and what something depends on.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True,
        json_schema_extra={"example": {"keep_every": 5, "keep_last": 3, "min_age_hours": 24, "automatic": False}},
    )  # fmt: skip

    # FastAPI reads a model of query parameters field by field: texts below the fields would not reach the document
    keep_every: Count | None = Field(
        default=None, ge=1, le=100_000,
        description="Keep the epochs that this number divides; empty keeps none for their number.",
    )  # fmt: skip
    keep_last: Count = Field(default=3, ge=1, le=100_000, description="Keep this many of each run's last saved epochs.")
    min_age_hours: Count = Field(default=24, ge=0, le=24 * 365, description="Keep what is younger.")
    keep_states_days: Count | None = Field(
        default=None, ge=0, le=36_500,
        description="Days after which a finetune that succeeded lets go of the state (weights, optimiser) from which "
        "its budget could be raised; empty keeps it.",
    )  # fmt: skip
    automatic: bool = Field(default=False, description="Act on it every hour; otherwise only when asked to.")


@dataclass(frozen=True)
class SavedEpoch:
    """One checkpoint of a run, as far as retention cares."""

    id: UUID
    epoch: int
    age_hours: float
    is_marked: bool
    is_result: bool
    is_open: bool
    """Whether its run has not ended."""
    needed_because: str | None
    """What depends on it."""


def reasons_to_keep(run: Sequence[SavedEpoch], rule: RetentionRule) -> dict[UUID, str | None]:
    """Why each checkpoint of one run stays; None where it may go.

    Args:
        run: the saved epochs of one run, in order.
    """
    last = {saved.id for saved in run[-rule.keep_last :]}
    return {saved.id: _reason(saved, rule, last) for saved in run}


def _reason(saved: SavedEpoch, rule: RetentionRule, last: set[UUID]) -> str | None:
    if saved.is_open:
        return "its run has not ended"
    if saved.is_result:
        return "its run's result"
    if saved.is_marked:
        return "starred, tagged or noted"
    if saved.needed_because:
        return saved.needed_because
    if saved.id in last:
        return "the run's last epoch" if rule.keep_last == 1 else f"one of the run's last {rule.keep_last}"
    if rule.keep_every is not None and saved.epoch % rule.keep_every == 0:
        return f"every {_ordinal(rule.keep_every)} epoch"
    if saved.age_hours < rule.min_age_hours:
        return f"younger than {rule.min_age_hours} h"
    return None


def _ordinal(n: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th") if n % 100 not in (11, 12, 13) else "th"
    return f"{n}{ending}"
