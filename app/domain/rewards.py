"""The built-in rewards, as they are listed before any worker has reported what it can run."""

from pydantic import BaseModel, ConfigDict


class RewardDescription(BaseModel):
    """A reward as people see it in a list. Higher is what finetuning moves toward."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)

    name: str
    title: str
    description: str
    unit: str
    direction: str
    """What a higher reward means."""
    range: tuple[float | None, float | None]
    needs: str
    """What must be there for it to run; empty where nothing is needed."""


PREFERENCE = "preference"

BUILT_IN_REWARDS: tuple[RewardDescription, ...] = (
    RewardDescription(
        name="jpeg_compressibility",
        title="JPEG compressibility",
        description="Minus the size of the image as a JPEG file of quality 95 (parameter `quality`).",
        unit="kB",
        direction="higher means a smaller file: smoother, plainer images",
        range=(None, 0.0),
        needs="",
    ),
    RewardDescription(
        name="jpeg_incompressibility",
        title="JPEG incompressibility",
        description="The size of the image as a JPEG file of quality 95 (parameter `quality`).",
        unit="kB",
        direction="higher means a larger file: richer texture and detail",
        range=(0.0, None),
        needs="",
    ),
    RewardDescription(
        name="brightness",
        title="Brightness",
        description="Mean luma of the image.",
        unit="share of white",
        direction="higher means brighter",
        range=(0.0, 1.0),
        needs="",
    ),
    RewardDescription(
        name="colourfulness",
        title="Colourfulness",
        description="Hasler and Süsstrunk's colourfulness: spread and distance from grey of the opponent colours.",
        unit="8-bit levels",
        direction="higher means more vivid colours",
        range=(0.0, None),
        needs="",
    ),
    RewardDescription(
        name="sharpness",
        title="Sharpness",
        description="Mean squared Laplacian of the luma.",
        unit="luma squared",
        direction="higher means harder edges",
        range=(0.0, None),
        needs="",
    ),
    RewardDescription(
        name=PREFERENCE,
        title="Learned preference",
        description="A reward model that was trained on raters' votes (`reward_model_id` says which).",
        unit="standard deviations of the reference samples",
        direction="higher means more likely to be preferred",
        range=(None, None),
        needs="a trained reward model",
    ),
)
