"""Rewards that need weights, on small models of the same classes with known weights, saved as published ones are."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTForImageClassification, ViTImageProcessor

from app.domain.errors import CorruptDataError, InvalidSpecError, UnavailableError
from app.domain.rewards import BUILT_IN_REWARDS
from app.domain.specs import RewardTerm
from tests.age_classifier import save_age_classifier
from worker.ml.encoders import ClipEncoder, ImageEncoder, load_encoder
from worker.ml.rewards import Reward, RewardHost, build_reward, catalogue
from worker.ml.rewards.aesthetic import HEAD, WIDTHS, Aesthetic, load_head
from worker.ml.rewards.age import AGE_CLASSES, AgeRange, classes_between, load_classifier
from worker.ml.rewards.clip_similarity import _ON_HUB, ClipSimilarity

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)


def no_preference(_: UUID, k: float) -> Reward:
    raise AssertionError("no learned reward is asked for here")


def published_head(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names of the published file: a Sequential with dropouts at 1, 3 and 5."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for index, inputs, outputs in zip((0, 2, 4, 6, 7), WIDTHS[:-1], WIDTHS[1:], strict=True):
        weights[f"layers.{index}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        weights[f"layers.{index}.bias"] = torch.randn(outputs, generator=generator)
    return weights


class FixedEncoder:
    """Gives each image an embedding of its own, of length far from 1."""

    name, dim, has_text = "fixed", 768, False

    def encode(self, images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
        return np.stack([np.random.default_rng(int(image.sum())).normal(0, 7, 768) for image in images]).astype("f4")


def test_the_aesthetic_score_is_one_affine_map_of_the_unit_embedding(tmp_path: Path) -> None:
    weights = published_head()
    save_file(weights, tmp_path / "head.safetensors")
    matrix, offset = np.eye(768), np.zeros(768)
    for index in (0, 2, 4, 6, 7):  # five linear layers without activations are one matrix
        weight, bias = (weights[f"layers.{index}.{part}"].double().numpy() for part in ("weight", "bias"))
        matrix, offset = weight @ matrix, weight @ offset + bias
    embeddings = FixedEncoder().encode(IMAGES).astype(np.float64)
    expected = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)) @ matrix[0] + offset[0]

    scores = Aesthetic(FixedEncoder(), load_head(tmp_path / "head.safetensors"))(IMAGES)

    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_the_published_pickle_and_its_safetensors_copy_are_the_same_head(tmp_path: Path) -> None:
    save_file(published_head(), tmp_path / "head.safetensors")
    torch.save(published_head(), tmp_path / "head.pth")
    first, second = load_head(tmp_path / "head.safetensors"), load_head(tmp_path / "head.pth")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


WITNESS = Path(tempfile.gettempdir()) / f"unpickled-{os.getpid()}"


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(WITNESS),)


@pytest.mark.parametrize("content", ["code", "torn", "other", "nan"])
def test_a_file_that_is_not_the_head_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "head.pth"
    if content == "code":
        torch.save({"layers.0.weight": Malicious()}, path)
    elif content == "torn":
        torch.save(published_head(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        torch.save({name: weight * torch.nan for name, weight in published_head().items()}, path)
    with pytest.raises(CorruptDataError, match=r"head\.pth"):
        load_head(path)
    assert not WITNESS.exists()


def test_a_head_that_fails_its_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{HEAD}.safetensors"
    save_file(published_head(), path)
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(b'another').hexdigest()}  {path.name}\n")
    with pytest.raises(CorruptDataError, match="checksum"):
        build_reward([RewardTerm(name="aesthetic")], preference=no_preference, host=RewardHost(tmp_path))


@pytest.mark.parametrize("name", ["aesthetic", "clip_similarity", "over50", "under30", "age_range"])
def test_a_missing_weight_file_is_named_with_the_setting(tmp_path: Path, name: str) -> None:
    host = RewardHost(tmp_path)
    info = next(info for info in catalogue(host) if info.name == name)
    assert not info.can_run
    assert "TASTEMAKER_WEIGHTS_DIR" in (info.why_not or "")
    params: dict[str, str | float | int | bool] = {"prompt": "a cat"} if name == "clip_similarity" else {}
    with pytest.raises(UnavailableError, match="TASTEMAKER_WEIGHTS_DIR"):
        build_reward([RewardTerm(name=name, params=params)], preference=no_preference, host=host)


@pytest.fixture(scope="module")
def age_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with a tiny ViT of the age classifier's class."""
    return save_age_classifier(tmp_path_factory.mktemp("weights"))


def raw_logits(folder: Path) -> np.ndarray:
    """The same, one image at a time, with the normalisation written out; resizing is the processor's own."""
    model = ViTForImageClassification.from_pretrained(folder / "vit-age-classifier").eval()
    processor = ViTImageProcessor.from_pretrained(folder / "vit-age-classifier", do_normalize=False, do_rescale=False)
    rows = []
    for image in IMAGES:
        pixels = torch.as_tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"])).float()
        with torch.no_grad():
            rows.append(model(pixel_values=pixels / 127.5 - 1).logits[0].double().numpy())
    return np.stack(rows)


def age_reward(folder: Path, name: str, **params: str | int) -> np.ndarray:
    term = RewardTerm(name=name, params=dict(params))
    return build_reward([term], preference=no_preference, host=RewardHost(folder))(IMAGES)


def test_over50_and_under30_sum_the_logits_of_the_thesis_classes(age_folder: Path) -> None:
    logits = raw_logits(age_folder)
    np.testing.assert_allclose(age_reward(age_folder, "over50"), logits[:, 6:].sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(age_reward(age_folder, "under30"), logits[:, :4].sum(axis=1), atol=1e-4)
    assert logits.std() > 0.1


def test_probabilities_of_all_ages_sum_to_one_and_split_where_the_range_does(age_folder: Path) -> None:
    young = age_reward(age_folder, "age_range", max_age=39, mode="probability")
    old = age_reward(age_folder, "age_range", min_age=40, mode="probability")
    np.testing.assert_allclose(young + old, 1.0)
    exp = np.exp(raw_logits(age_folder))
    np.testing.assert_allclose(old, exp[:, 5:].sum(1) / exp.sum(1), atol=1e-5)


def test_batches_of_the_age_classifier_change_nothing(age_folder: Path) -> None:
    classifier = load_classifier(RewardHost(age_folder))
    np.testing.assert_allclose(classifier.logits(IMAGES, batch_size=2), classifier.logits(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"min_age": 45}, "min_age"),
        ({"max_age": 45}, "max_age"),
        ({"min_age": 50, "max_age": 29}, "empty"),
        ({"mode": "logits"}, "mode"),
    ],
)
def test_ages_that_cut_a_class_are_refused(age_folder: Path, params: dict[str, int], complaint: str) -> None:
    with pytest.raises(InvalidSpecError, match=complaint):
        AgeRange(load_classifier(RewardHost(age_folder)), **params)


def test_every_age_class_can_be_named_by_its_bounds() -> None:
    assert [classes_between(*map(int, label.split("-"))).start for label in AGE_CLASSES[:-1]] == list(range(8))
    assert classes_between(70, None) == slice(8, 9)


def test_over50_cannot_be_given_other_bounds(age_folder: Path) -> None:
    with pytest.raises(InvalidSpecError, match="age_range"):
        age_reward(age_folder, "over50", min_age=30)


def test_a_classifier_of_something_else_is_refused(age_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vit-age-classifier"
    folder.mkdir()
    for source in (age_folder / "vit-age-classifier").iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["0"] = "cat"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptDataError, match="cat"):
        load_classifier(RewardHost(tmp_path))


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    """A CLIP of random weights, saved and opened again by open_clip."""
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(5)
    save_file(open_clip.create_model("tiny-clip").state_dict(), folder / "weights.safetensors")
    model = open_clip.create_model("tiny-clip", pretrained=str(folder / "weights.safetensors"))
    return ClipEncoder("tiny-clip", model, device="cpu")


def test_clip_similarity_is_the_cosine_that_open_clip_computes(tiny_clip: ClipEncoder) -> None:
    model, _, _ = open_clip.create_model_and_transforms("tiny-clip")
    model.load_state_dict(tiny_clip._model.state_dict())
    square = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    mean, std = (
        torch.tensor(x).view(1, 3, 1, 1) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    pixels = (torch.from_numpy(square).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        image = model.encode_image(pixels, normalize=True)
        text = model.encode_text(open_clip.get_tokenizer("tiny-clip")(["a red critter"]), normalize=True)
    expected = (image @ text.T)[:, 0].numpy()

    similarity = ClipSimilarity(tiny_clip, "a red critter")(square)

    np.testing.assert_allclose(similarity, expected, atol=1e-5)
    assert similarity.std() > 0
    assert not np.allclose(similarity, ClipSimilarity(tiny_clip, "horns")(square))


def test_an_encoder_without_a_text_tower_is_refused() -> None:
    encoder = load_encoder("efficientnet-lite0")
    assert isinstance(encoder, ImageEncoder)
    with pytest.raises(InvalidSpecError, match="not text"):
        ClipSimilarity(encoder, "a critter")


@pytest.mark.parametrize("prompt", ["", "   ", "x" * 301, 3])
def test_a_prompt_that_is_no_text_is_refused(tiny_clip: ClipEncoder, prompt: str) -> None:
    with pytest.raises(InvalidSpecError, match="prompt"):
        ClipSimilarity(tiny_clip, prompt)


def test_clip_similarity_without_a_prompt_names_the_parameter() -> None:
    with pytest.raises(InvalidSpecError, match="prompt"):
        build_reward([RewardTerm(name="clip_similarity")], preference=no_preference)


def test_the_hub_files_are_those_that_open_clip_would_fetch() -> None:
    for name, tag in (("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-L-14", "openai")):
        assert open_clip.pretrained.get_pretrained_cfg(name, tag)["hf_hub"].rstrip("/") == _ON_HUB[name].repo


def test_the_worker_and_the_web_process_describe_the_same_rewards(tmp_path: Path) -> None:
    described = {info.name: info for info in catalogue(RewardHost(tmp_path))}
    assert set(described) >= {reward.name for reward in BUILT_IN_REWARDS}
    for reward in BUILT_IN_REWARDS:
        assert {**asdict(described[reward.name]), **reward.model_dump()} == asdict(described[reward.name])
