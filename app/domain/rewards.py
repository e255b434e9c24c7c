"""The built-in rewards, as they are listed before any worker has reported what it can run."""

from pydantic import ConfigDict

from app.domain.documented import Documented


class RewardDescription(Documented):
    """A reward as people see it in a list. Higher is what finetuning moves toward."""

    model_config = ConfigDict(frozen=True)

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
        name="aesthetic",
        title="Aesthetic score",
        description="LAION-Aesthetic V2: how much people like a picture, learned from ratings of photographs and art.",
        unit="score, about 1 to 10",
        direction="higher means rated as more beautiful",
        range=(None, None),
        needs="the head sac+logos+ava1-l14-linearMSE and the OpenCLIP encoder ViT-L-14",
    ),
    RewardDescription(
        name="clip_similarity",
        title="CLIP text similarity",
        description="How well the image fits a text (parameter `prompt`; `encoder` is ViT-B-32 or ViT-L-14).",
        unit="cosine",
        direction="higher means closer to the text",
        range=(-1.0, 1.0),
        needs="an OpenCLIP encoder with a text tower, ViT-B-32 unless another is named",
    ),
    RewardDescription(
        name="over50",
        title="Over 50",
        description="Evidence that the face is of 50 years or more. "
        "Parameter `mode`: `logit_sum` (as in the thesis) or `probability`.",
        unit="sum of logits, or of probabilities",
        direction="higher means older",
        range=(None, None),
        needs="the age classifier nateraw/vit-age-classifier; images of faces",
    ),
    RewardDescription(
        name="under30",
        title="Under 30",
        description="Evidence that the face is of under 30 years. "
        "Parameter `mode`: `logit_sum` (as in the thesis) or `probability`.",
        unit="sum of logits, or of probabilities",
        direction="higher means younger",
        range=(None, None),
        needs="the age classifier nateraw/vit-age-classifier; images of faces",
    ),
    RewardDescription(
        name="age_range",
        title="Age range",
        description="Evidence that the face's age is in a range (`min_age`, `max_age`: bounds of age classes). "
        "Parameter `mode`: `logit_sum` (as in the thesis) or `probability`.",
        unit="sum of logits, or of probabilities",
        direction="higher means more surely inside the range",
        range=(None, None),
        needs="the age classifier nateraw/vit-age-classifier; images of faces",
    ),
    RewardDescription(
        name=PREFERENCE,
        title="Learned preference",
        description="A reward model that was trained on raters' votes (`reward_model_id` says which). "
        "Parameter `k`: how many standard deviations of the ensemble are subtracted, as caution.",
        unit="standard deviations of the reference samples",
        direction="higher means more likely to be preferred",
        range=(None, None),
        needs="a trained reward model",
    ),
)
