"""Links into one campaign for raters without an account: made and revoked by operators, opened by whoever has one.

Who comes by a link picks a name and becomes a guest: a user without password or token whose browser session reaches the
rating page of the campaigns they were invited to, and nothing else (`CurrentRater` in `app.web.deps`).
"""

import secrets
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.models import Campaign, Guest, Invitation, User
from app.db.queries import accounts as account_queries
from app.db.queries import campaigns as campaign_queries
from app.db.queries import invitations as queries
from app.db.queries.keyset import Position, Slice
from app.domain.documented import Documented
from app.domain.enums import CampaignStatus, Role
from app.domain.errors import ConflictError, GoneError, InvalidSpecError, NotFoundError
from app.services import accounts, audit
from app.services.accounts import Principal

VALID_FOR = timedelta(days=14)
LONGEST = timedelta(days=366)
LONGEST_NAME = 60
_CODE_BYTES = 16  # 128 random bits: nobody guesses one, and the QR code stays coarse enough for any camera


class InvitationState(StrEnum):
    OPEN = "open"
    EXPIRED = "expired"
    REVOKED = "revoked"
    USED_UP = "used_up"


class InvitationView(Documented):
    """A link into a campaign, without its code."""

    id: UUID
    campaign_id: UUID
    label: str
    """Where the link was sent; only operators see it."""
    state: InvitationState
    max_uses: int
    n_uses: int
    """How many people came by it."""
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class NewInvitationView(InvitationView):
    code: str
    """The secret part of the link. It is shown this once and not stored."""


@dataclass(frozen=True)
class OpenInvitation:
    """What someone who holds a working link may know before they accept it."""

    campaign_id: UUID
    question: str


def create_invitation(
    session: Session,
    who: Principal,
    campaign_id: UUID,
    *,
    label: str = "",
    max_uses: int,
    expires_at: datetime | None = None,
    now: datetime,
) -> NewInvitationView:
    """A new link into a campaign; it lasts two weeks where no end is given.

    Raises:
        NotFoundError: there is no such campaign.
        ConflictError: the campaign is closed.
        InvalidSpecError: the end is in the past or more than a year away.
    """
    campaign = _require_campaign(session, campaign_id)
    if campaign.status is CampaignStatus.CLOSED:
        raise ConflictError("This campaign is closed; nobody can be invited to it any more.")
    expires_at = expires_at or now + VALID_FOR
    if not now < expires_at <= now + LONGEST:
        message = "Choose a moment after now and within a year, or leave it out for two weeks."
        raise InvalidSpecError(message, [{"field": "expires_at", "message": message}])
    code = secrets.token_urlsafe(_CODE_BYTES)
    row = Invitation(
        campaign_id=campaign_id,
        label=label,
        code_hash=accounts.hash_token(code),
        max_uses=max_uses,
        n_uses=0,
        created_by=who.user_id,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    audit.record(session, who.user_id, "invitation.create", row.id, now, campaign=str(campaign_id), label=label)
    return NewInvitationView(**_view(row, now).model_dump(), code=code)


def list_invitations(
    session: Session, campaign_id: UUID, *, now: datetime, after: Position | None = None, limit: int = 50
) -> Slice[InvitationView]:
    """A campaign's links, newest first, ended ones included. Raises NotFoundError."""
    _require_campaign(session, campaign_id)
    found = queries.invitations(session, campaign_id, after=after, limit=limit)
    return found.map(lambda row: _view(row, now))


def revoke_invitation(
    session: Session, who: Principal, campaign_id: UUID, invitation_id: UUID, now: datetime, *, sign_out: bool = False
) -> None:
    """Let nobody else in by this link; with `sign_out`, also end the sessions of those who came by it.

    Votes stay. Doing it again changes nothing.

    Raises:
        NotFoundError: the campaign has no such invitation.
    """
    row = session.get(Invitation, invitation_id)
    if row is None or row.campaign_id != campaign_id:
        raise NotFoundError(f"Campaign {campaign_id} has no invitation {invitation_id}.")
    if sign_out:
        queries.end_guest_sessions(session, invitation_id)
    if row.revoked_at is None:
        row.revoked_at = now
        audit.record(session, who.user_id, "invitation.revoke", invitation_id, now, campaign=str(campaign_id))


def open_invitation(session: Session, code: str, now: datetime) -> OpenInvitation:
    """The campaign behind a code.

    Raises:
        NotFoundError: nobody was given this code.
        GoneError: it has expired, was revoked or is used up, or its campaign has ended.
    """
    return _open(session, code, now)[1]


def accept_as_guest(
    session: Session, code: str, name: str, now: datetime, *, session_hours: int
) -> tuple[OpenInvitation, str]:
    """Come in under a name of one's own. Returns where to, and the secret of the new browser session.

    A name that is taken gets a number, so that nobody passes for somebody else.

    Raises:
        NotFoundError, GoneError: as for opening it.
        InvalidSpecError: there is no name, or it is too long.
    """
    invitation, opened = _open(session, code, now)
    chosen = _tidy(name)
    if not 1 <= len(chosen) <= LONGEST_NAME:
        message = f"Choose a name of 1 to {LONGEST_NAME} characters; a nickname is fine."
        raise InvalidSpecError(message, [{"field": "name", "message": message}])
    _take_use(session, invitation, now)
    user = _new_rater(session, chosen, now)
    session.add(Guest(user_id=user.id, invitation_id=invitation.id, created_at=now))
    _join(session, invitation, user.id, now)
    return opened, accounts.start_web_session(session, user.id, now, session_hours=session_hours)


def accept_as(session: Session, code: str, who: Principal, now: datetime) -> OpenInvitation:
    """Make someone who is signed in a member of the campaign; one who may rate there already uses nothing up.

    Raises:
        NotFoundError, GoneError: as for opening it.
    """
    invitation, opened = _open(session, code, now)
    if not who.role.covers(Role.OPERATOR) and not campaign_queries.is_member(session, opened.campaign_id, who.user_id):
        _take_use(session, invitation, now)
        _join(session, invitation, who.user_id, now)
    return opened


def campaign_of_member(session: Session, code: str, who: Principal) -> UUID | None:
    """The campaign behind a code, ended or not, for someone who came in before; None for everybody else."""
    found = queries.invitation_of_code(session, accounts.hash_token(code))
    if found is None or not campaign_queries.is_member(session, found[1].id, who.user_id):
        return None
    return found[1].id


def home_of_guest(session: Session, guest: Principal) -> UUID | None:
    """The campaign that a guest is sent to when they ask for any other page."""
    return queries.newest_campaign_of(session, guest.user_id)


def _open(session: Session, code: str, now: datetime) -> tuple[Invitation, OpenInvitation]:
    found = queries.invitation_of_code(session, accounts.hash_token(code))
    if found is None:
        raise NotFoundError("This invitation is not known here. Check that the link was copied whole.")
    invitation, campaign = found
    if campaign.status is CampaignStatus.CLOSED:
        raise GoneError("This question has been answered: its campaign is closed. Thank you for coming.")
    if (state := _state(invitation, now)) is not InvitationState.OPEN:
        raise _ended(state)
    return invitation, OpenInvitation(campaign_id=campaign.id, question=campaign.question)


def _take_use(session: Session, invitation: Invitation, now: datetime) -> None:
    if not queries.take_use(session, invitation.id, now):
        raise _ended(InvitationState.USED_UP)  # by somebody else, in this moment


def _ended(state: InvitationState) -> GoneError:
    why = {
        InvitationState.EXPIRED: "has expired",
        InvitationState.REVOKED: "was withdrawn",
        InvitationState.USED_UP: "was used by as many people as it was made for",
    }[state]
    return GoneError(f"This invitation {why}. Ask whoever sent it for a new one.")


def _new_rater(session: Session, name: str, now: datetime) -> User:
    number = 1
    while True:
        candidate = name if number == 1 else f"{name} {number}"
        number += 1
        if account_queries.user_by_name(session, candidate) is not None:
            continue
        user = User(name=candidate, role=Role.RATER, created_at=now)
        try:
            with session.begin_nested():
                session.add(user)
        except IntegrityError:
            continue  # somebody took it in this moment
        return user


def _join(session: Session, invitation: Invitation, user_id: UUID, now: datetime) -> None:
    campaign_queries.add_raters(session, invitation.campaign_id, [user_id])
    audit.record(session, user_id, "invitation.accept", invitation.id, now, campaign=str(invitation.campaign_id))


def _tidy(name: str) -> str:
    """Without control and direction characters, which could make it look like another one; single spaces."""
    visible = "".join(" " if char.isspace() else char for char in unicodedata.normalize("NFC", name))
    return " ".join("".join(char for char in visible if unicodedata.category(char)[0] != "C").split())


def _require_campaign(session: Session, campaign_id: UUID) -> Campaign:
    campaign = campaign_queries.get_campaign(session, campaign_id)
    if campaign is None:
        raise NotFoundError("There is no such campaign; GET /campaigns lists them.")
    return campaign


def _state(row: Invitation, now: datetime) -> InvitationState:
    if row.revoked_at is not None:
        return InvitationState.REVOKED
    if row.expires_at <= now:
        return InvitationState.EXPIRED
    return InvitationState.USED_UP if row.n_uses >= row.max_uses else InvitationState.OPEN


def _view(row: Invitation, now: datetime) -> InvitationView:
    return InvitationView(
        id=row.id,
        campaign_id=row.campaign_id,
        label=row.label,
        state=_state(row, now),
        max_uses=row.max_uses,
        n_uses=row.n_uses,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
