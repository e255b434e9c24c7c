"""Which function runs which kind of job."""

from app.domain.enums import JobKind
from worker.jobs import analyze, evaluate, finetune, pretrain, push, reward_model, sample
from worker.jobs.context import Handler

HANDLERS: dict[JobKind, Handler] = {
    JobKind.SAMPLE: sample.run,
    JobKind.REWARD_MODEL: reward_model.run,
    JobKind.FINETUNE: finetune.run,
    JobKind.EVALUATE: evaluate.run,
    JobKind.PRETRAIN: pretrain.run,
    JobKind.ANALYZE: analyze.run,
    JobKind.PUSH: push.run,
}
