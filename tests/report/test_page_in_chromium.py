"""The comparison page in a real headless Chromium, opened from its file: what a reader clicks and types works."""

import base64
import io
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mapolab.config.compose import compose
from mapolab.pairs.held_out import HeldOut
from mapolab.pairs.recipes.votes import votes
from mapolab.report.compare import compare

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NAMES = ["Base model", "Diffusion-DPO", "MaPO", "SFT"]
# The columns of yuvalkirstain/pickapic_v2, and who drew the two pictures.
PICKAPIC = {
    "are_different", "best_image_uid", "caption", "created_at", "has_label", "image_0_uid", "image_0_url",
    "image_1_uid", "image_1_url", "jpg_0", "jpg_1", "label_0", "label_1", "model_0", "model_1", "ranking_id", "user_id",
    "num_example_per_prompt", "__index_level_0__",
}  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    if CHROMIUM is None:
        reason = "CHROMIUM IS NOT INSTALLED, so the report page was not tried in a browser"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def written(three_methods) -> Path:
    return compare(compose("compare", ["runs=outputs/emoji_style/*"])).resolve()


@pytest.fixture
def page(chromium, written: Path) -> Iterator:
    """The page; the test fails if the browser asked for anything but the file, or reported an error."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(written.as_uri())
    yield page
    page.close()
    assert not errors
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {written.as_uri()}


def prompts(page) -> list[str]:
    """Of the rows to be seen, from the top."""
    return page.locator(".row[data-index]:visible").evaluate_all("rows => rows.map(row => row.dataset.prompt)")


def test_filter(page) -> None:
    everything = prompts(page)
    page.get_by_label("Prompts with").fill("RED shape")
    assert prompts(page) == [prompt for prompt in everything if "red" in prompt]
    assert page.locator("#wall-status").inner_text() == "3 of 12 prompts fit."
    page.get_by_label("Prompts with").fill("no such words")
    assert prompts(page) == []
    page.get_by_label("Prompts with").fill("")
    assert prompts(page) == everything


def test_sort_by_disagreement(page) -> None:
    drawn = prompts(page)
    page.get_by_label("Order").select_option("style")
    shown = page.locator(".row[data-index]:visible")
    spreads = shown.evaluate_all("rows => rows.map(row => JSON.parse(row.dataset.spread).style)")
    assert prompts(page) != drawn and sorted(prompts(page)) == sorted(drawn)
    assert spreads == sorted(spreads, reverse=True) and spreads[0] > spreads[-1]


def test_enlarge_and_flip_with_the_keyboard_alone(page) -> None:
    first = page.locator("#wall button[data-run]").first
    first.focus()
    page.keyboard.press("Enter")
    seen = []
    for _ in NAMES:
        seen.append((page.locator("#viewer-name").inner_text(), page.locator("#viewer-picture").get_attribute("src")))
        page.keyboard.press("ArrowRight")
    assert [name for name, _ in seen] == NAMES
    assert len({source for _, source in seen}) == len(NAMES)
    assert page.locator("#viewer-name").inner_text() == NAMES[0]  # round again
    before = page.locator("#viewer-prompt").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#viewer-prompt").inner_text() != before
    assert page.locator("#viewer-name").inner_text() == NAMES[-1]
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement.dataset.run") == str(len(NAMES) - 1)  # the picture last looked at


def test_blind_votes_hide_the_names_until_the_end_and_become_pairs(page) -> None:
    page.get_by_role("button", name="Vote without names").click()
    dialog = page.locator("#blind")
    for key in ("1", "2", "0", "ArrowLeft"):
        shown = dialog.evaluate("dialog => dialog.outerHTML.replace(/data:[^\"]*/g, '')") + dialog.inner_text()
        assert not any(name in shown for name in NAMES)
        page.keyboard.press(key)
    assert page.locator("#blind-count").inner_text() == "4 votes"
    with page.expect_download() as download:
        page.get_by_role("button", name="Save votes").click()
    file = Path(download.value.path())
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["label_0"] for row in rows] == [1, 0, 0.5, 1]
    for row in rows:
        assert set(row) == PICKAPIC
        assert row["label_0"] + row["label_1"] == 1 and row["model_0"] != row["model_1"]
        best = {1: row["image_0_uid"], 0: row["image_1_uid"], 0.5: "tie"}[row["label_0"]]
        assert row["best_image_uid"] == best
        assert Image.open(io.BytesIO(base64.b64decode(row["jpg_0"]))).size == (64, 64)
    assert len({(row["caption"], *sorted((row["model_0"], row["model_1"]))) for row in rows}) == 4
    # `make-pairs recipe=votes` takes the file as it is, with the pictures in it.
    given = {"votes": str(file), "models": None, "output_root": str(file.parent / "none")}
    material = votes(given, HeldOut(frozenset(), frozenset(), drop=False))
    for contest, row in zip(material.contests, rows, strict=True):
        preferred = 1 if row["label_0"] == 0 else 0
        assert (contest.caption, contest.side) == (row["caption"], preferred)
        assert material.read(contest.pictures[0]) == base64.b64decode(row[f"jpg_{preferred}"])
        assert contest.preference == max(row["label_0"], row["label_1"])
    page.get_by_role("button", name="Close and show the names").click()
    page.locator("#blind-result li").first.wait_for()
    told = page.locator("#blind-result li").all_inner_texts()
    assert told and all(" of " in line and line.split(":")[0] in NAMES for line in told)


def vote(page, *keys: str) -> None:
    page.get_by_role("button", name="Vote without names").click()
    for key in keys:
        page.keyboard.press(key)


def test_votes_outlive_a_reload_while_the_pictures_are_the_same(page) -> None:
    vote(page, "1", "2", "0")
    page.reload()
    vote(page, "1")
    assert page.locator("#blind-count").inner_text() == "4 votes"
    with page.expect_download() as download:
        page.get_by_role("button", name="Save votes").click()
    rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [row["label_0"] for row in rows] == [1, 0, 0.5, 1]
    assert len({(row["caption"], *sorted((row["model_0"], row["model_1"]))) for row in rows}) == 4  # none asked twice
    kept = "JSON.parse(sessionStorage.getItem(sessionStorage.key(0)))"
    page.evaluate(
        f"sessionStorage.setItem(sessionStorage.key(0), JSON.stringify({kept}.map(v => ({{...v, uids: [0, 1]}}))))"
    )
    page.reload()
    vote(page, "1")
    assert page.locator("#blind-count").inner_text() == "1 vote"


def test_votes_work_where_the_browser_keeps_nothing(chromium, written: Path) -> None:
    page = chromium.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script("Object.defineProperty(window, 'sessionStorage', {get() { throw new Error('denied'); }})")
    page.goto(written.as_uri())
    vote(page, "1", "2")
    assert page.locator("#blind-count").inner_text() == "2 votes" and not errors
    page.close()


def test_what_scrolls_can_be_reached_and_is_named(page) -> None:
    regions = page.locator(".scroll")
    assert regions.count() >= 6
    labels = regions.evaluate_all(
        "all => all.map(e => [e.tabIndex, e.getAttribute('role'), e.getAttribute('aria-label')])"
    )
    assert all(index == 0 and role == "region" and label for index, role, label in labels)
    assert len({label for _, _, label in labels}) == len(labels)
    page.set_viewport_size({"width": 390, "height": 900})
    wide = page.get_by_role("region", name="Differences from the base")
    wide.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("e => e.scrollLeft > 0", arg=wide.element_handle())


@pytest.fixture
def thirteen(workshop) -> Path:
    workshop.base()
    for number in range(13):
        workshop.run(["sft", "mapo", "diffusion_dpo"][number % 3], 0, learning_rate=(number + 1) * 1e-5, noise=number)
    return compare(compose("compare", ["runs=outputs/emoji_style/*"])).resolve()


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_thirteen_methods_stay_readable(chromium, thirteen: Path, width: int) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.goto(thirteen.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widths = page.locator(".row:visible img").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert min(widths) >= 64
    small = page.evaluate(
        "[...document.querySelectorAll('main td, main th, main small, .head')].filter(e => e.offsetParent && "
        "parseFloat(getComputedStyle(e).fontSize) < 10.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert small == []
    if width == 1440:  # the whole matrix at once
        beyond = "[...document.querySelectorAll('.wins')].map(e => e.parentNode.scrollWidth - e.parentNode.clientWidth)"
        assert max(page.evaluate(beyond)) <= 0
    page.close()


@pytest.mark.parametrize("width", [390, 820, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_text_stands_out(chromium, written: Path, width: int, scheme: str) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(written.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    text, paper = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in colours)
    assert (text - paper > 150) == (scheme == "dark") and abs(text - paper) > 150
    page.close()


def test_a_screen_reader_finds_a_name_for_everything(page) -> None:
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, img, svg')].filter(e => !(e.getAttribute('aria-label') "
        "|| e.alt || e.textContent.trim() || e.labels?.length || e.getAttribute('aria-labelledby') "
        "|| e.getAttribute('aria-hidden') || e.closest('[aria-hidden]'))).map(e => e.outerHTML.slice(0, 90))"
    )
    assert [item for item in unnamed if "viewer-picture" not in item] == []
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('main h1, main h2')].map(e => e.tagName)")
    assert levels[0] == "H1" and levels.count("H1") == 1


def test_the_policy_stops_what_would_run_or_be_fetched(chromium, written: Path) -> None:
    """A script, a handler, a style sheet and a picture from elsewhere, put into the page by force."""
    page = chromium.new_page()
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: asked.append(request.url) if request.failure != "csp" else None)
    page.goto(written.as_uri())
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = 'script'";
          document.body.append(script);
          const box = document.createElement("div");
          box.innerHTML = `<img src="http://127.0.0.1:9/x.png" onerror="window.ran = 'handler'">
            <style>h1 { display: none }</style><a id="lure" href="javascript:window.ran = 'link'">x</a>`;
          document.body.append(box);
          document.getElementById("lure").click();
          fetch("http://127.0.0.1:9/sent").catch(() => {});
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert page.locator("h1").is_visible()
    page.close()
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {written.as_uri()}
