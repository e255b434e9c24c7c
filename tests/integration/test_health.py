"""Liveness and readiness tell the truth about each part."""

import io
from collections.abc import Callable

from fastapi.testclient import TestClient
from PIL import Image

from app.config import Settings
from app.main import create_app
from tests.object_store import ObjectStore


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32)).save(out, "PNG")
    return out.getvalue()


def test_health_needs_no_token(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_readiness_names_the_part_that_is_away(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["database"] == "ok"
    assert answer.json()["blobs"] == "ok"
    assert "broker" in answer.json()["broker"]


def test_a_bucket_that_is_away_is_named_by_readiness_and_by_whoever_needs_it(
    settings: Settings, sign_in: Callable[..., dict[str, str]], object_store: ObjectStore
) -> None:
    away = settings.model_copy(update={"blob_url": "s3://never-made", "blob_endpoint_url": object_store.url})
    with TestClient(create_app(away), raise_server_exceptions=False) as client:
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "there is no bucket 'never-made'" in ready.json()["blobs"]
        uploaded = client.post("/api/v1/images", files={"file": ("one.png", _png())}, headers=sign_in())
        assert (uploaded.status_code, uploaded.json()["detail"]) == (503, ready.json()["blobs"])


def test_an_unknown_path_is_a_problem_document(client: TestClient) -> None:
    answer = client.get("/api/v1/nothing-here")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_foreign_host_name_is_refused(client: TestClient) -> None:
    assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 421
