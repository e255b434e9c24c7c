"""The published description of the API is complete and true."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from app.domain.enums import JobKind
from app.domain.specs import SPEC_OF_KIND
from app.web import api
from app.web.api.problems import MEDIA_TYPE
from app.web.deps import _write_session
from app.web.idempotency import ApiRoute

WITHOUT_TOKEN = {"/healthz", "/readyz"}
METHODS = {"get", "post", "put", "delete", "patch"}


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    return sqlite_database_url


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    answer = client.get("/api/v1/openapi.json")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                yield method, path, operation


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation.get("summary"), where
        assert operation.get("tags"), where
        assert any(status.startswith("2") for status in operation["responses"]), where
        for status, response in operation["responses"].items():
            assert response["description"], f"{where} {status}"
        for parameter in operation.get("parameters", []):
            assert parameter.get("schema"), f"{where} {parameter['name']}"


def test_every_call_documents_its_refusals_as_problems(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if path in WITHOUT_TOKEN:
            continue
        refusals = {status: response for status, response in operation["responses"].items() if status >= "400"}
        assert refusals.keys() >= {"401", "403"}, f"{method} {path}"
        if "requestBody" in operation or operation.get("parameters"):
            assert "422" in refusals, f"{method} {path}"
        if "{" in path:
            assert "404" in refusals, f"{method} {path}"
        for status, response in refusals.items():
            assert list(response["content"]) == [MEDIA_TYPE], f"{method} {path} {status}"
        assert operation["security"], f"{method} {path}"


def test_every_body_has_an_example(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            if media != "application/json":
                continue
            name = content["schema"]["$ref"].rpartition("/")[2]
            schema = document["components"]["schemas"][name]
            by_field = [field for field in schema["properties"].values() if "examples" in field]
            assert by_field or "example" in schema or "examples" in content, f"{method} {path}: {name}"


def test_every_reference_can_be_followed(document: dict[str, Any]) -> None:
    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    references = set(walk(document))
    assert references
    for reference in references:
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in target, reference
            target = target[part]


def test_the_specs_of_all_jobs_are_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for kind in JobKind:
        assert SPEC_OF_KIND[kind].__name__ in schemas
    assert schemas["FinetuneSpec"]["properties"]["clip_nats"]["description"]


def test_every_call_needs_a_token(client: TestClient, document: dict[str, Any]) -> None:
    for method, path, _ in operations(document):
        if path in WITHOUT_TOKEN:
            continue
        url = path.replace("{sha256}", "0" * 64)
        while "{" in url:
            start, end = url.index("{"), url.index("}")
            url = f"{url[:start]}00000000-0000-4000-8000-000000000000{url[end + 1 :]}"
        answer = client.request(method, url, json={})
        assert answer.status_code == 401, f"{method} {path}"
        assert answer.headers["content-type"] == MEDIA_TYPE


def test_every_post_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    """By the route's class, which stores the answer, and by the session that the answer is committed with."""
    posts = [route for route in routes_of(api.router) if "POST" in (route.methods or ())]
    assert len(posts) >= 6
    for route in posts:
        assert isinstance(route, ApiRoute), route.path
        assert _write_session in calls_of(route.dependant), route.path
    for method, path, operation in operations(document):
        documented = "Idempotency-Key" in {parameter["name"] for parameter in operation.get("parameters", [])}
        assert documented == (method == "post"), f"{method} {path}"


def routes_of(router: Any) -> Iterator[APIRoute]:
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from routes_of(route.original_router)


def calls_of(dependant: Any) -> Iterator[Any]:
    yield dependant.call
    for dependency in dependant.dependencies:
        yield from calls_of(dependency)
