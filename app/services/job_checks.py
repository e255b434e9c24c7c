"""Whether what a spec refers to exists and can be used: checked at submission, so that no job fails on it later."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from app.config import Settings
from app.db.queries import gallery, uploads
from app.db.queries import job_lists as queries
from app.domain.errors import InvalidSpecError, JobError
from app.domain.guidance import require_gradient, why_no_prompt
from app.domain.rewards import PREFERENCE
from app.domain.sources import folder_inside
from app.domain.specs import (
    AnalyzeSpec,
    EvaluateSpec,
    FinetuneSpec,
    FolderSource,
    GuidanceSpec,
    PretrainSpec,
    PushSpec,
    RewardModelSpec,
    RewardTerm,
    SampleSpec,
    Spec,
)
from app.services.rewards import list_rewards


class _Problems:
    def __init__(self) -> None:
        self.errors: list[dict[str, str]] = []

    def add(self, field: str, message: str) -> None:
        self.errors.append({"field": field, "message": message})


def check_references(session: Session, settings: Settings, spec: Spec) -> None:
    """Look up everything that `spec` names.

    Raises:
        InvalidSpecError: names every field that refers to something that is not there.
    """
    problems = _Problems()
    _check_checkpoints(session, spec, problems)
    _check_rewards(session, spec, problems)
    if isinstance(spec, SampleSpec) and spec.guidance is not None:
        _check_guidance(session, settings, spec.guidance, problems)
    if (
        isinstance(spec, AnalyzeSpec)
        and spec.image_id is not None
        and uploads.get_upload(session, spec.image_id) is None
    ):
        problems.add("spec.image_id", f"There is no uploaded image {spec.image_id}; POST /api/v1/images uploads one.")
    if isinstance(spec, RewardModelSpec) and queries.campaign(session, spec.campaign_id) is None:
        problems.add("spec.campaign_id", f"There is no campaign {spec.campaign_id}.")
    if isinstance(spec, PretrainSpec) and isinstance(spec.data, FolderSource):
        folder = folder_inside(settings.models_root, spec.data.path, field="spec.data.path")
        if folder is None:
            problems.add("spec.data.path", f"There is no folder {spec.data.path!r} in the configured models folder.")
    if isinstance(spec, PushSpec) and settings.hub_token is None:
        problems.add("spec.repo_id", "No hub token is configured: set TASTEMAKER_HUB_TOKEN for web and worker first.")
    if problems.errors:
        fields = ", ".join(error["field"] for error in problems.errors)
        raise InvalidSpecError(f"The spec refers to what is not there: see {fields}.", problems.errors)


def check_checkpoints(session: Session, spec: Spec) -> None:
    """Look up the checkpoints that `spec` names. Raises InvalidSpecError where one is not there."""
    problems = _Problems()
    _check_checkpoints(session, spec, problems)
    if problems.errors:
        raise InvalidSpecError("The spec refers to a checkpoint that is not there.", problems.errors)


def _check_checkpoints(session: Session, spec: Spec, problems: _Problems) -> None:
    named = list(_named_checkpoints(spec))
    known = gallery.existing_checkpoints(session, [id for _, id in named], keep=True)
    for field, id in named:
        if id not in known:
            problems.add(field, f"There is no checkpoint {id}.")


def _named_checkpoints(spec: Spec) -> Iterator[tuple[str, UUID]]:
    match spec:
        case SampleSpec() | FinetuneSpec() | PushSpec():
            yield "spec.checkpoint_id", spec.checkpoint_id
        case EvaluateSpec() | AnalyzeSpec():
            for index, id in enumerate(spec.checkpoint_ids):
                yield f"spec.checkpoint_ids.{index}", id
        case PretrainSpec(init_checkpoint_id=UUID() as id):
            yield "spec.init_checkpoint_id", id
        case _:
            return


def _check_rewards(session: Session, spec: Spec, problems: _Problems) -> None:
    named = list(_named_rewards(spec))
    if not named:
        return
    rewards = {reward.name: reward for reward in list_rewards(session)}
    wanted = [term.reward_model_id for _, term in named if term.reward_model_id is not None]
    models = queries.reward_model_ids(session, wanted)
    for field, term in named:
        reward = rewards.get(term.name)
        if reward is None:
            problems.add(f"{field}.name", f"There is no reward {term.name!r}; known: {', '.join(rewards)}.")
        elif term.name != PREFERENCE and reward.can_run is False:
            problems.add(f"{field}.name", f"The reward {term.name!r} cannot run here: {reward.why_not}")
        if term.reward_model_id is not None and term.reward_model_id not in models:
            problems.add(f"{field}.reward_model_id", f"There is no reward model {term.reward_model_id}.")


def _check_guidance(session: Session, settings: Settings, guidance: GuidanceSpec, problems: _Problems) -> None:
    if guidance.prompt is not None:
        if (why_not := why_no_prompt(guidance.encoder or settings.encoder)) is not None:
            problems.add("spec.guidance.encoder" if guidance.encoder else "spec.guidance.prompt", why_not)
        return
    assert guidance.reward is not None
    try:
        require_gradient(guidance.reward)
    except JobError as error:
        problems.add("spec.guidance.reward", error.detail)
    model_id = guidance.reward_model_id
    if model_id is not None and not queries.reward_model_ids(session, [model_id]):
        problems.add("spec.guidance.reward_model_id", f"There is no reward model {model_id}.")


def _named_rewards(spec: Spec) -> Iterator[tuple[str, RewardTerm]]:
    groups: Sequence[tuple[str, Sequence[RewardTerm]]] = ()
    if isinstance(spec, FinetuneSpec):
        groups = (("spec.reward", spec.reward), ("spec.guard.holdout_rewards", spec.guard.holdout_rewards))
    elif isinstance(spec, EvaluateSpec | AnalyzeSpec):
        groups = (("spec.rewards", spec.rewards),)
    for field, terms in groups:
        for index, term in enumerate(terms):
            yield f"{field}.{index}", term
