"""The report in a headless Chromium: mouse, keyboard, filter, paging, narrow screens, and what it must not do."""

from __future__ import annotations

import json

import pytest
from chromium import missing_program, open_chromium, open_page
from report_data import AWKWARD, SmallSet
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_program() is not None, reason=str(missing_program())),
]
IMAGES = 60
PAGE = 48


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    small = SmallSet(tmp_path_factory.mktemp("report"), further_images=IMAGES - 3)
    (small.images / "more_001.png").unlink()
    small.report()
    return small.page


@pytest.fixture(scope="module")
def browser():
    with open_chromium() as driver:
        yield driver


@pytest.fixture
def opened(browser, page):
    """The page, just opened at 1280 px; afterwards its console must be free of errors."""
    resize(browser, 1280, 900)
    open_page(browser, page)
    yield browser
    assert browser.get_log("browser") == []


def resize(browser, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def all_of(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def one(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def press(browser, *keys):
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def found(browser):
    return one(browser, "#found").text


def open_first(browser):
    one(browser, "#cards button[data-mask='0']").send_keys(Keys.ENTER)
    assert one(browser, "#detail").is_displayed()


def masks_in_picture(browser, style):
    return [int(path.get_attribute("data-mask")) for path in all_of(browser, f"#detail-picture .edge.{style}")]


def test_a_click_on_a_mask_shows_its_candidates_kept_ones_first(opened):
    path = one(opened, "#cards .edge[data-mask='0']")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", path)
    ActionChains(opened).move_to_element(path).click().perform()
    # Masks 0 and 1 lie over each other; the smaller one, 1, is on top.
    assert one(opened, "#detail-title").text == "a.png, mask 1: 1 of 2 candidates kept"
    rows = all_of(opened, "#candidates tr")
    assert [row.get_attribute("class") for row in rows] == ["kept", "rejected"]
    assert rows[0].text.startswith("the left ball")
    assert rows[1].text.startswith(AWKWARD)
    assert [cell.text for cell in rows[0].find_elements(By.CSS_SELECTOR, ".number")] == ["1.30", "7.00", "6.50", "1.18"]
    assert "masked: beam" in rows[0].text


def test_the_rival_of_a_rejected_candidate_is_named_and_shown_in_the_picture(opened):
    open_first(opened)
    assert masks_in_picture(opened, "this") == [0]
    assert masks_in_picture(opened, "rival") == []
    rejected = one(opened, "#candidates tr.rejected")
    assert "beaten by mask 1" in rejected.text
    rejected.find_element(By.CSS_SELECTOR, "td").click()
    assert masks_in_picture(opened, "rival") == [1]
    assert one(opened, "#explanation").text == "“a ball”: DoC 0.50, rejected, not over 1.2. Mask 1 fits it better."
    rejected.find_element(By.TAG_NAME, "button").click()
    assert one(opened, "#detail-title").text.startswith("a.png, mask 1:")
    assert "Duplicate of mask 0" in one(opened, "#explanation").text


def test_repeated_sentences_are_one_row_with_their_origins(opened):
    open_first(opened)
    text = one(opened, "#candidates tr").text
    assert text.startswith("red ball ×2")
    assert "masked: beam; image_1.0: beam" in text


def test_the_keyboard_alone_is_enough(opened):
    one(opened, "#sort").send_keys("")
    press(opened, Keys.TAB, Keys.TAB)  # past "next": the first card
    assert opened.switch_to.active_element.get_attribute("data-mask") == "0"
    press(opened, Keys.ARROW_RIGHT)
    assert opened.switch_to.active_element.get_attribute("data-mask") == "1"
    press(opened, Keys.TAB)
    assert opened.switch_to.active_element.get_attribute("data-mask") == "3"  # the next image's first mask
    press(opened, Keys.ARROW_LEFT, Keys.ENTER)
    assert one(opened, "#detail").is_displayed()
    title = one(opened, "#detail-title").text
    press(opened, Keys.ARROW_DOWN)
    assert "chosen" in one(opened, "#candidates tr").get_attribute("class")
    press(opened, Keys.ARROW_RIGHT)
    assert one(opened, "#detail-title").text != title
    press(opened, Keys.ARROW_LEFT, Keys.ESCAPE)
    assert not one(opened, "#detail").is_displayed()
    label = opened.switch_to.active_element.get_attribute("aria-label")
    assert label.split(":")[0] == title.split(", ")[1].split(":")[0]


def test_focus_can_be_seen(opened):
    one(opened, "#text").send_keys("")
    press(opened, Keys.TAB)
    style = opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


def test_text_filter_counts_masks_and_dims_the_others(opened):
    assert found(opened) == f"{4 + 2 * (IMAGES - 3)} of {4 + 2 * (IMAGES - 3)} masks in {IMAGES} images"
    one(opened, "#text").send_keys("LEFT ball")
    assert found(opened).endswith("1 of 118 masks in 1 images")
    buttons = all_of(opened, "#cards .masks button")
    assert ["apart" in button.get_attribute("class") for button in buttons] == [True, False, True]
    one(opened, "#text").send_keys(" and no such words")
    assert found(opened).startswith("0 of")
    assert all_of(opened, "#cards > li") == []


@pytest.mark.parametrize(
    ("status", "text", "masks"),
    [("kept", "box", IMAGES - 3 - 3), ("rejected", "a box", IMAGES - 3), ("none", "", 1 + 3), ("twins", "", 2)],
)
def test_fate_filter(opened, status, text, masks):
    Select(one(opened, "#status")).select_by_value(status)
    one(opened, "#text").send_keys(text)
    assert found(opened).startswith(f"{masks} of ")


def test_sorting_by_doc(opened):
    Select(one(opened, "#sort")).select_by_value("high")
    assert one(opened, "#cards h3").text == "b.png"
    Select(one(opened, "#sort")).select_by_value("low")
    assert one(opened, "#cards h3").text == "a.png"
    Select(one(opened, "#sort")).select_by_value("many")
    assert one(opened, "#cards h3").text == "a.png"


def test_only_one_page_of_images_is_built_at_a_time(opened):
    assert len(all_of(opened, "#cards > li")) == PAGE
    assert one(opened, ".pager .page").text == "page 1 of 2"
    one(opened, ".pager .next").click()
    assert len(all_of(opened, "#cards > li")) == IMAGES - PAGE
    assert not one(opened, ".pager .next").is_enabled()
    one(opened, ".pager .previous").click()
    assert one(opened, "#cards h3").text == "a.png"


def test_an_image_that_is_missing_says_so(opened):
    one(opened, "#text").send_keys("box 1")
    card = next(card for card in all_of(opened, "#cards > li") if "more_001" in card.text)
    assert "is not in the folder of images" in card.text
    card.find_element(By.CSS_SELECTOR, ".masks button").click()
    assert "Its mask is missing" in one(opened, "#explanation").text


@pytest.mark.parametrize("width", [320, 390, 760, 1280])
def test_no_width_needs_horizontal_scrolling(opened, width):
    resize(opened, width, 844)
    overflow = "return arguments[0].scrollWidth - arguments[0].clientWidth"
    assert opened.execute_script(overflow, one(opened, "html")) == 0
    open_first(opened)
    assert opened.execute_script(overflow, one(opened, "#detail .body")) == 0
    assert opened.execute_script(overflow, one(opened, "#detail")) == 0


def test_captions_run_no_code_and_nothing_is_requested(browser, page):
    browser.get_log("performance")
    open_page(browser, page)
    open_first(browser)
    assert browser.title == "Pairs: pairs.csv"
    assert all_of(browser, "img[src='x']") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert page.resolve().as_uri() in asked
    assert [url for url in asked if not url.startswith(("data:", page.resolve().as_uri()))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened, scheme):
    """WCAG AA: 4.5 to 1 for text of every colour the page uses, on both of its grounds."""
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    names = ["text", "muted", "link", "kept", "rejected", "ground", "raised"]
    script = "const s = getComputedStyle(document.documentElement); return arguments[0].map(n => s.getPropertyValue('--' + n))"
    colours = dict(zip(names, opened.execute_script(script, names), strict=True))
    for ground in ("ground", "raised"):
        for name in names[:5]:
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(one_colour: str, other: str) -> float:
    """Contrast ratio of two #rgb or #rrggbb colours by WCAG 2."""
    darker, lighter = sorted(map(luminance, (one_colour, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour.strip().removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
