"""Example pairs beside a campaign's guidelines: what its operator would answer, and why."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import CampaignExample
from app.db.queries import campaigns as campaign_queries
from app.db.queries import invitations as queries
from app.db.queries import labeling as labeling_queries
from app.domain.enums import Choice
from app.domain.errors import ConflictError, InvalidSpecError, NotFoundError
from app.services import audit
from app.services.accounts import Principal
from app.services.labeling import Side, get_campaign_for, pixels_of

MAX_EXAMPLES = 12


@dataclass(frozen=True)
class ExampleView:
    """An example as raters see it: nothing about where its images come from."""

    id: UUID
    choice: Choice
    note: str
    width: int
    """Of its images, in pixels: small ones are enlarged without smoothing."""


def list_examples(session: Session, campaign_id: UUID, viewer: Principal) -> list[ExampleView]:
    """A campaign's examples in the order in which they were added.

    Raises:
        NotFoundError: there is no such campaign, or it is not this person's.
    """
    get_campaign_for(session, campaign_id, viewer)
    return [_view(row, width) for row, width in queries.examples(session, campaign_id)]


def add_example(
    session: Session,
    who: Principal,
    campaign_id: UUID,
    *,
    left_sample_id: UUID,
    right_sample_id: UUID,
    choice: Choice,
    note: str = "",
    now: datetime,
) -> ExampleView:
    """Show raters this pair with this answer.

    Raises:
        NotFoundError: there is no such campaign.
        ConflictError: the campaign has as many examples as anyone would read.
        InvalidSpecError: a sample is unknown, or both are the same.
    """
    _require_campaign(session, campaign_id)
    if queries.example_count(session, campaign_id) >= MAX_EXAMPLES:
        raise ConflictError(f"A campaign shows at most {MAX_EXAMPLES} examples; remove one first.")
    known = queries.widths_of(session, [left_sample_id, right_sample_id])
    errors = [
        {"field": field, "message": f"There is no sample {id}."}
        for field, id in (("left_sample_id", left_sample_id), ("right_sample_id", right_sample_id))
        if id not in known
    ]
    if left_sample_id == right_sample_id:
        errors.append({"field": "right_sample_id", "message": "An example needs two different samples."})
    if errors:
        raise InvalidSpecError(" ".join(error["message"] for error in errors), errors)
    row = CampaignExample(
        campaign_id=campaign_id,
        left_sample_id=left_sample_id,
        right_sample_id=right_sample_id,
        choice=choice,
        note=note,
        created_at=now,
    )
    session.add(row)
    session.flush()
    audit.record(session, who.user_id, "campaign.example", campaign_id, now, example=str(row.id))
    return _view(row, known[left_sample_id])


def add_example_by_seeds(
    session: Session,
    who: Principal,
    campaign_id: UUID,
    *,
    checkpoint_id: UUID,
    seeds: tuple[int, int],
    choice: Choice,
    note: str,
    now: datetime,
) -> ExampleView:
    """The same for people, who see seeds rather than ids: two samples of one checkpoint.

    Raises:
        NotFoundError, ConflictError, InvalidSpecError: as above; also where nothing was drawn from a seed.
    """
    found = [queries.sample_of_seed(session, checkpoint_id, seed) for seed in seeds]
    for seed, sample in zip(seeds, found, strict=True):
        if sample is None:
            message = f"Nothing was drawn from seed {seed} yet; the checkpoint's page lists the seeds there are."
            raise InvalidSpecError(message, [{"field": "seed", "message": message}])
    left, right = (sample for sample in found if sample is not None)
    return add_example(
        session, who, campaign_id, left_sample_id=left, right_sample_id=right, choice=choice, note=note, now=now
    )


def remove_example(session: Session, who: Principal, campaign_id: UUID, example_id: UUID, now: datetime) -> None:
    """Show it no longer. Raises NotFoundError."""
    session.delete(_require(session, campaign_id, example_id))
    audit.record(session, who.user_id, "campaign.example_removed", campaign_id, now, example=str(example_id))


def example_image(
    session: Session, blobs: BlobStore, campaign_id: UUID, example_id: UUID, side: Side, *, viewer: Principal
) -> bytes:
    """One side of an example as a PNG that holds nothing but the pixels, for those who may rate in the campaign.

    Raises:
        NotFoundError: there is none, or the campaign is not this person's.
    """
    get_campaign_for(session, campaign_id, viewer)
    row = _require(session, campaign_id, example_id)
    sample_id = row.left_sample_id if side == "left" else row.right_sample_id
    return pixels_of(blobs, labeling_queries.sample_sha256(session, sample_id))


def _view(row: CampaignExample, width: int) -> ExampleView:
    return ExampleView(id=row.id, choice=row.choice, note=row.note, width=width)


def _require(session: Session, campaign_id: UUID, example_id: UUID) -> CampaignExample:
    row = session.get(CampaignExample, example_id)
    if row is None or row.campaign_id != campaign_id:
        raise NotFoundError("There is no such example in this campaign.")
    return row


def _require_campaign(session: Session, campaign_id: UUID) -> None:
    if campaign_queries.get_campaign(session, campaign_id) is None:
        raise NotFoundError("There is no such campaign; GET /campaigns lists them.")
