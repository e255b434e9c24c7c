"""An invitation in real browsers: the operator makes a link, a stranger opens it on a phone, and it leaks nowhere."""

from playwright.sync_api import expect

from app.domain.enums import Role
from tests.e2e.conftest import OpenPage
from tests.e2e.rating import shown, stored_votes, wait_until_saved
from tests.e2e.stack import Site
from tests.e2e.test_pages import violations

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 3}


def test_an_operator_invites_and_a_stranger_rates_on_a_phone(open_page: OpenPage, site: Site) -> None:
    desk = open_page("ada", Role.ADMIN)
    desk.goto(f"{site.url}/campaigns/{site.world.fresh_campaign}")
    desk.get_by_role("textbox", name="Sent to").fill("evening class")
    desk.get_by_label("People").fill("2")
    desk.get_by_role("button", name="Make a link").click()
    link = desk.locator("#link").inner_text()
    expect(desk.get_by_alt_text("The link as a QR code")).to_be_visible()
    assert desk.evaluate("document.querySelector('.qr img').naturalWidth") > 100
    assert violations(desk) == []

    phone = open_page(None, **PHONE)
    code = link.rpartition("/")[2]
    referers: list[str] = []
    phone.on("request", lambda request: referers.append(request.all_headers().get("referer", "")))
    phone.goto(link)
    expect(phone.get_by_role("heading", name="Which critter looks warmer?")).to_be_visible()
    assert violations(phone) == []
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    phone.get_by_label("Your name here").fill("Lena")
    phone.get_by_role("button", name="Start").tap()
    pair = shown(phone)
    expect(phone.locator("html")).to_have_class("scripted")
    phone.locator("[data-pair] [data-choice=right]").tap()
    expect(phone.locator("#vote input[name=comparison_id]")).not_to_have_value(str(pair))
    wait_until_saved(phone)
    assert set(stored_votes(site, "Lena")) == {pair}
    assert any(referers)
    assert not any(code in referer for referer in referers)

    for path in ("/campaigns", "/account", "/jobs", f"/campaigns/{site.world.fresh_campaign}"):
        answer = phone.goto(site.url + path)
        assert answer is not None
        assert answer.status == 403
    phone.get_by_role("link", name="Back to rating").tap()
    assert shown(phone) != pair
    phone.goto(link)  # again: straight in, as the same rater
    expect(phone.locator("[data-progress-text]")).to_contain_text("1 of yours")

    desk.get_by_role("link", name="Back to the campaign").click()
    expect(desk.get_by_role("row", name="evening class")).to_contain_text("1 of 2")
    desk.get_by_role("button", name="Revoke the link sent to evening class").click()
    expect(desk.get_by_role("row", name="evening class")).to_contain_text("revoked")
    late = open_page(None, **PHONE)
    answer = late.goto(link)
    assert answer is not None
    assert answer.status == 410
    expect(late.get_by_text("This invitation was withdrawn.")).to_be_visible()
    assert violations(late) == []


def test_an_operator_adds_an_example_by_its_seeds_and_removes_it(open_page: OpenPage, site: Site) -> None:
    page = open_page("ada", Role.ADMIN)
    page.goto(f"{site.url}/campaigns/{site.world.campaign}")
    page.get_by_text("Add an example pair").click()
    page.get_by_label("Left: seed").fill("0")
    page.get_by_label("Right: seed").fill("1")
    page.get_by_label("Why").fill("Kinder eyes.")
    page.get_by_role("button", name="Add the example").click()
    expect(page.get_by_text("The left one. Kinder eyes.")).to_be_visible()
    assert violations(page) == []
    page.get_by_role("button", name="Remove example 1").click()
    expect(page.get_by_text("Kinder eyes.")).to_be_hidden()
