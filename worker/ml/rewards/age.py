"""Age of faces by `nateraw/vit-age-classifier`: OVER50 of the thesis (section 5.1.4), UNDER30, and other ranges."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError

from app.domain.errors import CorruptDataError, InvalidSpecError, UnavailableError
from worker.ml.rewards.base import Images, Reward, RewardInfo, RewardPlugin, Rewards
from worker.ml.rewards.cache import CachedReward
from worker.ml.rewards.host import HubFile, RewardHost, download, find_local, why_not_hub, why_not_local

AGE_CLASSES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
_STARTS = (0, 3, 10, 20, 30, 40, 50, 60, 70)
_ENDS = (2, 9, 19, 29, 39, 49, 59, 69, None)

FOLDER = "vit-age-classifier"
_REPO = "nateraw/vit-age-classifier"
_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
_ON_HUB = tuple(HubFile(_REPO, name) for name in _FILES)


class AgeClassifier:
    """The classifier with its own preprocessing: [n, h, w, 3] pixels -> [n, 9] logits, one an age class."""

    name = FOLDER

    def __init__(self, model: Any, processor: Any, *, device: str = "cpu") -> None:
        """`model` is a ViTForImageClassification, `processor` its ViTImageProcessor."""
        self._model = model.eval().requires_grad_(False).to(device)
        self._processor = processor
        self._device = device

    @torch.no_grad()
    def logits(self, images: Images, *, batch_size: int = 32) -> Float[np.ndarray, "n 9"]:
        """Logits of `AGE_CLASSES`, computed in fp32, as float64."""
        parts = [np.zeros((0, len(AGE_CLASSES)))]
        for start in range(0, len(images), batch_size):
            inputs = self._processor(list(images[start : start + batch_size]), return_tensors="pt")
            output = self._model(pixel_values=inputs["pixel_values"].to(self._device))
            parts.append(output.logits.double().cpu().numpy())
        return np.concatenate(parts)


class AgeRange:
    """The sum over the age classes inside [min_age, max_age] of the logits, or of the probabilities.

    The thesis sums logits, which are unbounded: a policy can raise the sum without moving a face into the range. The
    sum of probabilities stays in [0, 1].

    Raises:
        InvalidSpecError: bounds that cut through an age class, or an unknown mode.
    """

    def __init__(
        self, classifier: AgeClassifier, *, min_age: int = 0, max_age: int | None = None, mode: str = "logit_sum"
    ) -> None:
        if mode not in ("logit_sum", "probability"):
            raise InvalidSpecError(f"The reward parameter 'mode' must be logit_sum or probability, not {mode!r}.")
        self._classifier = classifier
        self._classes = classes_between(min_age, max_age)
        self._mode = mode

    def __call__(self, images: Images) -> Rewards:
        logits = self._classifier.logits(images)
        if self._mode == "probability":
            exp = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray((exp / exp.sum(axis=1, keepdims=True))[:, self._classes].sum(axis=1))
        return np.asarray(logits[:, self._classes].sum(axis=1))


def classes_between(min_age: int, max_age: int | None) -> slice:
    """The age classes that make up [min_age, max_age]; no max_age means all older ones.

    Raises:
        InvalidSpecError: an age that is not the first (the last) of a class, or an empty range.
    """
    if isinstance(min_age, bool) or min_age not in _STARTS:
        raise InvalidSpecError(f"The reward parameter 'min_age' must start an age class: {_listed(_STARTS)}.")
    if isinstance(max_age, bool) or max_age not in _ENDS:
        raise InvalidSpecError(f"The reward parameter 'max_age' must end an age class: {_listed(_ENDS[:-1])}.")
    classes = slice(_STARTS.index(min_age), _ENDS.index(max_age) + 1)
    if classes.start >= classes.stop:
        raise InvalidSpecError(f"The age range {min_age} to {max_age} is empty; max_age must be above min_age.")
    return classes


def load_classifier(host: RewardHost) -> AgeClassifier:
    """The classifier from `weights_dir/vit-age-classifier`, or the hub where no folder is set.

    Raises:
        UnavailableError: a file is missing; names it and the setting.
        CorruptDataError: the folder holds some other model.
    """
    if host.weights_dir is not None:
        missing = _why_not(host)
        if missing is not None:
            raise UnavailableError(missing)
        for name in _FILES:
            find_local(host, f"{FOLDER}/{name}")  # verifies the checksum
        return _open(host.weights_dir / FOLDER, host.device)
    paths = [download(host, file, put_at=f"{FOLDER}/{file.name}") for file in _ON_HUB]
    return _open(paths[0].parent, host.device)


def _open(folder: Path, device: str) -> AgeClassifier:
    import transformers  # takes seconds to import; runs with other rewards need not wait

    classifier_class: Any = transformers.ViTForImageClassification
    try:
        model, loading = classifier_class.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        processor = transformers.ViTImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CorruptDataError(f"{FOLDER} does not hold a ViT image classifier: {error}") from error
    if loading["missing_keys"]:
        raise CorruptDataError(
            f"{FOLDER}/model.safetensors lacks the weights {_listed(sorted(loading['missing_keys']))}."
        )
    labels = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    if labels != AGE_CLASSES:
        raise CorruptDataError(f"{FOLDER} classifies {_listed(labels)}; the age classes are {_listed(AGE_CLASSES)}.")
    return AgeClassifier(model, processor, device=device)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _why_not(host: RewardHost) -> str | None:
    if host.weights_dir is None:
        return why_not_hub(*_ON_HUB, put_at=f"{FOLDER}/")
    return next(filter(None, (why_not_local(host, f"{FOLDER}/{name}") for name in _FILES)), None)


def _plugin(name: str, **fixed: Any) -> RewardPlugin:
    def describe(host: RewardHost) -> RewardInfo:
        return RewardInfo.of_built_in(name, _why_not(host))

    def build(host: RewardHost, **params: Any) -> Reward:
        if overridden := sorted(set(fixed) & set(params)):
            raise InvalidSpecError(f"The reward {name!r} fixes {_listed(overridden)}; use 'age_range' to choose.")
        return CachedReward(AgeRange(load_classifier(host), **{**fixed, **params}))

    return RewardPlugin(name, describe, build)


PLUGINS = (_plugin("over50", min_age=50), _plugin("under30", max_age=29), _plugin("age_range"))
