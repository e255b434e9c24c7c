"""A site for the session, a browser, and pages that fail the test on anything that a page must not do."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from app.domain.enums import Role
from tests.e2e.embedded import Embedded, embedded
from tests.e2e.stack import Site, launch, running_site
from tests.integration.worker.conftest import tiny_model

__all__ = ["tiny_model"]

_PATIENCE_MS = 20_000  # bounds a wait that normally takes milliseconds: test machines are busy
_OFFLINE_NOISE = ("net::ERR_INTERNET_DISCONNECTED", "net::ERR_FAILED")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def installation(tmp_path: Path, tiny_model: Path) -> Iterator[Embedded]:
    """The embedded default with a worker, and the checkpoint folder `tiny` to register."""
    with embedded(tmp_path / "data") as parts:
        shutil.copytree(tiny_model, parts.settings.models_root / "tiny")
        yield parts


OpenPage = Callable[..., Page]


class Served(Protocol):
    @property
    def url(self) -> str: ...
    def login_link(self, name: str, role: Role) -> str: ...


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[OpenPage]:
    """`open_page("Nora", Role.RATER, viewport=...)` is a page in a browser of its own, signed in by a one-time link."""
    with _watched(browser, site) as open_page:
        yield open_page


@pytest.fixture
def open_real_page(browser: Browser, installation: Embedded) -> Iterator[OpenPage]:
    """The same, against the embedded default."""
    with _watched(browser, installation) as open_page:
        yield open_page


@contextmanager
def _watched(browser: Browser, site: Served) -> Iterator[OpenPage]:
    """At the end it fails on script errors, refusals by the content policy and requests to other hosts."""
    contexts: list[BrowserContext] = []
    offences: list[str] = []

    def check_request(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and f"{parts.scheme}://{parts.netloc}" != site.url:
            offences.append(f"request to another host: {request.url}")

    def check_message(message: ConsoleMessage) -> None:
        text = f"{message.text} {message.location.get('url', '')}"
        expected = any(noise in text for noise in _OFFLINE_NOISE) or "status of 4" in text
        if message.type == "error" and not expected:
            offences.append(text)

    def _open(name: str | None = "ada", role: Role = Role.ADMIN, **options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(_PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", check_request)
        page.on("console", check_message)
        page.on("pageerror", lambda error: offences.append(str(error)))
        if name is not None:
            page.goto(site.login_link(name, role))
        return page

    yield _open
    for context in contexts:
        context.close()
    assert not offences
