"""Which module handles which kind. Modules load on demand: drawing samples need not import a text encoder."""

import importlib

from app.domain.enums import JobKind
from worker.jobs.context import Handler

_MODULES = {
    JobKind.SAMPLE: "worker.jobs.sample",
    JobKind.REWARD_MODEL: "worker.jobs.reward_model",
    JobKind.FINETUNE: "worker.jobs.finetune",
    JobKind.EVALUATE: "worker.jobs.evaluate",
    JobKind.PRETRAIN: "worker.jobs.pretrain",
}


def handler_of(kind: JobKind) -> Handler:
    """The handler of a supported kind: the function `run` of its module."""
    handler: Handler = importlib.import_module(_MODULES[kind]).run
    return handler
