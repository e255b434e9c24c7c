"""/analyses, /images and the over-optimisation report over REST, and who may have which blob."""

import io
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.config import Settings
from app.db.models import SampleReward
from app.domain.enums import JobKind, JobStatus, Role
from tests.integration.web.conftest import png

UNKNOWN = UUID(int=7)
Headers = dict[str, str]
URL = "/api/v1/analyses"
ON_SQLITE_ALONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def analysis(world: Any, kind: str, ids: list[UUID], body: dict[str, Any] | None = None, n: int = 4) -> UUID:
    """A finished analysis with this document, or one that is queued."""
    spec = {"kind": kind, "checkpoint_ids": [str(id) for id in ids], "n": n, "seed": 0, "steps": 10, "eta": 1.0}
    if body is None:
        return world.job(JobKind.ANALYZE, JobStatus.QUEUED, spec=spec)
    document = {"kind": kind, "seeds": list(range(n)), **body}
    result = {"kind": kind, "analysis_sha256": world.blobs.put_json(document)}
    return world.job(JobKind.ANALYZE, JobStatus.SUCCEEDED, spec=spec, result=result)


def diversity_body(*scores: float, copies: float = 0.0) -> dict[str, Any]:
    def row(score: float, share: float) -> dict[str, Any]:
        estimate = {"value": score, "interval": [score - 0.1, score + 0.1]}
        near = {"value": share, "interval": [share, share], "n": 4}
        return {"vendi": estimate, "mean_pairwise_distance": estimate, "near_copies": near}

    first, *others = scores
    return {"copy_threshold": 0.1, "diversity": [row(first, 0.0), *(row(score, copies) for score in others)]}


def reward(world: Any, checkpoint_id: UUID, name: str, values: list[float]) -> None:
    """Samples of the seeds 0, 1, ... with these rewards."""
    samples = world.samples(checkpoint_id, range(len(values)))
    world.add(
        *(
            SampleReward(sample_id=sample.id, name=name, value=value)
            for sample, value in zip(samples, values, strict=True)
        )
    )


def test_analyses_are_listed_by_kind_and_carry_their_document(
    client: TestClient, world: Any, operator: Headers, walk: Any
) -> None:
    base = world.checkpoint()
    waiting = analysis(world, "diversity", [base])
    done = analysis(world, "diversity", [base], diversity_body(3.0))
    trace = analysis(world, "reward_trajectory", [base], {"trajectories": []})
    world.job(JobKind.SAMPLE, spec={})
    assert [row["id"] for row in walk(URL)] == [str(trace), str(done), str(waiting)]
    assert [row["id"] for row in walk(URL, kind="diversity")] == [str(done), str(waiting)]
    found = client.get(f"{URL}/{done}", headers=operator).json()
    assert found["document"]["diversity"][0]["vendi"]["value"] == 3.0
    assert found["checkpoint_ids"] == [str(base)]
    assert client.get(f"{URL}/{waiting}", headers=operator).json()["document"] is None


def test_analyses_are_found_by_checkpoint_and_by_status(
    client: TestClient, world: Any, operator: Headers, walk: Any
) -> None:
    base, other, unseen = (world.checkpoint(name) for name in ("base", "other", "unseen"))
    waiting = analysis(world, "diversity", [base])
    done = analysis(world, "diversity", [base, other], diversity_body(3.0, 2.0))
    trace = analysis(world, "reward_trajectory", [other], {"trajectories": []})

    def found(**params: Any) -> list[str]:
        return [row["id"] for row in walk(URL, **params)]

    assert found(checkpoint_id=base) == [str(done), str(waiting)]
    assert found(checkpoint_id=other) == [str(trace), str(done)], "first or not"
    assert found(checkpoint_id=unseen) == []
    assert found(status="queued") == [str(waiting)]
    assert found(status="succeeded", checkpoint_id=other, kind="diversity") == [str(done)]
    for wrong in ({"checkpoint_id": "seven"}, {"status": "done"}):
        assert client.get(URL, params=wrong, headers=operator).status_code == 422


@ON_SQLITE_ALONE
def test_only_the_images_that_an_analysis_names_can_be_had(
    client: TestClient, world: Any, operator: Headers, sign_in: Callable[..., Headers]
) -> None:
    named, other = world.blobs.put(png(1)), world.blobs.put(png(2))
    inversions = [{"image": named, "noise": named, "results": []}]
    id = analysis(world, "inversion", [world.checkpoint()], {"inversions": inversions})
    answer = client.get(f"{URL}/{id}/images/{named}", headers=operator)
    assert (answer.status_code, answer.content) == (200, png(1))
    assert "immutable" in answer.headers["cache-control"]
    assert client.get(f"{URL}/{id}/images/{other}", headers=operator).status_code == 404
    assert client.get(f"{URL}/{UNKNOWN}/images/{named}", headers=operator).status_code == 404
    assert client.get(f"/media/{named}", headers=operator).status_code == 404
    for path in (URL, f"{URL}/{id}", f"{URL}/{id}/images/{named}"):
        assert client.get(path, headers=sign_in(Role.RATER)).status_code == 403, path
        assert client.get(path).status_code == 401, path


@ON_SQLITE_ALONE
def test_a_job_of_another_kind_is_no_analysis(client: TestClient, world: Any, operator: Headers) -> None:
    assert client.get(f"{URL}/{world.job()}", headers=operator).status_code == 404
    assert client.get(f"/analysis/{world.job()}", headers=operator).status_code == 404


def test_an_uploaded_image_is_stored_once_and_can_be_inverted(
    client: TestClient, world: Any, operator: Headers
) -> None:
    files = {"file": ("../../me.png", png(5, 40), "image/png")}
    first = client.post("/api/v1/images", files=files, headers=operator)
    assert first.status_code == 201, first.text
    body = first.json()
    assert (body["width"], body["height"]) == (40, 40)
    assert client.get(first.headers["location"], headers=operator).json() == body
    assert client.post("/api/v1/images", files=files, headers=operator).json()["id"] == body["id"]
    shown = client.get(body["links"]["image"], headers=operator)
    assert Image.open(io.BytesIO(shown.content)).size == (40, 40)

    spec = {"kind": "inversion", "checkpoint_ids": [str(world.checkpoint())], "image_id": body["id"]}
    job = client.post("/api/v1/jobs", json={"kind": "analyze", "spec": spec}, headers=operator)
    assert job.status_code == 202, job.text
    assert job.json()["name"] == "Inversion of base"


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    ("data", "status"), [(b"GIF89a", 422), (b"", 422), (b"\x89PNG\r\n\x1a\n" + bytes(11_000_000), 413)]
)
def test_what_is_no_image_is_refused_and_leaves_nothing(
    client: TestClient, world: Any, operator: Headers, data: bytes, status: int
) -> None:
    answer = client.post("/api/v1/images", files={"file": ("x.png", data, "image/png")}, headers=operator)
    assert answer.status_code == status, answer.text
    if status == 422:  # a body that is too large never reaches the app
        assert answer.headers["content-type"] == "application/problem+json"
    assert list(world.blobs.names()) == []


@ON_SQLITE_ALONE
def test_raters_upload_nothing(client: TestClient, sign_in: Callable[..., Headers]) -> None:
    files = {"file": ("x.png", png(1), "image/png")}
    assert client.post("/api/v1/images", files=files, headers=sign_in(Role.RATER)).status_code == 403


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    ("kind", "spec", "field", "sentence"),
    [
        ("analyze", {"kind": "inversion"}, "spec", "upload an image first"),
        ("analyze", {"kind": "diversity", "image_id": str(UNKNOWN)}, "spec", "belongs to an inversion"),
        ("analyze", {"kind": "inversion", "image_id": str(UNKNOWN)}, "spec.image_id", "no uploaded image"),
        ("analyze", {"kind": "inversion", "image_id": str(UNKNOWN), "steps": 9, "skips": [9]}, "spec", "at least one"),
        ("sample", {"guidance": {"scale": 1}}, "spec.guidance", "a prompt or a reward"),
        ("sample", {"guidance": {"scale": 1, "prompt": "red", "reward": "brightness"}}, "spec.guidance", "not both"),
        ("sample", {"guidance": {"scale": 1, "prompt": "red"}}, "spec.guidance.prompt", "was not trained with text"),
        ("sample", {"guidance": {"scale": 1, "prompt": "red", "encoder": "efficientnet-lite0"}},
         "spec.guidance.encoder", "was not trained with text"),
        ("sample", {"guidance": {"scale": 1, "reward": "jpeg_compressibility"}}, "spec.guidance.reward", "no gradient"),
        ("sample", {"guidance": {"scale": 1, "reward": "preference"}}, "spec.guidance", "needs it"),
        ("sample", {"guidance": {"scale": 1, "reward": "preference", "reward_model_id": str(UNKNOWN)}},
         "spec.guidance.reward_model_id", "no reward model"),
    ],
)  # fmt: skip
def test_a_spec_that_cannot_run_is_refused_when_it_is_submitted(
    client: TestClient, world: Any, operator: Headers, kind: str, spec: dict[str, Any], field: str, sentence: str
) -> None:
    id = str(world.checkpoint())
    ids = {"checkpoint_ids": [id]} if kind == "analyze" else {"checkpoint_id": id}
    answer = client.post("/api/v1/jobs", json={"kind": kind, "spec": {**ids, **spec}}, headers=operator)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert sentence in error["message"]


def test_the_report_judges_what_was_optimised_against_everything_else(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = world.checkpoint()
    spec = {"checkpoint_id": str(base), "reward": [{"name": "brightness"}], "guard": {"max_kl_nats": 20.0}}
    _, (tuned,) = world.finetune(base, [2], spec=spec)
    reward(world, base, "brightness", [0.1, 0.2, 0.3, 0.4])
    reward(world, tuned, "brightness", [0.3, 0.4, 0.5, 0.61])
    url = f"/api/v1/checkpoints/{tuned}/over-optimisation"
    report = client.get(url, headers=operator).json()
    assert report["verdict"] == "improved"
    (row,) = report["rewards"]
    assert row["optimised"]
    assert row["difference"]["mean"] == pytest.approx(0.2025)
    assert row["n"] == 4
    (epoch,) = report["epochs"]
    assert epoch["rewards"]["brightness"] == pytest.approx(0.2025 / 0.1118034)  # the base's standard deviation

    reward(world, base, "sharpness", [])
    other = analysis(world, "diversity", [world.checkpoint("other"), tuned], diversity_body(10.0, 2.0))
    assert client.get(url, headers=operator).json()["diversity"] is None  # against another base
    found = analysis(world, "diversity", [base, tuned], diversity_body(10.0, 4.0, copies=0.5))
    assert other != found
    report = client.get(url, headers=operator).json()
    assert report["diversity_analysis_id"] == str(found)
    assert [each["value"] for each in report["diversity"]] == [10.0, 4.0]
    assert report["epochs"][0]["diversity_ratio"] == pytest.approx(0.4)
    assert report["verdict"] == "over-optimised"
    assert "diversity fell to 40%" in report["sentence"]


def test_people_overrule_the_proxy(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint()
    _, (tuned,) = world.finetune(base, [1], spec={"checkpoint_id": str(base), "reward": [{"name": "brightness"}]})
    reward(world, base, "brightness", [0.1, 0.2, 0.3, 0.4])
    reward(world, tuned, "brightness", [0.3, 0.41, 0.5, 0.6])
    world.duel(tuned, base, wins=2, losses=18)
    report = client.get(f"/api/v1/checkpoints/{tuned}/over-optimisation", headers=operator).json()
    assert report["win_rate"]["value"] == pytest.approx(0.1)
    assert report["win_rate"]["n"] == 20
    assert report["verdict"] == "over-optimised"
    assert "10% of votes" in report["sentence"]


def test_a_weighted_run_is_judged_by_its_sum(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint()
    terms = [{"name": "brightness", "weight": 1.0}, {"name": "sharpness", "weight": -2.0}]
    _, (tuned,) = world.finetune(base, [1], spec={"checkpoint_id": str(base), "reward": terms})
    for name, before, after in (("brightness", [0.0, 2.0], [1.0, 3.0]), ("sharpness", [0.0, 4.0], [2.0, 6.1])):
        for id, values in ((base, before), (tuned, after)):
            reward(world, id, name, values)
    report = client.get(f"/api/v1/checkpoints/{tuned}/over-optimisation", headers=operator).json()
    summed = next(row for row in report["rewards"] if row["name"] == "weighted_sum")
    assert summed["difference"]["mean"] == pytest.approx(1.0 / 1.0 - 2.0 * 2.05 / 2.0)
    assert report["verdict"] == "no gain"


def test_a_reward_with_a_negative_weight_is_gained_by_falling(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = world.checkpoint()
    spec = {"checkpoint_id": str(base), "reward": [{"name": "brightness", "weight": -2.0}]}
    _, (darker, brighter) = world.finetune(base, [1, 2], spec=spec)
    reward(world, base, "brightness", [0.5, 0.6, 0.7, 0.8])
    reward(world, darker, "brightness", [0.3, 0.41, 0.5, 0.6])
    reward(world, brighter, "brightness", [0.7, 0.81, 0.9, 1.0])
    for id, verdict, gain in ((darker, "improved", 0.1975), (brighter, "no gain", -0.2025)):
        report = client.get(f"/api/v1/checkpoints/{id}/over-optimisation", headers=operator).json()
        assert report["verdict"] == verdict, report["sentence"]
        assert report["alarms"] == []
        optimised = report["rewards"][0]
        assert optimised["label"].startswith("Negative of Brightness")
        assert optimised["difference"]["mean"] == pytest.approx(gain)


def test_the_verdict_rests_on_the_recipe_that_base_and_checkpoint_have_the_most_samples_of(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = world.checkpoint()
    spec = {"checkpoint_id": str(base), "reward": [{"name": "brightness"}]}
    _, (first, last) = world.finetune(base, [1, 2], spec=spec)
    few = {base: [0.5, 0.6], first: [0.4, 0.51], last: [0.3, 0.41]}  # the run's own seeds, at every epoch
    for id, values in few.items():
        reward(world, id, "brightness", values)
    for id, shift in ((base, 0.0), (last, 0.2)):
        samples = world.samples(id, range(40), steps=40)
        world.add(
            *(
                SampleReward(sample_id=sample.id, name="brightness", value=0.01 * sample.seed + shift * (1 + 0.01 * n))
                for n, sample in enumerate(samples)
            )
        )
    report = client.get(f"/api/v1/checkpoints/{last}/over-optimisation", headers=operator).json()
    assert (report["rewards"][0]["n"], report["verdict"]) == (40, "improved")
    assert [epoch["rewards"]["brightness"] < 0 for epoch in report["epochs"]] == [True, True]  # what every epoch has


def test_a_report_without_numbers_gives_no_verdict_and_a_base_has_none(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = world.checkpoint()
    _, (tuned,) = world.finetune(base, [1], spec={"checkpoint_id": str(base), "reward": [{"name": "brightness"}]})
    report = client.get(f"/api/v1/checkpoints/{tuned}/over-optimisation", headers=operator).json()
    assert report["verdict"] is None
    assert "Evaluate both" in report["sentence"]
    assert client.get(f"/analysis/over-optimisation/{tuned}", headers=operator).status_code == 200
    assert client.get(f"/api/v1/checkpoints/{base}/over-optimisation", headers=operator).status_code == 409
    assert client.get(f"/api/v1/checkpoints/{uuid4()}/over-optimisation", headers=operator).status_code == 404


def test_guided_samples_are_never_drawn_for_a_pair_or_shown_as_the_checkpoint_s_own(
    client: TestClient, world: Any, operator: Headers
) -> None:
    from app.db.queries import samples as queries
    from app.db.queries.samples import DrawnImage, Recipe

    base = world.checkpoint()
    plain = world.samples(base, [1, 2])
    drawn = [DrawnImage(seed, world.blobs.put(png(900 + seed)), 16, 16) for seed in (1, 2)]
    for scale in (5.0, 7.0):
        recipe = Recipe(base, 10, 1.0, {"reward": "brightness", "scale": scale})
        with world.database.writer() as session:
            queries.add_samples(session, recipe, drawn, job_id=None, now=world.now)
    more = world.samples(base, [3])
    assert [sample.ordinal for sample in [*plain, *more]] == [0, 1, 2]
    assert client.get(f"/api/v1/checkpoints/{base}", headers=operator).json()["n_samples"] == 3
    with world.database.reader() as session:
        reference = queries.samples_of_checkpoints(session, [base], limit=100)
    assert {sample.id for sample in reference} == {sample.id for sample in [*plain, *more]}
    listed = client.get("/api/v1/samples", params={"checkpoint_id": str(base)}, headers=operator).json()["items"]
    assert len(listed) == 7


@ON_SQLITE_ALONE
def test_the_pages_of_an_empty_installation_say_how_to_start(
    client: TestClient, operator: Headers, settings: Settings
) -> None:
    for path, sentence in (
        ("/analysis", "Nothing has been analysed yet"),
        ("/analysis?kind=diversity", "No analysis of this kind yet"),
        ("/analysis/inversion", "No image has been inverted yet"),
        ("/analysis/guidance", "Nothing has been guided yet"),
    ):
        page = client.get(path, headers=operator)
        assert page.status_code == 200, page.text
        assert sentence in page.text
    assert (
        f"The encoder &#39;{settings.encoder}&#39; was not trained with text"
        in client.get("/analysis/guidance", headers=operator).text
    )
