"""How the browser tests rate: keys, touches, waiting for what the page promises, and what the database holds."""

import re
from collections.abc import Callable
from uuid import UUID

from playwright.sync_api import Page, expect
from sqlalchemy import select

from app.db.models import Preference, User
from app.domain.enums import Choice
from tests.e2e.stack import Site

KEYS = {
    "ArrowLeft": Choice.LEFT,
    "1": Choice.LEFT,
    "ArrowRight": Choice.RIGHT,
    "2": Choice.RIGHT,
    "t": Choice.TIE,
    "ArrowDown": Choice.TIE,
    "b": Choice.BOTH_BAD,
    "s": Choice.SKIP,
}


def stored_votes(site: Site, rater: str) -> dict[UUID, Choice]:
    with site.database.reader() as session:
        rows = session.execute(
            select(Preference.comparison_id, Preference.choice)
            .join(User, User.id == Preference.rater_id)
            .where(User.name == rater)
        )
        return {row.comparison_id: row.choice for row in rows}


def shown(page: Page) -> UUID:
    """The comparison on screen, once it is there."""
    expect(page.locator("[data-pair]")).to_be_visible()
    return UUID(page.locator("#vote input[name=comparison_id]").input_value())


def act_and_wait_for_another(page: Page, act: Callable[[], None]) -> UUID:
    """Do something that shows another pair. Returns the one that was on screen before."""
    before = shown(page)
    act()
    expect(page.locator("#vote input[name=comparison_id]")).not_to_have_value(str(before))
    return before


def press(page: Page, key: str) -> UUID:
    return act_and_wait_for_another(page, lambda: page.keyboard.press(key))


def wait_until_saved(page: Page) -> None:
    expect(page.locator("[data-sync]")).to_have_text("saved")


def wait_until_fetched_ahead(page: Page) -> None:
    expect(page.locator("[data-stage]")).to_have_attribute("data-ahead", "6")


def touch(page: Page, start: list[tuple[int, int]], end: list[tuple[int, int]]) -> None:
    """Put fingers down, move them in a straight line and lift them, as the browser's own input."""
    session = page.context.new_cdp_session(page)

    def send(kind: str, points: list[tuple[float, float]]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    send("touchStart", list(start))
    for step in (0.25, 0.5, 0.75, 1.0):
        send("touchMove", [(a + (c - a) * step, b + (d - b) * step) for (a, b), (c, d) in zip(start, end, strict=True)])
    send("touchEnd", [])


def open_rating(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/rate/{site.world.fresh_campaign}")
    expect(page.locator("html")).to_have_class(re.compile("scripted"))
