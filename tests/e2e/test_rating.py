"""Rating in a real browser: one key a vote, the next pair at once, undo, taps and swipes, and without scripts too."""

import re
from uuid import UUID

from playwright.sync_api import expect

from app.db.models import Comparison
from app.domain.enums import Choice, Role
from tests.e2e.conftest import OpenPage
from tests.e2e.rating import (
    act_and_wait_for_another,
    open_rating,
    press,
    shown,
    stored_votes,
    touch,
    wait_until_fetched_ahead,
    wait_until_saved,
)
from tests.e2e.stack import Site


def test_the_next_pair_is_on_screen_within_100_ms(open_page: OpenPage, site: Site) -> None:
    page = open_page("Pia", Role.RATER)
    open_rating(page, site)
    for _ in range(10):
        wait_until_fetched_ahead(page)  # someone who looks gives the next pairs time to come
        press(page, "ArrowLeft")
    page.wait_for_function(
        "performance.getEntriesByName('vote-to-next').length === 10"
    )  # measured a task after it is drawn
    times = page.evaluate("performance.getEntriesByName('vote-to-next').map((entry) => entry.duration)")
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
        touch(page, [(200, 400)], [(200 + dx, 400)])

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
    expect(page.get_by_role("heading", name="That is all, thank you.")).to_be_visible()
    expect(page.get_by_role("link", name="Train a reward model")).to_be_visible()
    page.keyboard.press("u")  # the last one can still be taken back
    expect(page.locator("[data-pair]")).to_be_visible()
    wait_until_saved(page)
    assert len(stored_votes(site, "Wim")) == 15
