"""/samples and /media: pages, images in every format, one noise along its checkpoints."""

import io
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.db.models import SampleReward

Headers = dict[str, str]
URL = "/api/v1/samples"
ON_SQLITE_ALONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests in which no SQL of interest runs."""


@pytest.fixture
def base(world: Any) -> Any:
    return world.checkpoint()


@pytest.fixture
def sample(world: Any, base: Any) -> Any:
    return world.samples(base, [7])[0]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_sample_has_what_it_takes_to_draw_it_again(
    client: TestClient, world: Any, base: Any, sample: Any, operator: Headers
) -> None:
    world.add(SampleReward(sample_id=sample.id, name="brightness", value=0.25))
    body = client.get(f"{URL}/{sample.id}", headers=operator).json()
    assert (body["checkpoint_id"], body["seed"], body["steps"], body["eta"]) == (str(base), 7, 10, 1.0)
    assert (body["width"], body["height"], body["sha256"]) == (16, 16, sample.sha256)
    assert body["rewards"] == {"brightness": 0.25}
    assert body["created_at"].endswith(("Z", "+00:00"))
    assert set(body["links"]) >= {"image", "thumbnail"}
    for link in body["links"].values():
        assert client.get(link, headers=operator).status_code == 200


def test_lists_filter_by_checkpoint_and_seed(world: Any, base: Any, walk: Any) -> None:
    other = world.checkpoint("other")
    mine, theirs = world.samples(base, range(5)), world.samples(other, [3, 4])
    assert {item["id"] for item in walk(URL, checkpoint_id=str(base))} == {str(row.id) for row in mine}
    assert {item["id"] for item in walk(URL, seed=3)} == {str(mine[3].id), str(theirs[0].id)}
    assert [item["id"] for item in walk(URL, checkpoint_id=str(other), seed=4)] == [str(theirs[1].id)]
    assert len(walk(URL)) == 7


def test_samples_of_an_unknown_checkpoint_are_404_not_empty(client: TestClient, operator: Headers) -> None:
    assert client.get(URL, params={"checkpoint_id": str(uuid4())}, headers=operator).status_code == 404


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "MjAyNi0wMS0wMXxub3BlIHw"}, "cursor"),
        ({"checkpoint_id": "../x"}, "checkpoint_id"),
    ],
)
def test_a_wrong_filter_is_named(client: TestClient, operator: Headers, params: dict[str, Any], field: str) -> None:
    answer = client.get(URL, params=params, headers=operator)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].endswith(field)


@ON_SQLITE_ALONE
def test_the_png_is_the_stored_one_bit_for_bit(client: TestClient, world: Any, sample: Any, operator: Headers) -> None:
    answer = client.get(f"{URL}/{sample.id}/image", headers=operator)
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == world.blobs.get(sample.sha256)


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    ("accept", "format"),
    [
        ("*/*", "PNG"),
        ("image/*", "PNG"),
        ("image/webp", "WEBP"),
        ("image/jpeg", "JPEG"),
        ("image/webp, image/png;q=0.5", "WEBP"),
        ("image/webp;q=0.5, image/png", "PNG"),
        ("image/png;q=0, image/*;q=0.1", "WEBP"),
        ("IMAGE/JPEG ; Q=0.9 , text/html", "JPEG"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "PNG"),
    ],
)
def test_accept_chooses_the_format(
    client: TestClient, sample: Any, operator: Headers, accept: str, format: str
) -> None:
    answer = client.get(f"{URL}/{sample.id}/image", headers={**operator, "Accept": accept})
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).format == format
    assert answer.headers["content-type"] == f"image/{format.lower()}"
    assert answer.headers["vary"] == "Accept"


@ON_SQLITE_ALONE
def test_the_query_wins_over_accept(client: TestClient, sample: Any, operator: Headers) -> None:
    answer = client.get(f"{URL}/{sample.id}/image?format=webp", headers={**operator, "Accept": "image/png"})
    assert answer.headers["content-type"] == "image/webp"


@ON_SQLITE_ALONE
def test_webp_loses_nothing_and_jpeg_little(client: TestClient, world: Any, sample: Any, operator: Headers) -> None:
    stored = pixels(world.blobs.get(sample.sha256))
    webp = client.get(f"{URL}/{sample.id}/image?format=webp", headers=operator).content
    np.testing.assert_array_equal(pixels(webp), stored)
    jpeg = client.get(f"{URL}/{sample.id}/image?format=jpeg", headers=operator).content
    assert np.abs(pixels(jpeg).astype(int) - stored).mean() < 10


@ON_SQLITE_ALONE
@pytest.mark.parametrize(("size", "edge"), [(16, 16), (1024, 16)])
def test_a_thumbnail_is_never_enlarged(
    client: TestClient, sample: Any, operator: Headers, size: int, edge: int
) -> None:
    answer = client.get(f"{URL}/{sample.id}/image?size={size}", headers=operator)
    assert pixels(answer.content).shape == (edge, edge, 3)


@ON_SQLITE_ALONE
@pytest.mark.parametrize("query", ["format=gif", "format=svg", "size=15", "size=1025", "size=1e9"])
def test_what_cannot_be_made_is_refused(client: TestClient, sample: Any, operator: Headers, query: str) -> None:
    assert client.get(f"{URL}/{sample.id}/image?{query}", headers=operator).status_code == 422


@ON_SQLITE_ALONE
@pytest.mark.parametrize("accept", ["text/html", "image/avif", "image/png;q=0, image/webp;q=0, image/jpeg;q=0"])
def test_what_is_not_acceptable_says_what_there_is(
    client: TestClient, sample: Any, operator: Headers, accept: str
) -> None:
    answer = client.get(f"{URL}/{sample.id}/image", headers={**operator, "Accept": accept})
    assert answer.status_code == 406
    assert "image/png" in answer.json()["detail"]


@ON_SQLITE_ALONE
def test_images_are_validated_by_a_strong_etag(client: TestClient, sample: Any, operator: Headers) -> None:
    queries = ["", "?format=webp", "?format=jpeg", "?size=16", "?size=17"]
    first = [client.get(f"{URL}/{sample.id}/image{query}", headers=operator) for query in queries]
    tags = [answer.headers["etag"] for answer in first]
    assert len(set(tags)) == len(queries)
    for query, tag, answer in zip(queries, tags, first, strict=True):
        assert not tag.startswith("W/")
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        again = client.get(f"{URL}/{sample.id}/image{query}", headers={**operator, "If-None-Match": f'"x", {tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


def test_media_hands_out_images_and_no_other_blob(
    client: TestClient, world: Any, sample: Any, operator: Headers
) -> None:
    answer = client.get(f"/media/{sample.sha256}", headers=operator)
    assert (answer.status_code, answer.content) == (200, world.blobs.get(sample.sha256))
    assert answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    tag = answer.headers["etag"]
    assert client.get(f"/media/{sample.sha256}", headers={**operator, "If-None-Match": tag}).status_code == 304
    secret = world.blobs.put(b"weights")
    assert client.get(f"/media/{secret}", headers=operator).status_code == 404
    for name in ("..%2f..", "A" * 64, "0" * 63, "0" * 64):
        assert client.get(f"/media/{name}", headers=operator).status_code in (404, 422)
    assert client.get(f"/media/{sample.sha256}").status_code == 401


@ON_SQLITE_ALONE
def test_a_tampered_image_is_refused_not_shown(
    client: TestClient, settings: Any, sample: Any, operator: Headers
) -> None:
    path = Path(settings.blob_root) / sample.sha256[:2] / sample.sha256
    path.write_bytes(path.read_bytes()[:-1])
    answer = client.get(f"{URL}/{sample.id}/image", headers=operator)
    assert answer.status_code == 422
    assert "hash" in answer.json()["detail"]


def stops(client: TestClient, headers: Headers, sample: Any) -> list[tuple[str, str | None]]:
    answer = client.get(f"{URL}/{sample.id}/transitions", headers=headers)
    assert answer.status_code == 200, answer.text
    return [(stop["checkpoint"]["id"], stop["sample"] and stop["sample"]["id"]) for stop in answer.json()]


def test_transitions_follow_one_noise_from_the_base_through_every_epoch(
    client: TestClient, world: Any, base: Any, operator: Headers
) -> None:
    _, first = world.finetune(base, [1, 2, 3])
    _, second = world.finetune(first[1], [1, 2])
    world.finetune(base, [1])  # another line
    drawn = {id: world.samples(id, [7])[0] for id in [base, *first, second[0]]}
    world.samples(second[1], [7], steps=11)  # the same seed on another schedule is other noise
    line = [base, first[0], first[1], *second]  # up to the epoch that was built upon
    expected = [(str(id), str(drawn[id].id) if id in drawn else None) for id in line]
    assert expected[-1][1] is None
    assert stops(client, operator, drawn[second[0]]) == expected


def test_transitions_of_a_base_sample_go_along_the_newest_finetune(
    client: TestClient, world: Any, base: Any, sample: Any, operator: Headers
) -> None:
    world.finetune(base, [1])
    _, newest = world.finetune(base, [1, 2])
    assert [id for id, _ in stops(client, operator, sample)] == [str(base), *map(str, newest)]


def test_transitions_without_any_finetune_are_the_sample_alone(
    client: TestClient, base: Any, sample: Any, operator: Headers
) -> None:
    assert stops(client, operator, sample) == [(str(base), str(sample.id))]
