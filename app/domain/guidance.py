"""What sampling can be steered by: encoders that read text, and rewards that have a gradient."""

from app.domain.errors import JobError
from app.domain.rewards import PREFERENCE

TEXT_ENCODERS: tuple[str, ...] = ("ViT-B-32", "ViT-L-14")
"""Encoders with a trained text tower."""

DIFFERENTIABLE_REWARDS: tuple[str, ...] = ("brightness", "colourfulness", "sharpness", PREFERENCE)
"""Rewards whose gradient with respect to the pixels exists; JPEG sizes, for one, have none."""


def why_no_prompt(encoder: str) -> str | None:
    """Why a prompt cannot steer with this encoder; None where it can."""
    if encoder in TEXT_ENCODERS:
        return None
    return (
        f"The encoder {encoder!r} was not trained with text, so a prompt cannot steer it; choose a CLIP encoder "
        f"({' or '.join(TEXT_ENCODERS)}), or guide by a reward."
    )


def require_gradient(reward: str) -> None:
    """Raises JobError: the reward has no gradient that sampling could follow."""
    if reward not in DIFFERENTIABLE_REWARDS:
        raise JobError(
            f"The reward {reward!r} has no gradient with respect to the pixels, so it cannot guide sampling; use one "
            f"of {', '.join(DIFFERENTIABLE_REWARDS)}, or finetune toward it."
        )
