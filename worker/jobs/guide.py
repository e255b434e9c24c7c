"""Guidance as jobs use it: from a spec to what steers sampling, with reward models from their blobs."""

from collections.abc import Callable
from uuid import UUID

from app.db.models import RewardModel
from app.db.queries import learning as queries
from app.domain.errors import JobError
from app.domain.guidance import require_gradient, why_no_prompt
from app.domain.specs import GuidanceSpec
from worker.jobs.context import JobContext
from worker.ml.guidance import TargetGuidance, clip_guidance
from worker.ml.policy import Policy
from worker.ml.reward_head import RewardHead


def guide_of(context: JobContext, spec: GuidanceSpec) -> Callable[[Policy], TargetGuidance]:
    """Everything that the guidance needs is loaded now, so that a job fails before it draws.

    Raises:
        JobError: the prompt's encoder was not trained with text, the reward has no gradient, or its model is gone.
        UnavailableError: weights cannot be reached; names the file and the setting.
    """
    from worker.ml.encoders import (
        Encoder,
        load_encoder,
    )  # open_clip takes seconds to import; unguided sampling does without
    from worker.ml.guidance_targets import pixel_target, preference_target

    def encoder_called(name: str) -> Encoder:
        return load_encoder(name, device=context.device, weights_dir=context.settings.weights_dir)

    if spec.prompt is not None:
        name, prompt = spec.encoder or context.settings.encoder, spec.prompt
        if (why_not := why_no_prompt(name)) is not None:
            raise JobError(why_not)
        encoder = encoder_called(name)
        return lambda policy: clip_guidance(policy, encoder, prompt, scale=spec.scale)
    assert spec.reward is not None
    require_gradient(spec.reward)
    if spec.reward_model_id is None:
        target = pixel_target(spec.reward)
    else:
        model = _reward_model(context, spec.reward_model_id)
        head = RewardHead.from_bytes(context.blobs.get(model.blob_sha256))
        target = preference_target(encoder_called(model.encoder), head)
    return lambda policy: TargetGuidance(policy, target, scale=spec.scale)


def _reward_model(context: JobContext, reward_model_id: UUID) -> RewardModel:
    with context.database.reader() as session:
        model = queries.get_reward_model(session, reward_model_id)
    if model is None:
        raise JobError(f"Reward model {reward_model_id} does not exist any more.")
    return model
