"""The contact sheet: what is in the file, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from realqa_utils.forms.conversations import MIX
from realqa_utils.forms.taxonomy import SCORED
from realqa_utils.scoring import contact_sheet

EVIL = "album/<img src=x onerror=alert(1)>.jpg"
CLOSING = "album/a <!--</script><script>alert(2)/b.jpg"
COUNT = 280  # more than the page draws at once


def thumbnail(number: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, 90, 160)).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def scored(name: str, score: float, number: int = 0, **more) -> dict:
    """A photograph as `folder_tables` describes it to the page."""
    rng = np.random.default_rng(number)
    chances = {n: rng.dirichlet(np.ones(10 if n in SCORED[:2] else 3)).tolist() for n in SCORED}
    chances["level_shot"], chances["exposure"] = [0.25, 0.75], [0.1, 0.2, 0.3, 0.4, 0.0]
    values = {n: int(np.argmax(p)) + (n in SCORED[:2]) for n, p in chances.items()}
    photo = {
        "name": name, "problem": "", "thumbnail": thumbnail(number), "score": score,
        "low": max(score - 1, 0), "high": min(score + 1.5, 10), "interval": "calibrated, 90 %",
        "greedy": math.floor(score * 100) / 100, "expected": score - 0.25, "sd": 0.6,
        "parsed": True, "off_format": 0.002, "bars": [int(score * 10) % 90, [2500, 5000, 2500]],
        "composite": 10 - score, "chances": chances,
        "values": values | {"subject_background": "a lamp, behind it <b>a wall</b>"},
        "reasons": {"eye_catching": "it stands out", "composition": "it is level"},
        "left": "subject_clutter" if number == 201 else "",
    }  # fmt: skip
    return photo | more


def album() -> list[dict]:
    photos = [scored(f"album/{n}.jpg", n / 50, n) for n in range(COUNT - 4)]
    photos[7] |= {"parsed": False, "greedy": float("nan")}
    return [
        *photos,
        scored(EVIL, 9.5),
        scored(CLOSING, 9.4),
        {"name": "album/broken.jpg", "problem": "the file is <empty>", "thumbnail": None},
        {"name": "album/cut.jpg", "problem": "damaged", "thumbnail": None},
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sheet")
    return contact_sheet.write(
        folder / "index.html", iter(album()), "Scores & <more>", 3, attributes=True, composite=True
    )


# --- the file ------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page, and the text of its blocks of data."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.data: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and attributes.get("class") == "photographs" and data.strip():
            self.data.append(data)


def test_photographs_are_data_and_never_markup(path):
    page = Elements(path.read_text("utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert "img" not in tags and tags.count("script") == 2 + math.ceil(COUNT / contact_sheet.BLOCK)
    photos = [photo for block in page.data for photo in json.loads(block)]
    assert [photo["name"] for photo in photos] == [photo["name"] for photo in album()]
    assert photos[7]["greedy"] is None and photos[8]["score"] == 0.16
    assert "Scores &amp; &lt;more&gt;" in path.read_text("utf-8")


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_name_comes_back_and_opens_no_tag(text):
    written = contact_sheet._json([{"name": text}])
    assert json.loads(written) == [{"name": text}] and "<" not in written
    written.encode("ascii")


def test_nothing_is_loaded_from_anywhere(path):
    page = Elements(path.read_text("utf-8"))
    assert not [tag for tag, found in page.tags if {"src", "href"} & set(found)]
    (policy,) = [found["content"] for _, found in page.tags if "http-equiv" in found]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "://" not in path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")


def test_photographs_are_written_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "BLOCK", 10)
    sizes = []

    def photos():
        for number in range(100):
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
            yield scored(f"{number}.jpg", 5.0)

    contact_sheet.write(tmp_path / "a.html", photos(), "Scores")
    assert sizes[-1] - sizes[25] > 50 * len(json.dumps(scored("1.jpg", 5.0)))


def test_a_page_that_is_not_finished_is_not_there(tmp_path):
    def photos():
        yield scored("1.jpg", 5.0)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        contact_sheet.write(tmp_path / "a.html", photos(), "Scores")
    assert not list(tmp_path.iterdir())


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no browser: neither chromium nor google-chrome is installed")
    with playwright.sync_playwright() as running:
        # as root, as in many a container, Chromium has no sandbox; it opens this file only
        chromium = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser, path, **options):
    """The page, and what went wrong on it so far."""
    wrong: list[str] = []
    page = browser.new_page(**options)
    page.set_default_timeout(30_000)  # ms; a shared machine is no reason to fail
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: wrong.append(request.url[:99]))
    page.goto(path.as_uri())
    assert wrong == [path.as_uri()]
    wrong.clear()
    return page, wrong


def expect(locator):
    """Playwright's assertions, which wait; `wait_for_function` polls by eval, which a page with a
    policy of its own forbids."""
    from playwright import sync_api

    return sync_api.expect(locator)


@pytest.fixture
def page(browser, path):
    page, wrong = opened(browser, path, viewport={"width": 1200, "height": 800})
    yield page
    assert [one for one in wrong if not one.startswith("data:image/jpeg")] == []
    page.close()


def names(page) -> list[str]:
    return page.locator(".card .name").all_text_contents()


def test_the_best_come_first_and_more_cards_as_one_scrolls(page):
    assert page.locator("#count").text_content() == f"{COUNT} photographs"
    assert names(page)[2:5] == ["275.jpg", "274.jpg", "273.jpg"]
    assert page.locator(".card .score").first.text_content() == "9.50"
    assert len(names(page)) < COUNT
    for _ in range(4):
        page.mouse.wheel(0, 100_000)
        page.wait_for_timeout(50)
    expect(page.locator(".card")).to_have_count(COUNT)
    assert names(page)[-3:] == ["0.jpg", "broken.jpg", "cut.jpg"]
    assert page.locator(".card .trouble").first.text_content() == "the file is <empty>"


def test_every_column_sorts_both_ways(page):
    columns = [column[0] for column in contact_sheet.COLUMNS] + ["composite"]
    columns += [attribute.name for attribute in MIX.attributes]
    offered = page.locator("#sort option").evaluate_all("all => all.map((one) => one.value)")
    assert sorted(offered) == sorted(columns)
    photos = [photo | photo.get("values", {}) for photo in album()]
    for photo in photos:
        photo["width"] = photo.get("high", math.nan) - photo.get("low", math.nan)
    for key in sorted({*columns} - {"name", "subject_background", "problem"}):
        values = {photo["name"]: photo.get(key, math.nan) for photo in photos}
        page.locator("#sort").select_option(key)
        for best, sign in ((np.nanmax, -1), (np.nanmin, 1)):
            titles = page.locator(".card").evaluate_all("all => all.map((one) => one.title)")
            found = sign * np.array([values[title] for title in titles])
            assert found[0] == pytest.approx(sign * best(list(values.values()))), key
            assert (np.diff(found) > -1e-9).all(), key
            page.locator("#turn").click()
    page.locator("#sort").select_option("name")
    page.locator("#text").fill("album/1")
    assert names(page)[:3] == ["1.jpg", "10.jpg", "11.jpg"]
    page.locator("#turn").click()
    assert names(page)[:3] == ["199.jpg", "198.jpg", "197.jpg"]


def test_filters_by_name_score_tier_and_problem(page):
    page.locator("#text").fill("ALBUM/27")
    assert sorted(names(page)) == ["27.jpg", *(f"{n}.jpg" for n in range(270, 276))]
    assert page.locator("#count").text_content() == f"7 of {COUNT} photographs"
    page.locator("#clear").click()
    page.locator("#least").fill("3")
    page.locator("#most").fill("3.1")
    assert sorted(names(page)) == [f"{n}.jpg" for n in range(150, 156)]
    page.locator("#clear").click()
    assert page.locator("#count").text_content() == f"{COUNT} photographs"
    assert not page.locator("#tier").is_visible()
    page.locator("#attribute").select_option("image_clarity")
    page.locator("#tier").select_option(label="slightly blurry")
    wanted = sum(photo.get("values", {}).get("image_clarity") == 1 for photo in album())
    assert page.locator("#count").text_content() == f"{wanted} of {COUNT} photographs"
    page.locator("#clear").click()
    page.locator("#state").select_option("problem")
    assert names(page) == ["broken.jpg", "cut.jpg"]
    page.locator("#text").fill("nothing like it")
    assert page.locator("#nothing").is_visible() and names(page) == []


def test_a_click_shows_why(page):
    page.locator("#text").fill("album/200.jpg")
    page.locator(".card").click()
    panel = page.locator("dialog[open]")
    assert panel.locator("h2").text_content() == "album/200.jpg"
    assert panel.locator(".big").text_content() == "4.00"
    assert panel.locator(".quiet").first.text_content() == "3.00 to 5.50 (calibrated, 90 %)"
    facts = dict(
        zip(*(panel.locator(tag).all_text_contents() for tag in ("dt", "dd")), strict=True)
    )
    assert facts == {
        "Digits as written": "4.00", "Mean of the digits": "3.75", "Standard deviation": "0.60",
        "Off the format": "<1 %", "Composite": "6.00",
    }  # fmt: skip
    columns = panel.locator("svg .column")
    assert columns.count() == 3
    heights = [float(columns.nth(n).get_attribute("height")) for n in range(3)]
    assert heights[0] == heights[2] == heights[1] / 2
    assert columns.nth(1).locator("title").text_content() == "4.1: 50 %"
    assert panel.locator(".attribute").count() == 10
    tiers = panel.locator(".attribute", has_text="Level Shot").locator("li").all_inner_texts()
    assert [" ".join(tier.split()) for tier in tiers] == ["tilted 25 %", "level 75 %"]
    assert "a lamp, behind it <b>a wall</b>" in panel.text_content()
    assert panel.locator("b").count() == 0
    assert "Left to itself" not in panel.text_content()


def test_attributes_that_the_model_would_not_write_itself_are_doubted(page):
    page.locator("#text").fill("album/201.jpg")
    page.locator(".card").click()
    doubt = page.locator("dialog[open] .trouble-text").text_content()
    assert "Left to itself it would write something else from “subject clutter” on" in doubt


def test_the_keyboard_is_enough(page):
    page.locator("#text").fill("album/20")
    expect(page.locator(".card")).to_have_count(11)
    page.locator("#state").focus()
    page.keyboard.press("Tab")  # Clear
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    title = page.locator("#panel-name")
    order = [f"album/{n}.jpg" for n in (*range(209, 199, -1), 20)]
    assert title.text_content() == order[0]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == order[1]
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert title.text_content() == order[-1] and page.locator("#next").is_disabled()
    page.keyboard.press("Escape")  # the browser closes a dialog when it comes to it
    expect(page.locator("dialog[open]")).to_have_count(0)
    # the focus moves with the close event, which comes in a task of its own
    expect(page.locator(f".card[title='{order[-1]}']")).to_be_focused()


@pytest.mark.parametrize("name", [EVIL, CLOSING])
def test_a_name_with_markup_in_it_is_shown_and_does_no_harm(page, name):
    page.locator("#text").fill(name)
    assert names(page) == [name.rsplit("/", 1)[1]]
    page.locator(".card").click()
    assert page.locator("#panel-name").text_content() == name
    assert page.locator("img[src='x']").count() == 0


def test_the_policy_stops_a_script_that_got_in(browser, path, tmp_path):
    text = path.read_text("utf-8").replace(
        "<noscript>", "<script>document.title = 'in'</script>", 1
    )
    (tmp_path / "page.html").write_text(text, "utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == "Scores & <more>"
    page.close()


def test_it_fits_a_phone(browser, path):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    page, wrong = opened(browser, path, **phone)
    assert not page.locator("#sort").is_visible()
    page.locator("summary").tap()
    page.locator("#sort").select_option("sd")
    page.locator(".card").first.tap()
    assert page.locator("dialog[open]").bounding_box()["width"] == 360
    width = "Math.max(document.documentElement.scrollWidth, $('panel').scrollWidth)"
    assert page.evaluate(width) == 360
    page.locator("#close").tap()
    assert [one for one in wrong if not one.startswith("data:image/jpeg")] == []
    page.close()


def test_a_page_without_attributes_problems_and_decimals(browser, tmp_path):
    photos = [scored("a.jpg", 4.0, greedy=4.0, bars=[3, [1000, 9000]], chances={}, values={})]
    path = contact_sheet.write(tmp_path / "page.html", photos, "Scores", 1)
    page, _ = opened(browser, path)
    hidden = ("#attribute", "#tier", "#state")
    assert not any(page.locator(one).is_visible() for one in hidden)
    page.locator(".card").click()
    assert page.locator("dd").first.text_content() == "4"
    assert page.locator("svg .column title").all_text_contents() == ["3: 10 %", "4: 90 %"]
    assert "Attributes" not in page.locator("dialog").text_content()
    page.close()
