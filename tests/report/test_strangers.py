"""Runs of strangers on the page and in the tables: names are only names, and no file but the pictures is shown."""

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.report.compare import compare

NAMES = [
    "[v2] [/]", r"$\foo$", "<script>alert(1)</script>", "</script><img src=http://h/x onerror=alert(1)>",
    "a&b%c_d{e}~^#",
    "\x1b]0;owned\x07", "\u202egnp.exe", "=cmd|' /C calc'!A0", "@x", "-2+3", r"\input{/etc/passwd}", "x|y`z",
    "\u2028<!--", "[x](javascript:alert(1))",
]  # fmt: skip
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def change(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def stranger(workshop):
    """Models, prompts and a scorer with such names."""
    workshop.prompts = [name.replace("\u2028", " ") + f" {number}" for number, name in enumerate(NAMES)]
    workshop.settings["scorers"][0]["description"] = NAMES[2]
    workshop.settings |= {"prompt_count": len(NAMES), "cut_prompts": {NAMES[0]: 1, NAMES[5]: 1}}
    workshop.base()
    for number, name in enumerate(NAMES):
        folder = workshop.root / f"other-{number}"
        workshop.evaluate(folder, "mapo", number)
        manifest = {"status": "finished", "objective": {"name": "other"}, "label": name, "seed": None}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    change(workshop.run("sft") / "manifest.json", notes=[NAMES[2], NAMES[5]], versions={NAMES[0]: NAMES[3]})
    return workshop


def test_names_do_nothing_in_any_medium(stranger, capfd, reliability) -> None:
    given = ["runs=outputs/emoji_style/*", "output_dir=cmp", "base=outputs/emoji_style/base-12345678"]
    page = compare(compose("compare", given))
    shown, html = capfd.readouterr().out, page.read_text()
    text = re.sub(r"data:image/png;base64,[^\"]*", "", html)
    assert "[v2] [/]" in shown and r"$\foo$" in shown and r"\x1b]0;owned\x07" in shown
    assert not HIDDEN.search(shown)
    assert text.count("<script") == 2 and "<img src=http" not in text and "onerror=alert(1)>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and r"\x1b]0;owned\x07" in text and r"$\foo$" in text
    assert not HIDDEN.search(re.sub(r'data-prompt="[^"]*"', "", text))  # votes take the prompt as it is
    markdown, latex = (Path("cmp", name).read_text() for name in ("summary.md", "summary.tex"))
    assert r"\<script\>" in markdown and r"x\|y\`z" in markdown and "](javascript" not in markdown.replace(r"\](", "")
    assert r"\input" not in latex and r"\$\textbackslash{}foo\$" in latex and not HIDDEN.search(markdown + latex)
    for table in Path("cmp").glob("*.csv"):
        cells = re.findall(
            r'(?:^|,)"?([=@][^,]*|[-+](?![\d.]+(?:e[-+]?\d+)?(?:,|$))[^,]*)', table.read_text(), re.MULTILINE
        )
        assert not cells, (table, cells)
    reliability(
        "A stranger's names with markup of rich, HTML, LaTeX, Markdown, CSV and the terminal",
        "they are shown as they are, and do nothing",
        f"{len(NAMES)} names in five media, none of them acted",
    )


def test_a_policy_lets_nothing_in_but_the_pages_own_script_and_style(three_methods) -> None:
    page = compare(compose("compare", ["runs=outputs/emoji_style/*"])).read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)[1]
    assert page.index("Content-Security-Policy") < page.index("<title>")
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-") and "http" not in policy
    assert "<style>" in page and page.count("<style") == 1 and not re.search(r'\son\w+="', page)


@pytest.mark.parametrize("how", ["climbs", "absolute", "link", "linked folder", "url"])
def test_no_local_picture_gets_into_the_page(three_methods, tmp_path: Path, how: str, reliability) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "private.png")
    table = next(three_methods.root.glob("mapo-*/evaluation/*/scores.csv"))
    images = table.with_name("images")
    named = {
        "climbs": os.path.relpath(tmp_path / "private.png", table.parent),
        "absolute": str(tmp_path / "private.png"),
    }
    named["url"] = (tmp_path / "private.png").as_uri()
    if how in named:
        table.write_text(table.read_text().replace("images/00000.png", named[how]))
    elif how == "link":
        (images / "00000.png").unlink()
        (images / "00000.png").symlink_to(tmp_path / "private.png")
    else:
        images.rename(tmp_path / "moved")
        images.symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match=r"which is not in .*/images\.|leads out of .*/images\.") as error:
        compare(compose("compare", ["runs=outputs/emoji_style/*"]))
    assert "\n" not in str(error.value)
    reliability(
        f"scores.csv or images/ names a local picture: {how}", "it is not embedded into the page", "refused by name"
    )
