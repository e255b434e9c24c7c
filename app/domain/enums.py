"""The closed vocabularies: every value here is stored in the database and spoken by the API."""

from enum import StrEnum


class Role(StrEnum):
    RATER = "rater"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: "Role") -> bool:
        """Whether this role may do what `needed` may: admin > operator > rater."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class JobKind(StrEnum):
    SAMPLE = "sample"
    REWARD_MODEL = "reward_model"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"
    ANALYZE = "analyze"
    PRETRAIN = "pretrain"
    PUSH = "push"

    @property
    def task_name(self) -> str:
        """Celery's name for the task that runs this kind; a message is this name and a job id, nothing else."""
        return f"tastemaker.{self.value}"


class WorkQueue(StrEnum):
    """What a job needs of the worker that takes it."""

    GPU = "gpu"  # evaluates a diffusion model for minutes or hours
    CPU = "cpu"  # needs no accelerator
    QUICK = "quick"  # somebody waits for it: seconds, and never behind an hour of training

    @property
    def channel(self) -> str:
        """The broker's name for it; a Redis database may have other tenants."""
        return f"tastemaker.{self.value}"


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class EventKind(StrEnum):
    """What a job reports, in order, in `job_event`."""

    STATUS = "status"  # {status, message?}
    PROGRESS = "progress"  # {progress, eta_seconds, stage}
    LOG = "log"  # {message}
    METRICS = "metrics"  # one row of the per-epoch series: {epoch, reward_mean, ...}
    CHECKPOINT = "checkpoint"  # {checkpoint_id, epoch}
    SAMPLES = "samples"  # {checkpoint_id, sample_ids}
    ALARM = "alarm"  # {epoch, verdict, message, alarms, last_good_epoch}
    WORKER = "worker"  # what the job uses of its machine: {cpu_percent, memory_bytes, ...}


class Priority(StrEnum):
    """Which queued job a free worker takes first; within one priority the order of the queue counts."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """The number that is stored; higher goes first."""
        return {Priority.HIGH: 1, Priority.NORMAL: 0, Priority.LOW: -1}[self]

    @classmethod
    def of_rank(cls, rank: int) -> "Priority":
        return cls.HIGH if rank > 0 else cls.LOW if rank < 0 else cls.NORMAL


class CheckpointKind(StrEnum):
    BASE = "base"
    FINETUNED = "finetuned"


class Choice(StrEnum):
    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"

    @property
    def left_share(self) -> float | None:
        """The soft label P(left preferred) that a Bradley-Terry fit uses; None where the choice is not fitted."""
        return {Choice.LEFT: 1.0, Choice.RIGHT: 0.0, Choice.TIE: 0.5}.get(self)


class Strategy(StrEnum):
    UNIFORM = "uniform"
    UNCERTAINTY = "uncertainty"
    TOURNAMENT = "tournament"


class WebhookEvent(StrEnum):
    """What a webhook can be told of."""

    JOB_ENDED = "job.ended"
    CAMPAIGN_ENDED = "campaign.ended"


class CampaignStatus(StrEnum):
    ACTIVE = "active"
    CLOSED = "closed"


class Objective(StrEnum):
    IS = "is"
    SF = "sf"


class Baseline(StrEnum):
    NONE = "none"
    MEAN = "mean"
    LEAVE_ONE_OUT = "leave_one_out"
    EMA = "ema"
    OPTIMAL = "optimal"
    TIME_DEPENDENT = "time_dependent"
    VALUE = "value"


class Credit(StrEnum):
    """Where in the image a reward is credited."""

    IMAGE = "image"
    TILES = "tiles"


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"


class AnalysisKind(StrEnum):
    REWARD_TRAJECTORY = "reward_trajectory"
    EMBEDDING_MAP = "embedding_map"
    DIVERSITY = "diversity"
    AGE_DISTRIBUTION = "age_distribution"
    INVERSION = "inversion"

    @property
    def label(self) -> str:
        """What people call it."""
        return {
            AnalysisKind.REWARD_TRAJECTORY: "Reward along the trajectory",
            AnalysisKind.EMBEDDING_MAP: "Embedding map",
            AnalysisKind.DIVERSITY: "Diversity",
            AnalysisKind.AGE_DISTRIBUTION: "Age distribution",
            AnalysisKind.INVERSION: "Inversion",
        }[self]
