"""Low-rank adapters (arXiv:2106.09685) on the attention and convolution layers, merged into every saved policy."""

import copy

from peft import LoraConfig, get_peft_model

from app.domain.specs import LoraSpec
from worker.ml.policy import Policy

_TARGETS = r".*(to_q|to_k|to_v|to_out\.0|conv1|conv2|conv_shortcut)"


def with_adapters(policy: Policy, spec: LoraSpec) -> Policy:
    """The policy with trainable adapters (zero at first, so it predicts as before) over frozen weights."""
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=_TARGETS, lora_dropout=0.0)
    return Policy(get_peft_model(policy.unet, config).eval(), policy.scheduler_config)


def merged(policy: Policy) -> Policy:
    """A plain policy whose weights include the adapters; the given one is left alone."""
    return Policy(copy.deepcopy(policy.unet).merge_and_unload(), policy.scheduler_config)
