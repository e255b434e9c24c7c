"""Votes from an export, of this or another deployment, into a campaign on the same samples."""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from sqlalchemy.orm import Session

from app.config import Settings
from app.db.models import Campaign, Comparison, Preference
from app.db.queries import imports as queries
from app.db.queries import labeling as labeling_queries
from app.domain.enums import CampaignStatus, Choice, Strategy
from app.domain.errors import ConflictError, InvalidSpecError, NotFoundError
from app.domain.pairing import canonical
from app.services import accounts, audit
from app.services.accounts import Principal
from app.services.export import rater_pseudonym
from app.services.export_folder import METADATA

MAX_ROWS = 20_000
"""Votes that one call may bring; `tastemaker import-votes` sends larger files in parts."""

_YEARS = range(2000, 2101)
"""Votes of other years are slips of a clock or of a hand, and would make a campaign's timeline endless."""

_MAX_UNPACKED = 100_000_000
_MAX_TEXT = 10_000


class ImportedVote(BaseModel):
    """One row of an export. Columns that an import does not need may be there too."""

    model_config = ConfigDict(extra="ignore")

    comparison_id: UUID
    campaign_id: UUID
    rater: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    left_sample_id: UUID
    right_sample_id: UUID
    left_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    right_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    choice: Choice
    response_ms: int | None = Field(default=None, ge=0, le=86_400_000)
    strategy: Strategy
    is_random: bool
    selection_probability: float = Field(ge=0, le=1)
    repetition: int = Field(default=0, ge=0, le=1)
    repeat_of: UUID | None = None
    gold: Literal["left", "right"] | None = None
    retracted: bool = False
    leased_at: AwareDatetime
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @field_validator("leased_at", "created_at", "updated_at")
    @classmethod
    def _is_of_our_time(cls, moment: datetime) -> datetime:
        if moment.year not in _YEARS:
            raise ValueError(f"the year must be {_YEARS[0]} to {_YEARS[-1]}")
        return moment


@dataclass(frozen=True)
class ImportReport:
    """What came of an import: votes stored, votes that were here before, the raters behind them, and how many of those
    do not count because they were retracted where the votes come from."""

    imported: int
    known: int
    raters: int
    retracted: int


def read_rows(data: bytes) -> list[ImportedVote]:
    """The votes of a file in any of the export's formats, told by its first bytes.

    Raises:
        InvalidSpecError: it is none of them, a row is not a vote (which, and why), or there are too many.
    """
    votes: list[ImportedVote] = []
    for number, row in enumerate(_raw_rows(data), start=1):
        if number > MAX_ROWS:
            raise _refused(f"More than {MAX_ROWS:,} votes in one call; send the file in parts.")
        try:
            votes.append(ImportedVote.model_validate(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _refused(f"Vote {number} is not one of an export: {where}: {first['msg']}.") from None
    return votes


def import_votes(
    session: Session,
    settings: Settings,
    who: Principal,
    campaign_id: UUID,
    votes: Sequence[ImportedVote],
    now: datetime,
) -> ImportReport:
    """Store votes that are not here yet, all of them or none; the same file again changes nothing.

    Samples are found by id, or by the hash of their image among the campaign's checkpoints. Raters are found by their
    pseudonym, else made as users that nobody can sign in as. Votes of another campaign get ids of their own. Who was
    retracted there is retracted here too, unless votes of theirs were counted here before.

    Raises:
        NotFoundError: there is no such campaign.
        ConflictError: it is closed, or its budget is too small.
        InvalidSpecError: a sample is not among the campaign's, a repeat's first showing is missing or another pair's,
            or one comparison is there twice with different contents.
    """
    votes = _distinct(votes)
    campaign = labeling_queries.lock_campaign(session, campaign_id)
    if campaign is None:
        raise NotFoundError("There is no such campaign; GET /campaigns lists them.")
    if campaign.status is CampaignStatus.CLOSED:
        raise ConflictError("This campaign is closed; it takes no more votes. Import into one that is open.")
    ids = {vote.comparison_id: _id_here(campaign_id, vote) for vote in votes}
    known = queries.existing_comparisons(session, list(ids.values()))
    new = sorted((vote for vote in votes if ids[vote.comparison_id] not in known), key=lambda vote: vote.repetition)
    if campaign.budget is not None and campaign.n_leased + len(new) > campaign.budget:
        raise ConflictError(
            f"The campaign's budget of {campaign.budget:,} has no room for {len(new):,} more votes; import into a "
            "campaign with a larger one, or none."
        )
    samples = _samples(session, campaign, new)
    raters = _raters(session, settings, campaign_id, new, now)
    counted = queries.raters_who_count(session, campaign_id, set(raters.values()))
    retracted = {raters[vote.rater] for vote in new if vote.retracted} - counted
    _require_firsts(session, campaign_id, {vote.comparison_id: vote for vote in votes}, new)
    stored = 0
    for vote in new:
        left, right = samples[vote.left_sample_id], samples[vote.right_sample_id]
        if left == right:
            raise _refused(f"Comparison {vote.comparison_id} shows one sample twice; remove it from the file.")
        pair_id = labeling_queries.ensure_pair(session, campaign_id, canonical(left, right), now=now)
        rater_id = raters[vote.rater]
        seen = queries.showing_of(session, pair_id, rater_id, vote.repetition)
        if seen is not None:
            ids[vote.comparison_id] = seen  # a repeat of it further down repeats what is here
            continue
        if vote.gold is not None:
            queries.ensure_gold(session, campaign_id, pair_id, left if vote.gold == "left" else right, now=now)
        elif vote.repetition == 0:
            queries.count_showing(session, pair_id)
        session.add(_comparison(campaign_id, ids, vote, pair_id, rater_id, left, right))
        session.flush()
        session.add(_preference(campaign_id, ids[vote.comparison_id], rater_id, vote))
        stored += 1
    session.flush()
    for rater_id in sorted(retracted, key=str):
        if queries.ensure_retraction(session, campaign_id, rater_id, now=now):
            audit.record(
                session, who.user_id, "rater.retract", campaign_id, now, rater=str(rater_id), reason="by an import"
            )
    queries.count_votes(session, campaign_id, stored)
    audit.record(session, who.user_id, "votes.import", campaign_id, now, imported=str(stored))
    n_raters = len({vote.rater for vote in votes})
    return ImportReport(imported=stored, known=len(votes) - stored, raters=n_raters, retracted=len(retracted))


def _distinct(votes: Sequence[ImportedVote]) -> list[ImportedVote]:
    """Every comparison once. Raises InvalidSpecError where it is there twice with different contents."""
    found: dict[UUID, ImportedVote] = {}
    for number, vote in enumerate(votes, start=1):
        if found.setdefault(vote.comparison_id, vote) != vote:
            raise _refused(
                f"Vote {number}: comparison {vote.comparison_id} is in the file before, with other contents; keep one."
            )
    return list(found.values())


def _comparison(
    campaign_id: UUID,
    ids: dict[UUID, UUID],
    vote: ImportedVote,
    pair_id: UUID,
    rater_id: UUID,
    left: UUID,
    right: UUID,
) -> Comparison:
    repeat_of = (
        None if vote.repeat_of is None else ids.get(vote.repeat_of, _translated(campaign_id, vote, vote.repeat_of))
    )
    return Comparison(
        id=ids[vote.comparison_id],
        campaign_id=campaign_id,
        pair_id=pair_id,
        rater_id=rater_id,
        left_sample_id=left,
        right_sample_id=right,
        strategy=vote.strategy,
        is_random=vote.is_random and vote.gold is None,
        is_gold=vote.gold is not None,
        selection_probability=vote.selection_probability,
        repetition=vote.repetition,
        repeat_of=repeat_of,
        leased_at=vote.leased_at,
        expires_at=max(vote.created_at, vote.leased_at),
        closed_at=vote.created_at,
    )


def _preference(campaign_id: UUID, comparison_id: UUID, rater_id: UUID, vote: ImportedVote) -> Preference:
    return Preference(
        comparison_id=comparison_id,
        campaign_id=campaign_id,
        rater_id=rater_id,
        choice=vote.choice,
        response_ms=vote.response_ms,
        created_at=vote.created_at,
        updated_at=vote.updated_at,
    )


def _id_here(campaign_id: UUID, vote: ImportedVote) -> UUID:
    return _translated(campaign_id, vote, vote.comparison_id)


def _translated(campaign_id: UUID, vote: ImportedVote, comparison_id: UUID) -> UUID:
    """The id itself where it comes home, else one that is the same at every import."""
    return comparison_id if vote.campaign_id == campaign_id else uuid5(campaign_id, str(comparison_id))


def _samples(session: Session, campaign: Campaign, votes: Sequence[ImportedVote]) -> dict[UUID, UUID]:
    """The campaign's sample for each sample id of the file."""
    wanted = {vote.left_sample_id: vote.left_sha256 for vote in votes}
    wanted |= {vote.right_sample_id: vote.right_sha256 for vote in votes}
    by_id, by_hash = queries.campaign_samples(session, campaign.id, list(wanted), list(set(wanted.values())))
    found = {id: id if by_id.get(id) == digest else by_hash.get(digest) for id, digest in wanted.items()}
    missing = [id for id, here in found.items() if here is None]
    if missing:
        raise _refused(
            f"{len(missing):,} of {len(wanted):,} images are not among the samples of this campaign's checkpoints, for "
            f"example {wanted[missing[0]][:12]}…; register the same checkpoints, draw the same seeds, and import again."
        )
    return {id: here for id, here in found.items() if here is not None}


def _raters(
    session: Session, settings: Settings, campaign_id: UUID, votes: Sequence[ImportedVote], now: datetime
) -> dict[str, UUID]:
    known = {rater_pseudonym(id, settings): id for id in queries.user_ids(session)}
    raters = {}
    for name in dict.fromkeys(vote.rater for vote in votes):
        raters[name] = known.get(name) or accounts.imported_rater(session, name, now).id
    return raters


def _require_firsts(
    session: Session, campaign_id: UUID, in_file: Mapping[UUID, ImportedVote], votes: Sequence[ImportedVote]
) -> None:
    for vote in votes:
        if (vote.repeat_of is None) != (vote.repetition == 0):
            raise _refused(f"Comparison {vote.comparison_id}: repetition and repeat_of do not fit together.")
        first = in_file.get(vote.repeat_of) if vote.repeat_of is not None else None
        if first is not None and (first.rater != vote.rater or _pair(first) != _pair(vote)):
            raise _refused(
                f"Comparison {vote.comparison_id} repeats {first.comparison_id}, of another rater or another pair."
            )
    elsewhere = {
        _translated(campaign_id, vote, vote.repeat_of)
        for vote in votes
        if vote.repeat_of is not None and vote.repeat_of not in in_file
    }
    missing = elsewhere - queries.existing_comparisons(session, list(elsewhere))
    if missing:
        raise _refused(
            f"{len(missing):,} votes repeat comparisons that are neither in this file nor here; import the whole file."
        )


def _pair(vote: ImportedVote) -> frozenset[UUID]:
    return frozenset((vote.left_sample_id, vote.right_sample_id))


def _raw_rows(data: bytes) -> Iterator[Any]:
    if data.startswith(b"PAR1"):
        yield from _guarded("Parquet", lambda: _parquet_rows(data))
    elif data.startswith(b"PK"):
        yield from _guarded("zip", lambda: _json_rows(_metadata_of(data)))
    else:
        yield from _json_rows(data)


def _json_rows(data: bytes) -> Iterator[Any]:
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            raise _refused(
                f"Line {number} is not JSON; send what the export wrote: JSON lines, Parquet, or the zipped folder."
            ) from None


def _metadata_of(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.getinfo(METADATA).file_size > _MAX_UNPACKED:
            raise _refused("The votes in this archive unpack to more than 100 MB; send them in parts.")
        with archive.open(METADATA) as stream:
            return stream.read(_MAX_UNPACKED)


def _parquet_rows(data: bytes) -> Iterator[Any]:
    import pyarrow as pa  # 60 MB of shared libraries that only this call needs
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data))
    if file.metadata.num_rows > MAX_ROWS:
        raise _refused(f"More than {MAX_ROWS:,} votes in one call; send the file in parts.")
    fields = [field for field in file.schema_arrow if field.name in ImportedVote.model_fields]
    for field in fields:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        # the length of texts is checked below; what else may be long or nested, no export writes
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_short(kind)):
            raise _refused(f"Column {field.name!r} holds values of type {kind}; send what the export wrote.")
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    if sum(group.total_byte_size for group in groups) > _MAX_UNPACKED:
        raise _refused("The votes in this Parquet file unpack to more than 100 MB; send them in parts.")
    # a page may name one long text a thousand times: texts stay in their dictionary until their length is known
    texts = [field.name for field in fields if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    file = pq.ParquetFile(io.BytesIO(data), read_dictionary=texts)
    for batch in file.iter_batches(batch_size=1000, columns=[field.name for field in fields]):
        for column in batch.columns:
            words = column.dictionary if pa.types.is_dictionary(column.type) else column
            if not _is_short(words.type) and len(words) and (pc.max(pc.binary_length(words)).as_py() or 0) > _MAX_TEXT:
                raise _refused(f"A value of more than {_MAX_TEXT:,} bytes; send what the export wrote.")
        yield from batch.to_pylist()


def _is_short(kind: Any) -> bool:
    """Whether values of this Arrow type have a few bytes each, whatever they are."""
    import pyarrow as pa

    return bool(pa.types.is_primitive(kind) or pa.types.is_null(kind))


def _guarded(kind: str, rows: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    try:
        yield from rows()
    except InvalidSpecError:
        raise
    except Exception as error:  # whatever a library says of a broken file
        raise _refused(f"This {kind} file cannot be read ({type(error).__name__}); export it anew.") from error


def _refused(message: str) -> InvalidSpecError:
    return InvalidSpecError(message, [{"field": "file", "message": message}])
