"""Rating in a real browser: what the database holds afterwards is what was chosen, vote for vote."""

import re
from collections.abc import Callable
from uuid import UUID

from playwright.sync_api import Page, expect
from sqlalchemy import select

from app.db.models import Comparison, Preference, User
from app.domain.enums import Choice, Role
from tests.e2e.conftest import OpenPage
from tests.e2e.stack import Site

_KEYS = {
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
    expect(page.locator("[data-stage]")).to_have_attribute("data-ahead", "4")


def open_rating(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/rate/{site.world.fresh_campaign}")
    expect(page.locator("html")).to_have_class(re.compile("scripted"))


def test_what_was_chosen_is_what_is_stored_through_undo_a_lost_connection_and_a_reload(
    open_page: OpenPage, site: Site
) -> None:
    page = open_page("Nora", Role.RATER)
    open_rating(page, site)
    chosen: dict[UUID, Choice] = {}
    keys = list(_KEYS)
    for turn in range(18):
        key = keys[turn % len(keys)]
        chosen[press(page, key)] = _KEYS[key]

    undone = [press(page, "u"), press(page, "u")]
    assert shown(page) not in undone
    for key in ("ArrowRight", "ArrowLeft"):  # judge both anew, with another choice than before
        chosen[press(page, key)] = _KEYS[key]
    wait_until_saved(page)
    assert stored_votes(site, "Nora") == chosen

    wait_until_fetched_ahead(page)
    page.context.set_offline(True)
    for key in ("1", "t", "2"):  # the pairs that were fetched ahead
        chosen[press(page, key)] = _KEYS[key]
    expect(page.locator("[data-sync]")).to_have_text("3 waiting")
    assert len(stored_votes(site, "Nora")) == len(chosen) - 3
    page.context.set_offline(False)
    wait_until_saved(page)
    assert stored_votes(site, "Nora") == chosen

    wait_until_fetched_ahead(page)
    page.context.set_offline(True)
    for key in ("2", "b"):
        chosen[press(page, key)] = _KEYS[key]
    expect(page.locator("[data-sync]")).to_have_text("2 waiting")
    page.context.set_offline(False)
    page.reload()  # perhaps before they were sent: the outbox outlives the page
    wait_until_saved(page)
    assert stored_votes(site, "Nora") == chosen
    while len(chosen) < 30:
        key = keys[len(chosen) % len(keys)]
        pair = press(page, key)
        assert pair not in chosen
        chosen[pair] = _KEYS[key]
    wait_until_saved(page)
    assert stored_votes(site, "Nora") == chosen


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


def test_the_next_pair_is_on_screen_within_100_ms(open_page: OpenPage, site: Site) -> None:
    page = open_page("Pia", Role.RATER)
    open_rating(page, site)
    for _ in range(10):
        wait_until_fetched_ahead(page)  # someone who looks gives the next pairs time to come
        press(page, "ArrowLeft")
    times = page.evaluate("performance.getEntriesByName('vote-to-next').map((entry) => entry.duration)")
    assert len(times) == 10
    assert sorted(times)[5] < 100


def test_undo_reaches_ten_votes_back_and_no_further(open_page: OpenPage, site: Site) -> None:
    page = open_page("Quentin", Role.RATER)
    open_rating(page, site)
    pairs = [press(page, "ArrowLeft") for _ in range(12)]
    for _ in range(10):
        press(page, "u")
    assert shown(page) == pairs[2]
    expect(page.locator("[data-undo]")).to_be_disabled()
    wait_until_saved(page)
    assert set(stored_votes(site, "Quentin")) == set(pairs[:2])


def test_taps_and_swipes_vote_on_a_phone(open_page: OpenPage, site: Site) -> None:
    page = open_page("Rosa", Role.RATER, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    open_rating(page, site)
    chosen = {
        act_and_wait_for_another(page, lambda: page.locator("[data-pair] [data-choice=right]").tap()): Choice.RIGHT
    }
    chosen[act_and_wait_for_another(page, lambda: page.locator("[data-rate] [data-choice=tie]").tap())] = Choice.TIE

    def swipe(dx: int) -> None:
        page.evaluate(
            """(dx) => {
              const stage = document.querySelector("[data-stage]");
              const at = (x) => [new Touch({ identifier: 1, target: stage, clientX: x, clientY: 300 })];
              stage.dispatchEvent(new TouchEvent("touchstart", { touches: at(200), changedTouches: at(200) }));
              stage.dispatchEvent(new TouchEvent("touchend", { touches: [], changedTouches: at(200 + dx) }));
            }""",
            dx,
        )

    chosen[act_and_wait_for_another(page, lambda: swipe(-120))] = Choice.LEFT
    chosen[act_and_wait_for_another(page, lambda: swipe(120))] = Choice.RIGHT
    swipe(20)  # too short: no vote
    wait_until_saved(page)
    assert stored_votes(site, "Rosa") == chosen
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_small_samples_are_enlarged_by_whole_factors_in_device_pixels(open_page: OpenPage, site: Site) -> None:
    for ratio in (1, 1.5, 3):
        page = open_page("Sven", Role.RATER, viewport={"width": 800, "height": 700}, device_scale_factor=ratio)
        open_rating(page, site)
        shown(page)
        width = page.locator("[data-pair] img").first.evaluate("(image) => image.getBoundingClientRect().width")
        factor = width * ratio / 64
        assert abs(factor - round(factor)) < 0.01
        assert factor >= 2


def test_without_scripts_the_page_is_a_form_that_votes_and_undoes(open_page: OpenPage, site: Site) -> None:
    page = open_page("Tilda", Role.RATER, java_script_enabled=False)
    page.goto(f"{site.url}/rate/{site.world.fresh_campaign}")
    first = UUID(page.locator("#vote input[name=comparison_id]").input_value())
    page.locator("[data-pair] button[value=left]").click()
    second = UUID(page.locator("#vote input[name=comparison_id]").input_value())
    assert second != first
    page.locator("form#vote button[value=tie]").click()
    assert stored_votes(site, "Tilda") == {first: Choice.LEFT, second: Choice.TIE}
    page.get_by_role("button", name="Undo the last vote").click()
    assert UUID(page.locator("#vote input[name=comparison_id]").input_value()) == second
    assert stored_votes(site, "Tilda") == {first: Choice.LEFT}


def test_nothing_on_the_page_names_a_checkpoint_or_a_sample(open_page: OpenPage, site: Site) -> None:
    page = open_page("Ulla", Role.RATER)
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    open_rating(page, site)
    pair = press(page, "ArrowLeft")
    with site.database.reader() as session:
        lease = session.get_one(Comparison, pair)
    seen = page.content() + " ".join(addresses)
    for secret in (site.world.base, site.world.tuned, lease.left_sample_id, lease.right_sample_id):
        assert str(secret) not in seen
    assert "critters-64" not in seen
    assert "warmer critters" not in seen


def test_guidelines_are_shown_without_what_could_run(open_page: OpenPage, site: Site) -> None:
    page = open_page("Vera", Role.RATER)
    open_rating(page, site)
    panel = page.locator("#guidelines")
    expect(panel).to_be_hidden()
    page.get_by_role("button", name="Guidelines").click()
    expect(panel.locator("em")).to_have_text("whole")
    assert panel.locator("script").count() == 0
    assert panel.locator("a[href^=javascript]").count() == 0


def test_the_last_pair_is_followed_by_what_to_do_next(open_page: OpenPage, site: Site) -> None:
    page = open_page("Wim", Role.OPERATOR)
    page.goto(f"{site.url}/rate/{site.world.tournament}")
    expect(page.locator("html")).to_have_class(re.compile("scripted"))
    for _ in range(15):
        press(page, "ArrowRight")
    shown(page)
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="That was every pair for now.")).to_be_visible()
    expect(page.get_by_role("link", name="Train a reward model")).to_be_visible()
    page.keyboard.press("u")  # the last one can still be taken back
    expect(page.locator("[data-pair]")).to_be_visible()
    wait_until_saved(page)
    assert len(stored_votes(site, "Wim")) == 15
