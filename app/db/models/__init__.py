"""All tables; importing this package fills `Base.metadata`."""

from app.db.models.accounts import ApiToken, AuditEntry, IdempotencyKey, LoginToken, User, WebSession
from app.db.models.checkpoints import Checkpoint, Measurement, Sample, SampleReward
from app.db.models.invitations import CampaignExample, Guest, Invitation
from app.db.models.jobs import DevTrajectories, Job, JobEvent, RewardAvailability, Worker
from app.db.models.labeling import Campaign, CampaignCheckpoint, CampaignRater, Comparison, Pair, Preference
from app.db.models.learning import Embedding, LabelSnapshot, RewardModel, SampleSketch
from app.db.models.library import LibraryState, SampleMark
from app.db.models.trust import GoldPair, Retraction, SnapshotRater
from app.db.models.uploads import Upload
from app.db.models.webhooks import Webhook, WebhookDelivery

__all__ = [
    "ApiToken",
    "AuditEntry",
    "Campaign",
    "CampaignCheckpoint",
    "CampaignExample",
    "CampaignRater",
    "Checkpoint",
    "Comparison",
    "DevTrajectories",
    "Embedding",
    "GoldPair",
    "Guest",
    "IdempotencyKey",
    "Invitation",
    "Job",
    "JobEvent",
    "LabelSnapshot",
    "LibraryState",
    "LoginToken",
    "Measurement",
    "Pair",
    "Preference",
    "Retraction",
    "RewardAvailability",
    "RewardModel",
    "Sample",
    "SampleMark",
    "SampleReward",
    "SampleSketch",
    "SnapshotRater",
    "Upload",
    "User",
    "WebSession",
    "Webhook",
    "WebhookDelivery",
    "Worker",
]
