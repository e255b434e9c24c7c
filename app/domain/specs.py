"""Job specs: the hyperparameters of a run. One model is the form, the stored row and the run (form = row = run).

Every bound is enforced here, and a message names the field. `parse_spec` is the only door.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from app.domain.documented import Documented
from app.domain.enums import AnalysisKind, Baseline, Credit, JobKind, Objective, Precision
from app.domain.errors import InvalidSpecError
from app.domain.presets import FINETUNE_PRESETS

Seed = Annotated[int, Field(ge=0, le=2**31 - 1, description="Seed; 0 is a seed like any other.")]
Steps = Annotated[int, Field(ge=1, le=1000, description="Denoising steps out of the model's T (usually 1000).")]
SamplingSteps = Annotated[Steps, Field(default=40)]
Name = Annotated[str, Field(min_length=1, max_length=120)]
Shards = Annotated[
    int,
    Field(
        ge=1,
        le=64,
        description="Parts that the seeds are split into, for so many workers to take one each. The job itself "
        "comes last and gathers what they drew; 1 does everything by itself.",
    ),
]


class Spec(Documented):
    """Base of all specs: unknown fields are errors, instances are immutable, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GuidanceSpec(Spec):
    """Steer sampling by the gradient of a prompt's similarity, or of a reward, at x_0_pred. Give one of the two."""

    prompt: str | None = Field(default=None, min_length=1, max_length=300)
    """Text that CLIP steers x_0_pred toward."""
    scale: float = Field(gt=0, le=1_000_000)
    """Strength of the guidance gradient."""
    reward: str | None = Field(default=None, min_length=1, max_length=80)
    """A differentiable reward to raise instead: brightness, colourfulness, sharpness or preference."""
    reward_model_id: UUID | None = None
    """Which learned reward; required for `preference`, refused elsewhere."""
    encoder: str | None = Field(default=None, min_length=1, max_length=80)
    """Encoder with a text tower that reads the prompt; empty means the configured default."""

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if (self.prompt is None) == (self.reward is None):
            raise ValueError("guidance needs a prompt or a reward, and not both")
        if (self.reward == "preference") != (self.reward_model_id is not None):
            raise ValueError("reward_model_id belongs to the reward 'preference', and that reward needs it")
        if self.encoder is not None and self.prompt is None:
            raise ValueError("encoder belongs to a prompt")
        return self

    @property
    def recipe(self) -> dict[str, Any]:
        """What samples drawn with it are known by: everything that was given, in JSON."""
        return self.model_dump(mode="json", exclude_none=True)


class SampleSpec(Spec):
    """Draw `n` samples with the seeds `seed ... seed + n - 1`."""

    checkpoint_id: UUID
    """The model that draws."""
    n: int = Field(default=64, ge=1, le=10_000)
    """How many samples to draw."""
    seed: Seed = 0
    steps: Steps = 40
    eta: float = Field(default=1.0, ge=0, le=1)
    """DDIM stochasticity: 0 is deterministic DDIM, 1 is DDPM."""
    guidance: GuidanceSpec | None = None
    """Steer every sample toward a prompt or a reward; empty draws them as the model does."""
    shards: Shards = 1

    @model_validator(mode="after")
    def _seeds_stay_in_range(self) -> Self:
        if self.seed + self.n > 2**31:
            raise ValueError("seed + n must stay below 2**31; choose a smaller seed or n")
        return self


class RewardModelSpec(Spec):
    """Train a Bradley-Terry ensemble on a campaign's preferences."""

    campaign_id: UUID
    """Whose votes teach the reward; they are frozen when the job starts."""
    encoder: str | None = Field(default=None, min_length=1, max_length=80)
    """Frozen image encoder; empty means the configured default."""
    ensemble: int = Field(default=5, ge=1, le=32)
    """Number of heads; their disagreement is the uncertainty."""
    weigh_raters: bool = True
    """Count votes of raters who hardly follow the others, or miss gold pairs, less in the fit."""
    seed: Seed = 0


class RewardTerm(Spec):
    name: str = Field(min_length=1, max_length=80)
    """A name that GET /rewards lists; `preference` is a learned reward."""
    weight: float = Field(default=1.0, ge=-1000, le=1000)
    """Weight in the sum of standardised rewards."""
    reward_model_id: UUID | None = None
    """Which learned reward; required for `preference`, refused elsewhere."""
    params: dict[str, str | float | int | bool] = Field(default_factory=dict, max_length=16)
    """Settings of this reward, for example `{"quality": 95}`."""

    @model_validator(mode="after")
    def _preference_names_its_model(self) -> Self:
        if (self.name == "preference") != (self.reward_model_id is not None):
            raise ValueError("reward_model_id belongs to the reward 'preference', and that reward needs it")
        return self

    @property
    def key(self) -> str:
        """The name that values of this reward are stored under: its model's id and settings are part of it."""
        name = self.name if self.reward_model_id is None else f"{self.name}:{self.reward_model_id}"
        if not self.params:
            return name
        settings = ",".join(f"{param}={_quoted(self.params[param])}" for param in sorted(self.params))
        if len(name) + len(settings) > 198:  # the column holds 200 characters
            settings = hashlib.sha256(settings.encode()).hexdigest()
        return f"{name}({settings})"


def _quoted(value: str | float | bool) -> str:
    """As it is read, unless that could be taken for the end of one setting and the start of another."""
    text = str(value)
    return json.dumps(text) if isinstance(value, str) and any(mark in text for mark in ',="') else text


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, list | tuple) else [value]


class AdvantageSpec(Spec):
    baseline: Baseline = Baseline.MEAN
    """What is subtracted from the reward before it weighs the gradient."""
    clip: float = Field(default=5.0, gt=0, le=1000)
    """Standardised advantages are clipped to +/- this."""
    per_step: bool = False
    """Standardise every step by itself instead of the whole epoch."""
    mirror: int = Field(default=0, ge=0, le=1000)
    """Compare each of the last so many stochastic steps with its mirror image: the same trajectory with that step's
    noise turned round. Step k from the end costs k more network evaluations a sample."""


class LrSpec(Spec):
    initial: float = Field(default=0.0, ge=0, le=1)
    """Learning rate of the first update when there is a warm-up."""
    peak: float = Field(default=1e-4, gt=0, le=1)
    """Highest learning rate."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all updates spent on a linear warm-up."""
    floor: float | None = Field(default=None, ge=0, le=1)
    """Last learning rate of the half-cosine decay; empty keeps the peak."""


class EvalSpec(Spec):
    every: int = Field(default=1, ge=1, le=1000)
    """Evaluate, save a checkpoint and draw the fixed seeds every so many epochs."""
    n: int = Field(default=16, ge=1, le=1024)
    """Number of fixed evaluation seeds."""
    seed: Seed = 650
    trajectory: int = Field(default=0, ge=0, le=50)
    """Steps of the denoising trajectory at which x_0_pred of the fixed seeds is scored too; 0 scores only samples."""

    @model_validator(mode="after")
    def _seeds_stay_in_range(self) -> Self:
        if self.seed + self.n > 2**31:
            raise ValueError("seed + n must stay below 2**31; choose a smaller seed or n")
        return self


class GuardSpec(Spec):
    max_kl_nats: float | None = Field(default=None, gt=0)
    """Stop when a trajectory's KL to the reference policy, over the trained transitions, passes this many nats."""
    min_diversity_ratio: float | None = Field(default=None, gt=0, le=2)
    """Stop when diversity falls below this share of the reference policy's."""
    holdout_rewards: tuple[RewardTerm, ...] = Field(default=(), max_length=8)
    """Rewards that are measured but not optimised; one that falls while the reward rises is an alarm."""
    pause_on_alarm: bool = False
    """Pause at an alarm (the reward rises while diversity, held-out rewards or human votes fall) for a person to look;
    otherwise alarms are only marked."""
    max_holdout_drop: float | None = Field(default=None, gt=0, le=100)
    """Stop when a held-out reward's mean on the fixed seeds falls by more than this many of the base's standard
    deviations."""


class SdeWindowSpec(Spec):
    """Only a window of steps is stochastic and trained (MixGRPO); the others run with eta = 0."""

    start: int = Field(default=0, ge=0)
    """First stochastic step index; 0 is the noisiest step."""
    length: int = Field(ge=1)
    """Number of stochastic steps."""


class LoraSpec(Spec):
    """Train low-rank adapters instead of the full weights; they are merged into every saved checkpoint."""

    rank: int = Field(default=8, ge=1, le=256)
    """Width of the adapters; more can learn more."""
    alpha: float = Field(default=16.0, gt=0, le=1024)
    """Strength of the adapters: their output is scaled by alpha / rank."""


class FinetuneSpec(Spec):
    """DDPO: `epochs` times sample, reward, update."""

    checkpoint_id: UUID
    """The model to start from; it stays as it is, every evaluated epoch becomes a checkpoint of its own."""
    reward: Annotated[tuple[RewardTerm, ...], BeforeValidator(_as_list), Field(min_length=1, max_length=8)]
    """One reward or a weighted list."""
    preset: str | None = None
    """A named set of values; fields given beside it win."""
    epochs: int = Field(default=10, ge=1, le=100_000)
    """Rounds of sampling, rewarding and updating; the budget can be raised later."""
    samples_per_epoch: int = Field(default=64, ge=2, le=100_000)
    """Samples drawn and rewarded in each epoch; more make the gradient steadier and the epoch longer."""
    steps: Annotated[int, Field(ge=2, le=1000)] = 40
    """Denoising steps of a trajectory."""
    eta: float = Field(default=1.0, gt=0, le=1)
    """Must be above 0: without noise a transition has no log-density."""
    objective: Objective = Objective.IS
    """`is`: PPO-clipped importance sampling; `sf`: score function, one update a batch of rollouts."""
    clip_nats: float = Field(default=1.64, gt=0, le=1e6)
    """PPO clip of the joint log ratio of one transition, in nats."""
    advantage: AdvantageSpec = AdvantageSpec()
    """How rewards become the weights of the gradient."""
    kl_coef: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the KL penalty to the reference policy (per transition, in nats)."""
    lr: LrSpec = LrSpec()
    """How far the weights move in one update, over the course of the run."""
    inner_epochs: int = Field(default=1, ge=1, le=100)
    """Passes over one epoch's transitions."""
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Transitions per forward pass of the update."""
    updates_per_epoch: int = Field(default=4, ge=1, le=10_000)
    """Optimiser updates per inner epoch; gradients accumulate over batches in between."""
    timestep_fraction: float = Field(default=1.0, gt=0, le=1)
    """Random share of each trajectory's transitions that is trained on."""
    sde_window: SdeWindowSpec | None = None
    """Train only a window of steps; empty trains all."""
    credit: Credit = Credit.IMAGE
    """`image`: one advantage for the whole image; `tiles`: one for every tile, from rewards that can say where they
    were earned (JPEG size)."""
    shaping: bool = True
    """Potential-based shaping: each step earns what it adds to the reward of x_0_pred. At equal network evaluations
    brightness learned far faster with it and JPEG sizes slower (docs/adr/0010). Calls the reward at every step."""
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    """AdamW's pull of every weight toward zero."""
    adam_eps: float = Field(default=1e-8, gt=0, le=1)
    """AdamW's epsilon; near the gradient's size it holds back weights whose gradient is mostly noise."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's momentum; 0 where the best direction turns from one update to the next."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6)
    """Longer gradients are scaled down to this norm."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the exponential moving average of the weights; 0 is off."""
    precision: Precision = Precision.FP32
    """fp32, or bf16 for speed on GPUs that have it; the scheduler's maths stay in fp32."""
    lora: LoraSpec | None = None
    """Train low-rank adapters; empty trains all weights."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    seed: Seed = 0
    eval: EvalSpec = EvalSpec()
    """Fixed seeds that show, on the way, what the run does to the same samples."""
    guard: GuardSpec = GuardSpec()
    """What ends or pauses the run before its last epoch; empty limits are off."""

    @model_validator(mode="before")
    @classmethod
    def _merge_preset(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("preset") is None:
            return data
        preset = FINETUNE_PRESETS.get(data["preset"])
        if preset is None:
            raise ValueError(f"unknown preset {data['preset']!r}; known: {', '.join(sorted(FINETUNE_PRESETS))}")
        return _deep_merge(preset, data)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.objective is Objective.SF and self.inner_epochs != 1:
            raise ValueError("objective 'sf' is on-policy: inner_epochs must be 1 (use objective 'is' for more)")
        if self.credit is Credit.TILES and self.advantage.baseline is Baseline.VALUE:
            raise ValueError("the value baseline knows whole images only; choose another with credit 'tiles'")
        if self.sde_window is not None and self.sde_window.start + self.sde_window.length > self.steps - 1:
            raise ValueError("sde_window must end before the last step, which is deterministic")
        if self.lr.initial > self.lr.peak or (self.lr.floor or 0.0) > self.lr.peak:
            raise ValueError("lr.initial and lr.floor must not exceed lr.peak")
        if self.guard.max_holdout_drop is not None and not self.guard.holdout_rewards:
            raise ValueError("guard.max_holdout_drop needs at least one reward in guard.holdout_rewards")
        return self


class EvaluateSpec(Spec):
    """Mean and standard error of rewards on fixed seeds, for each checkpoint."""

    checkpoint_ids: tuple[UUID, ...] = Field(min_length=1, max_length=32)
    """Which models draw the seeds; take the base along to see what changed."""
    rewards: Annotated[tuple[RewardTerm, ...], Field(min_length=1, max_length=16)]
    """What is measured; each gets a mean and a standard error of its own."""
    n: int = Field(default=1000, ge=2, le=10_000)
    """How many seeds, from `seed` on."""
    seed: Seed = 650
    steps: Steps = 40
    eta: float = Field(default=1.0, ge=0, le=1)
    """DDIM stochasticity: 0 is deterministic DDIM, 1 is DDPM."""
    shards: Shards = 1

    @model_validator(mode="after")
    def _names_what_there_can_be(self) -> Self:
        if len(set(self.checkpoint_ids)) != len(self.checkpoint_ids):
            raise ValueError("checkpoint_ids names a checkpoint twice")
        if self.seed + self.n > 2**31:
            raise ValueError("seed + n must stay below 2**31; choose a smaller seed or n")
        return self


class AnalyzeSpec(Spec):
    """Look into checkpoints on fixed seeds; the first checkpoint is the one that others are compared with."""

    checkpoint_ids: tuple[UUID, ...] = Field(min_length=1, max_length=32)
    """Which models are looked into; the first is what the others are compared with."""
    kind: AnalysisKind
    """What to look at: rewards on the way, a map, diversity, ages, or the noise behind an image."""
    n: int = Field(default=100, ge=4, le=10_000)
    """How many seeds, from `seed` on."""
    seed: Seed = 650
    steps: Steps = 40
    eta: float = Field(default=1.0, ge=0, le=1)
    """DDIM stochasticity: 0 is deterministic DDIM, 1 is DDPM."""
    rewards: tuple[RewardTerm, ...] = Field(default=(), max_length=8)
    """What trajectories are scored by, and maps coloured by."""
    states: int = Field(default=6, ge=2, le=50)
    """States of a trajectory that are scored, spread evenly from pure noise to the sample."""
    encoder: str | None = Field(default=None, min_length=1, max_length=80)
    """Image encoder of maps and diversity; empty means the configured default."""
    image_id: UUID | None = None
    """The uploaded image that an inversion inverts (`POST /api/v1/images`)."""
    skips: tuple[Annotated[int, Field(ge=0, le=999)], ...] = Field(default=(), max_length=16)
    """How many of the first, noisiest steps an inversion leaves out, one reconstruction each; empty spreads six."""

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> Self:
        if (self.kind is AnalysisKind.INVERSION) != (self.image_id is not None):
            raise ValueError("image_id belongs to an inversion, and an inversion needs it; upload an image first")
        if self.skips and (self.kind is not AnalysisKind.INVERSION or max(self.skips) >= self.steps):
            raise ValueError("skips belong to an inversion, and each must leave at least one of its steps")
        if self.kind is AnalysisKind.REWARD_TRAJECTORY and not self.rewards:
            raise ValueError("a reward_trajectory needs at least one reward in rewards")
        if self.kind is AnalysisKind.EMBEDDING_MAP and len(self.checkpoint_ids) < 2:
            raise ValueError("an embedding_map needs at least two checkpoints, the base first")
        if len(set(self.checkpoint_ids)) != len(self.checkpoint_ids):
            raise ValueError("checkpoint_ids names a checkpoint twice")
        if self.seed + self.n > 2**31:
            raise ValueError("seed + n must stay below 2**31; choose a smaller seed or n")
        return self


class DiceBearSource(Spec):
    """Avatars that are rendered here, without a download."""

    type: Literal["dicebear"] = "dicebear"
    """Where the images come from: rendered avatars, or a folder of your own."""
    style: str = Field(default="critters", pattern=r"^[a-z0-9-]{1,40}$")
    """A DiceBear style; mind its licence (critters is CC0)."""
    n: int = Field(default=3000, ge=16, le=200_000)
    """How many avatars are rendered."""


class FolderSource(Spec):
    """Images of your own."""

    type: Literal["folder"] = "folder"
    """Where the images come from: rendered avatars, or a folder of your own."""
    path: str = Field(min_length=1, max_length=500)
    """A folder of images inside the configured models directory."""


class PretrainSpec(Spec):
    """Train a DDPM (Algorithm 1) from scratch or from a checkpoint."""

    data: Annotated[DiceBearSource | FolderSource, Field(discriminator="type")] = DiceBearSource()
    """What the model learns to draw; only the fields of the chosen source count."""
    name: Name = "pretrained"
    """What the checkpoint is called when it is done."""
    image_size: int = Field(default=64, ge=8, le=512, multiple_of=8)
    """Edge of the square images in pixels, a multiple of 8."""
    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=2, max_length=6)
    """U-Net channels a level; attention sits at the deepest level."""
    steps: int = Field(default=2000, ge=1, le=10_000_000)
    """Optimiser updates."""
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Images an update."""
    lr: float = Field(default=6e-4, gt=0, le=1)
    """Highest learning rate."""
    warmup: int = Field(default=150, ge=0)
    """Updates over which the learning rate climbs."""
    ema: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the exponential moving average of the weights, which is what is stored."""
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    """AdamW's pull of every weight toward zero."""
    flip: bool = True
    """Mirror images at random."""
    init_checkpoint_id: UUID | None = None
    """Go on from this checkpoint's weights; empty starts from random ones."""
    precision: Precision = Precision.FP32
    """fp32, or bf16 for speed on GPUs that have it."""
    seed: Seed = 0
    save_every: int = Field(default=200, ge=1)
    """Store a resumable state and a sample sheet every so many updates."""


class PushSpec(Spec):
    """Push a checkpoint to a model hub, as a repository that `DDPMPipeline.from_pretrained` opens."""

    checkpoint_id: UUID
    """What to push."""
    repo_id: str = Field(min_length=3, max_length=192, pattern=r"^[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}$")
    """Where to, as organisation/model; made if it is not there."""
    private: bool = True
    """Whether a repository that is made for it is private."""
    message: str = Field(default="", max_length=300)
    """Message of the commit; empty names the checkpoint."""


AnySpec = SampleSpec | RewardModelSpec | FinetuneSpec | EvaluateSpec | AnalyzeSpec | PretrainSpec | PushSpec

SPEC_OF_KIND: dict[JobKind, type[Spec]] = {
    JobKind.SAMPLE: SampleSpec,
    JobKind.REWARD_MODEL: RewardModelSpec,
    JobKind.FINETUNE: FinetuneSpec,
    JobKind.EVALUATE: EvaluateSpec,
    JobKind.ANALYZE: AnalyzeSpec,
    JobKind.PRETRAIN: PretrainSpec,
    JobKind.PUSH: PushSpec,
}


def parse_spec(kind: JobKind, payload: Mapping[str, Any]) -> Spec:
    """Validate `payload` as the spec of `kind`.

    Raises:
        InvalidSpecError: names every field that is wrong as `spec.<path>`.
    """
    try:
        return SPEC_OF_KIND[kind].model_validate(dict(payload))
    except ValidationError as error:
        errors = [
            {"field": ".".join(["spec", *(str(part) for part in item["loc"])]), "message": item["msg"]}
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        fields = ", ".join(item["field"] for item in errors)
        raise InvalidSpecError(f"The {kind.value} spec is not valid: see {fields}.", errors) from error


def _deep_merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in override.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _deep_merge(merged[key], value)
        else:
            merged[key] = value
    return merged
