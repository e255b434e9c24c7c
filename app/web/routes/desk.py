"""The desk: what runs, what waits for a person, and the next step around the loop. Raters see their campaigns."""

from dataclasses import dataclass
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.db.queries import gallery as gallery_queries
from app.db.queries import pages as queries
from app.db.queries.pages import LoopState
from app.domain.enums import JobStatus, Role
from app.domain.errors import ForbiddenError
from app.services import attention, checkpoints, gallery, invitations, job_control
from app.services.gallery import SampleView
from app.web.deps import CurrentRater, ReadSession
from app.web.templating import render

router = APIRouter()

_ENOUGH_VOTES = 100
_ENOUGH_BLIND_VOTES = 50


@dataclass(frozen=True)
class Step:
    """One step of the loop as the desk shows it; the first that is not done is the next one."""

    title: str
    text: str
    done: bool
    action: str
    href: str | None


@router.get("/")
def desk(request: Request, session: ReadSession, principal: CurrentRater, fragment: str | None = None) -> Response:
    if principal.guest:
        campaign_id = invitations.home_of_guest(session, principal)
        if campaign_id is None:
            raise ForbiddenError("The campaign that you were invited to is gone.")
        return RedirectResponse(f"/rate/{campaign_id}", status_code=303)
    is_operator = principal.role.covers(Role.OPERATOR)
    campaigns = queries.campaigns_to_rate(session, principal.user_id, all_of_them=is_operator, limit=12)
    votes = queries.votes_in(session, [row.id for row in campaigns])
    own = queries.votes_in(session, [row.id for row in campaigns], rater_id=principal.user_id)
    context = {"campaigns": campaigns, "votes": votes, "own": own}
    if not is_operator:
        return render(request, "desk/rater.html", context)
    work = {
        "running": queries.jobs_by_status(session, [JobStatus.RUNNING], limit=20),
        "waiting": job_control.queue(session, limit=10),
        "matters": attention.matters(session),
    }
    newest = checkpoints.list_checkpoints(session, limit=6).items
    shown = {"checkpoints": newest, "samples": first_samples(session, [row.id for row in newest])}
    if fragment == "live":
        return render(request, "desk/_live.html", work | shown)
    steps = loop_steps(queries.loop_state(session))
    return render(
        request,
        "desk/index.html",
        context
        | work
        | shown
        | {
            "steps": steps,
            "next_step": next((step for step in steps if not step.done), None),
        },
    )


def first_samples(session: Session, checkpoint_ids: list[UUID], *, n: int = 4) -> dict[UUID, list[SampleView]]:
    """The first few samples of each checkpoint."""
    found: dict[UUID, list[SampleView]] = {id: [] for id in checkpoint_ids}
    for sample in gallery.views_of(session, gallery_queries.first_samples(session, checkpoint_ids, per_checkpoint=n)):
        found[sample.checkpoint_id].append(sample)
    return found


def loop_steps(state: LoopState) -> list[Step]:
    """The five steps, with links that are filled in as far as things exist."""
    base, campaign, model = state.base, state.campaign, state.reward_model
    tuned, tournament = state.finetuned, state.tournament
    return [
        Step(
            "Draw samples",
            f"{state.n_samples} drawn" if state.n_samples else "from a base model",
            state.n_samples > 0,
            "Draw samples" if base else "Register a base",
            f"/jobs/new/sample?checkpoint_id={base.id}" if base else "/checkpoints#register",
        ),
        Step(
            "Rate pairs",
            f"{state.n_votes} votes; a reward model wants {_ENOUGH_VOTES} or more"
            if state.n_votes < _ENOUGH_VOTES
            else f"{state.n_votes} votes",
            state.n_votes >= _ENOUGH_VOTES or model is not None,
            "Rate" if campaign else "Ask a question",
            f"/rate/{campaign.id}" if campaign else "/campaigns/new",
        ),
        Step(
            "Train a reward model",
            f"newest: {model.name}" if model else "what do the raters prefer?",
            model is not None,
            "Train",
            f"/jobs/new/reward_model?campaign_id={campaign.id}" if campaign else "/jobs/new/reward_model",
        ),
        Step(
            "Finetune",
            f"newest: {tuned.name}" if tuned else "move the model toward it",
            tuned is not None,
            "Finetune",
            "/jobs/new/finetune?preset=critters-quick"
            + (f"&checkpoint_id={base.id}" if base else "")
            + (f"&reward=preference:{model.id}" if model else ""),
        ),
        Step(
            "See what changed",
            f"{state.n_blind_votes} blind votes against the parent" if tournament else "same seeds, before and after",
            state.n_blind_votes >= _ENOUGH_BLIND_VOTES,
            "Vote blind" if tournament else "Look",
            f"/rate/{tournament.id}" if tournament else (f"/checkpoints/{tuned.id}" if tuned else None),
        ),
    ]
