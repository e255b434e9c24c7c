"""What the rating page offers beside the vote: zoom, keys of one's own, guidelines and examples, a gentle end."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.adapters.clock import SystemClock
from app.db.models import CampaignExample, Sample
from app.domain.enums import Choice, Role
from tests.e2e.conftest import OpenPage
from tests.e2e.rating import open_rating, press, shown, stored_votes, touch, wait_until_saved
from tests.e2e.stack import Site
from tests.e2e.test_pages import violations

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 3}


def transforms(page: Page) -> list[str]:
    """How the two images are moved inside their frames."""
    styles: list[str] = page.locator("[data-pair] img").evaluate_all("images => images.map(i => i.style.transform)")
    assert len(styles) == 2
    return styles


def scale_of(page: Page) -> float:
    left, right = transforms(page)
    assert left == right  # both show the same place
    found = re.search(r"scale\(([\d.]+)\)", left)
    return float(found[1]) if found else 1.0


def by_wheel(page: Page) -> None:
    page.locator("[data-pair] .frame").first.hover()
    page.mouse.wheel(0, -400)


def by_keys(page: Page) -> None:
    page.keyboard.press("+")
    page.keyboard.press("+")


def by_buttons(page: Page) -> None:
    page.get_by_role("button", name="Closer").click()
    page.get_by_role("button", name="Closer").click()


def by_pinch(page: Page) -> None:
    touch(page, [(80, 400), (120, 400)], [(40, 400), (170, 400)])


@pytest.mark.parametrize("closer", [by_wheel, by_keys, by_buttons, by_pinch])
def test_zoom_moves_both_images_together_on_the_pixel_grid(
    open_page: OpenPage, site: Site, closer: Callable[[Page], None]
) -> None:
    page = open_page("Cleo", Role.RATER, **(PHONE if closer is by_pinch else {}))
    open_rating(page, site)
    pair = shown(page)
    closer(page)
    expect(page.locator("[data-stage]")).to_have_class(re.compile("zoomed"))
    scale = scale_of(page)
    assert scale > 1.5
    edge, ratio = page.evaluate("[parseFloat(document.querySelector('[data-pair] img').style.width), devicePixelRatio]")
    factor = edge * scale * ratio / 64
    assert abs(factor - round(factor)) < 0.02  # each pixel of the sample is a whole number of the screen's
    before = transforms(page)
    page.keyboard.press("Shift+ArrowRight")
    assert transforms(page) != before
    assert scale_of(page) == scale
    page.keyboard.press("0")
    assert scale_of(page) == 1.0
    assert shown(page) == pair
    wait_until_saved(page)
    assert pair not in stored_votes(site, "Cleo")  # looking closer is no vote


def test_dragging_a_zoomed_image_looks_around_and_a_click_still_votes(open_page: OpenPage, site: Site) -> None:
    page = open_page("Dora", Role.RATER)
    open_rating(page, site)
    pair = shown(page)
    by_keys(page)
    before = transforms(page)
    box = page.locator("[data-pair] .frame").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 150, steps=4)
    page.mouse.up()
    assert transforms(page) != before
    assert scale_of(page) > 1
    assert shown(page) == pair
    page.mouse.click(box["x"] + 200, box["y"] + 200)
    expect(page.locator("#vote input[name=comparison_id]")).not_to_have_value(str(pair))
    assert scale_of(page) == 1.0  # the next pair is first seen whole
    wait_until_saved(page)
    assert stored_votes(site, "Dora") == {pair: Choice.LEFT}


def test_keys_can_be_changed_are_kept_in_this_browser_and_put_back(open_page: OpenPage, site: Site) -> None:
    page = open_page("Egon", Role.RATER)
    open_rating(page, site)
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    status = dialog.locator("[data-keys-status]")
    dialog.get_by_role("button", name="Change the key for: the left image is better").click()
    page.keyboard.press("q")
    expect(status).to_have_text("Q it is.")
    dialog.get_by_role("button", name="Change the key for: both are bad").click()
    page.keyboard.press("s")  # the only key of another
    expect(status).to_contain_text("the only key for something else")
    dialog.get_by_role("button", name="Change the key for: both are bad").click()
    page.keyboard.press("Tab")
    expect(status).to_contain_text("choose another key")
    dialog.get_by_role("button", name="Change the key for: both are bad").click()
    page.keyboard.press("Escape")
    expect(status).to_have_text("Nothing was changed.")
    expect(dialog).to_be_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    page.reload()
    left = page.locator("[data-pair] [data-choice=left]")
    expect(left).to_have_attribute("aria-keyshortcuts", "q")
    pair = shown(page)
    page.keyboard.press("ArrowLeft")  # does nothing now
    assert shown(page) == pair
    assert press(page, "q") == pair
    page.keyboard.press("?")
    dialog.get_by_role("button", name="Put all keys back").click()
    dialog.get_by_role("button", name="Close", exact=True).click()
    second = press(page, "ArrowLeft")
    wait_until_saved(page)
    assert stored_votes(site, "Egon") == {pair: Choice.LEFT, second: Choice.LEFT}


def test_stopping_says_thank_you_and_what_was_done_and_one_may_go_on(open_page: OpenPage, site: Site) -> None:
    page = open_page("Frida", Role.RATER)
    open_rating(page, site)
    for _ in range(4):
        press(page, "ArrowRight")
    pair = shown(page)
    page.get_by_role("link", name="Stop here").click()
    expect(page.get_by_role("heading", name="Thank you.")).to_be_visible()
    expect(page.locator("[data-count]")).to_have_text("4")
    expect(page.locator("[data-visit-pace]")).to_contain_text(" s")
    expect(page.locator("[data-finish-sync]")).to_have_text("All of your votes are saved.")
    assert violations(page) == []
    page.keyboard.press("ArrowLeft")  # no pair is on screen: no vote
    page.get_by_role("link", name="Go on").click()
    assert shown(page) == pair
    wait_until_saved(page)
    assert len(stored_votes(site, "Frida")) == 4


def test_stopping_works_without_scripts(open_page: OpenPage, site: Site) -> None:
    page = open_page("Gerd", Role.RATER, java_script_enabled=False)
    page.goto(f"{site.url}/rate/{site.world.fresh_campaign}")
    page.get_by_role("link", name="Stop here").click()
    expect(page.get_by_role("heading", name="Thank you.")).to_be_visible()
    page.get_by_role("link", name="Go on").click()
    expect(page.locator("[data-pair]")).to_be_visible()


def test_guidelines_show_example_pairs_with_their_answers_and_nothing_of_where_they_are_from(
    open_page: OpenPage, site: Site
) -> None:
    with site.database.writer() as session:
        left, right = session.query(Sample).filter(Sample.checkpoint_id == site.world.tuned).limit(2)
        example = CampaignExample(
            campaign_id=site.world.fresh_campaign, left_sample_id=left.id, right_sample_id=right.id,
            choice=Choice.LEFT, note="Warmer: <b>orange</b>", created_at=SystemClock().now(),
        )  # fmt: skip
        session.add(example)
        secrets = [str(left.id), str(right.id), left.sha256, str(site.world.tuned)]
    page = open_page("Hanna", Role.RATER)
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    open_rating(page, site)
    page.keyboard.press("g")
    panel = page.get_by_role("region", name="Guidelines")
    expect(panel.get_by_text("The left one. Warmer: <b>orange</b>")).to_be_visible()
    page.locator(".examplepair img").evaluate_all("images => Promise.all(images.map(image => image.decode()))")
    assert violations(page) == []
    for secret in secrets:
        assert secret not in page.content() + " ".join(addresses)
    page.keyboard.press("g")
    expect(panel).to_be_hidden()
    with site.database.writer() as session:
        session.delete(session.get_one(CampaignExample, example.id))


@pytest.mark.parametrize(("width", "height", "ratio"), [(360, 640, 2), (844, 390, 3), (1920, 1080, 1), (3840, 2160, 1)])
def test_the_page_fits_from_a_small_phone_to_4k_with_crisp_pixels(
    open_page: OpenPage, site: Site, width: int, height: int, ratio: int
) -> None:
    page = open_page("Ines", Role.RATER, viewport={"width": width, "height": height}, device_scale_factor=ratio)
    open_rating(page, site)
    shown(page)
    expect(page.locator("[data-pair] img").first).to_have_attribute("style", re.compile("width"))
    fits = "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"
    assert page.evaluate(fits)
    boxes = page.locator("[data-pair] img").evaluate_all(
        "images => images.map(i => i.getBoundingClientRect().toJSON())"
    )
    assert boxes[0]["width"] == boxes[1]["width"]
    assert boxes[0]["right"] <= boxes[1]["left"]
    factor = boxes[0]["width"] * ratio / 64
    assert abs(factor - round(factor)) < 0.02
    assert boxes[0]["width"] > 0.25 * min(width, height)
    assert page.evaluate("getComputedStyle(document.querySelector('[data-pair] img')).imageRendering") == "pixelated"
    controls = page.locator("[data-rate]").bounding_box()
    assert controls is not None
    assert max(box["bottom"] for box in boxes) <= controls["y"]


def test_nothing_moves_for_those_who_asked_for_less_motion(open_page: OpenPage, site: Site) -> None:
    page = open_page("Jule", Role.RATER, reduced_motion="reduce")
    open_rating(page, site)
    press(page, "ArrowLeft")
    by_keys(page)
    press(page, "ArrowLeft")
    assert page.evaluate("document.getAnimations().length") == 0
    durations = "[...document.querySelectorAll('*')].map(each => parseFloat(getComputedStyle(each).transitionDuration))"
    assert set(page.evaluate(durations)) == {0}


def test_a_screen_reader_hears_each_vote_and_the_focus_stays(open_page: OpenPage, site: Site) -> None:
    page = open_page("Karl", Role.RATER)
    open_rating(page, site)
    status = page.locator("[data-announce]")
    expect(status).to_have_attribute("role", "status")
    left = page.get_by_role("button", name="The left image")
    left.focus()
    press(page, "Enter")
    expect(status).to_have_text("Left. Pair 2.")
    press(page, "Enter")
    expect(status).to_have_text("Left. Pair 3.")  # other words, so that it is read again
    expect(left).to_be_focused()
    wait_until_saved(page)
    assert list(stored_votes(site, "Karl").values()) == [Choice.LEFT, Choice.LEFT]
