"""A tiny network of the age classifier's class, for tests of what uses it."""

from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from worker.ml.rewards.age import AGE_CLASSES


def save_age_classifier(root: Path) -> Path:
    """Make `root` a weights folder with a ViT of random weights that has the age classes. Returns it."""
    torch.manual_seed(3)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
            num_labels=9,
            id2label=dict(enumerate(AGE_CLASSES)),
            label2id={label: index for index, label in enumerate(AGE_CLASSES)},
        )
    )
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(root / "vit-age-classifier")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(root / "vit-age-classifier")
    return root
