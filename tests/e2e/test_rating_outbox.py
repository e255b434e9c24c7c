"""Votes in a real browser through lost connections, restarts, reloads and closed tabs: stored once, as chosen."""

from datetime import timedelta
from pathlib import Path
from uuid import UUID

from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select, update

from app.adapters.blobs import BlobStore
from app.adapters.clock import SystemClock
from app.db.models import Comparison, Preference, Sample
from app.domain.enums import Choice, Role
from tests.e2e.conftest import OpenPage
from tests.e2e.rating import (
    KEYS,
    open_rating,
    press,
    shown,
    stored_votes,
    wait_until_fetched_ahead,
    wait_until_saved,
)
from tests.e2e.stack import Site, running_site, serving


class Rater:
    """Someone who rates with keys alone, in turn, and remembers what they chose."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.chosen: dict[UUID, Choice] = {}
        self._keys = list(KEYS)

    def rate(self, n: int) -> None:
        for _ in range(n):
            key = self._keys[0]
            pair = press(self.page, key)
            assert pair not in self.chosen
            self.chosen[pair] = KEYS[key]
            self._keys.append(self._keys.pop(0))

    def undo(self, n: int) -> None:
        for _ in range(n):
            press(self.page, "u")
            del self.chosen[shown(self.page)]


def test_a_hundred_pairs_by_keys_through_lost_connections_reloads_and_undo(open_page: OpenPage, site: Site) -> None:
    page = open_page("Nora", Role.RATER)
    open_rating(page, site)
    rater = Rater(page)
    rater.rate(30)
    rater.undo(4)
    rater.rate(4)
    wait_until_saved(page)
    assert stored_votes(site, "Nora") == rater.chosen

    wait_until_fetched_ahead(page)
    page.context.set_offline(True)
    rater.rate(5)  # the pairs that were fetched ahead
    expect(page.locator("[data-sync]")).to_contain_text("5 waiting")
    rater.undo(2)  # never sent, so never heard of
    rater.rate(2)
    assert len(stored_votes(site, "Nora")) == 30
    page.context.set_offline(False)
    wait_until_saved(page)
    assert stored_votes(site, "Nora") == rater.chosen

    rater.rate(15)
    page.reload()  # perhaps before the last ones were sent: the outbox outlives the page
    rater.rate(10)
    page.reload()
    rater.undo(10)  # across the reload, too
    expect(page.locator("[data-undo]")).to_be_disabled()
    rater.rate(10)
    wait_until_saved(page)
    assert stored_votes(site, "Nora") == rater.chosen

    wait_until_fetched_ahead(page)
    page.context.set_offline(True)
    rater.rate(3)
    page.context.set_offline(False)
    page.reload()
    while len(rater.chosen) < 100:
        rater.rate(1)
    wait_until_saved(page)
    assert stored_votes(site, "Nora") == rater.chosen
    assert len(rater.chosen) == 100
    expect(page.locator("[data-progress-text]")).to_contain_text("100 of yours")


def test_a_vote_that_the_server_never_confirmed_is_sent_again_and_counts_once(open_page: OpenPage, site: Site) -> None:
    page = open_page("Olga", Role.RATER)
    open_rating(page, site)
    lost: list[str] = []

    def lose_the_answer(route):  # type: ignore[no-untyped-def]
        if len(lost) < 2:
            lost.append(route.request.url)
            route.fetch()  # the server has it
            route.abort()  # the browser does not know
        else:
            route.continue_()

    page.route("**/preference", lose_the_answer)
    pair = press(page, "ArrowLeft")
    wait_until_saved(page)
    assert len(lost) == 2
    assert stored_votes(site, "Olga") == {pair: Choice.LEFT}


def test_votes_given_while_the_server_is_down_are_stored_once_when_it_is_back(browser: Browser, tmp_path: Path) -> None:
    with running_site(tmp_path) as home:
        context = browser.new_context()
        page = context.new_page()
        rater = Rater(page)
        port = int(home.url.rpartition(":")[2])
        page.goto(home.login_link("Xenia", Role.RATER))
        open_rating(page, home)
        rater.rate(3)
        wait_until_saved(page)
        wait_until_fetched_ahead(page)
    rater.rate(4)
    expect(page.locator("[data-sync]")).to_contain_text("4 waiting")
    rater.undo(1)
    with serving(home.settings, port):
        wait_until_saved(page)
        assert stored_votes(home, "Xenia") == rater.chosen
        rater.rate(3)
        wait_until_saved(page)
    assert stored_votes(home, "Xenia") == rater.chosen
    assert len(rater.chosen) == 9
    home.database.dispose()
    context.close()


def test_pairs_whose_images_are_gone_are_skipped_and_rating_goes_on(browser: Browser, tmp_path: Path) -> None:
    with running_site(tmp_path) as home:
        context = browser.new_context()
        page = context.new_page()
        page.goto(home.login_link("Quinn", Role.RATER))
        open_rating(page, home)
        rater = Rater(page)
        rater.rate(2)
        wait_until_fetched_ahead(page)
        with home.database.reader() as session:
            images = sorted(set(session.scalars(select(Sample.sha256))))
        for sha256 in images[::2]:  # three pairs of four lose an image
            BlobStore(home.settings.blob_root).delete(sha256)
        rater.rate(14)
        wait_until_saved(page)
        stored = stored_votes(home, "Quinn")
        skipped = {id: choice for id, choice in stored.items() if id not in rater.chosen}
        assert {id: stored[id] for id in rater.chosen} == rater.chosen
        assert len(skipped) > 3
        assert set(skipped.values()) == {Choice.SKIP}
        expect(page.locator("[data-pair] img").first).to_be_visible()
        context.close()


def test_a_closed_tab_loses_nothing(open_page: OpenPage, site: Site) -> None:
    page = open_page("Yann", Role.RATER)
    open_rating(page, site)
    rater = Rater(page)
    rater.rate(2)
    wait_until_saved(page)
    wait_until_fetched_ahead(page)
    page.context.set_offline(True)
    rater.rate(3)
    page.close()
    page.context.set_offline(False)
    assert len(stored_votes(site, "Yann")) == 2
    again = page.context.new_page()
    open_rating(again, site)
    wait_until_saved(again)
    assert stored_votes(site, "Yann") == rater.chosen
    assert shown(again) not in rater.chosen


def test_two_tabs_send_the_votes_of_both_once(open_page: OpenPage, site: Site) -> None:
    page = open_page("Zoe", Role.RATER)
    open_rating(page, site)
    wait_until_fetched_ahead(page)
    other = page.context.new_page()
    sent: list[str] = []
    page.context.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    page.context.set_offline(True)
    first, second = Rater(page), press(page, "ArrowLeft")
    first.rate(2)
    page.context.set_offline(False)
    open_rating(other, site)  # finds the same outbox
    wait_until_saved(other)
    wait_until_saved(page)
    assert stored_votes(site, "Zoe") == {second: Choice.LEFT} | first.chosen


def _overdue(site: Site, pair: UUID, *, given_away: bool) -> None:
    """As if the rater had been away for longer than the pair was reserved."""
    now = SystemClock().now()
    ended = {"expired": True, "closed_at": now} if given_away else {}
    with site.database.writer() as session:
        session.execute(
            update(Comparison).where(Comparison.id == pair).values(expires_at=now - timedelta(minutes=1), **ended)
        )


def test_a_vote_that_waited_longer_than_its_lease_still_counts_unless_the_pair_was_given_away(
    open_page: OpenPage, site: Site
) -> None:
    page = open_page("Anouk", Role.RATER)
    open_rating(page, site)
    kept, lost = press(page, "ArrowLeft"), press(page, "ArrowRight")
    wait_until_saved(page)
    with site.database.writer() as session:  # as if the server had never heard of either
        for pair in (kept, lost):
            session.delete(session.get_one(Preference, pair))
            session.get_one(Comparison, pair).closed_at = None
    _overdue(site, kept, given_away=False)
    _overdue(site, lost, given_away=True)
    page.evaluate(
        """(ids) => {
          const rater = document.querySelector("[data-rate]").dataset;
          ids.forEach((comparison, n) => localStorage.setItem(
            `tastemaker-outbox:${rater.rater}:${rater.campaign}:000000000000001-00000${n}-x`,
            JSON.stringify({ comparison, vote: { choice: "tie", response_ms: 900 } }),
          ));
        }""",
        [str(kept), str(lost)],
    )
    page.reload()
    expect(page.locator("[data-sync]")).to_contain_text("not counted: This pair was reserved for you")
    assert stored_votes(site, "Anouk") == {kept: Choice.TIE}
    with site.database.writer() as session:  # leave no lease that counts and has no place
        session.get_one(Comparison, lost).closed_at = SystemClock().now()


def test_a_campaign_that_closes_meanwhile_says_so_and_takes_no_more(browser: Browser, tmp_path: Path) -> None:
    with running_site(tmp_path) as home:
        context = browser.new_context()
        page = context.new_page()
        page.goto(home.login_link("Bo", Role.RATER))
        open_rating(page, home)
        rater = Rater(page)
        rater.rate(2)
        wait_until_saved(page)
        wait_until_fetched_ahead(page)
        context.set_offline(True)
        press(page, "ArrowLeft")
        operator = browser.new_context()
        desk = operator.new_page()
        desk.goto(home.login_link("ada", Role.ADMIN))
        desk.goto(f"{home.url}/campaigns/{home.world.fresh_campaign}")
        desk.get_by_role("button", name="Close “Warm and cosy” to votes").click()
        expect(desk.get_by_text("closed").first).to_be_visible()
        context.set_offline(False)
        expect(page.locator("[data-sync]")).to_contain_text("not counted: This campaign is closed")
        assert stored_votes(home, "Bo") == rater.chosen
        page.reload()
        expect(page.get_by_role("heading", name="This campaign is closed.")).to_be_visible()
        expect(page.locator("[data-count]")).to_have_text("2")
        for each in (context, operator):
            each.close()
