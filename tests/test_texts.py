"""Names of strangers: in no medium they do anything."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from mapolab.app import report
from mapolab.errors import UserError
from mapolab.texts import latex, markdown, rich_text, visible

NAMES = ["[v2]", "[/]", "[red]x", "[link=http://x]y[/link]", ":smile:", r"$\foo$", r"trailing\\", "a%b_c&d", "{x}"]


@pytest.mark.parametrize("name", NAMES)
def test_the_terminal_shows_names_as_they_are(name: str) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(rich_text(name))
    console.print(table)
    console.print(rich_text(name))
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [name, name]


def test_signs_that_act_are_shown(capsys) -> None:
    assert visible("a\x1b[2Jb\x9b1mc\u202ed\u2066e\0f\rg\u200bh\ud800") == (
        r"a\x1b[2Jb\x9b1mc\u202ed\u2066e\x00f\rg\u200bh\ud800"
    )
    family = "\U0001f468\u200d\U0001f469\ufe0f \u00e9\u4e2d\n\t"
    assert visible(family) == family
    report(UserError("The key \x1b]0;title\x07 is \u202egnp.exe"))
    assert capsys.readouterr().err == "mapolab: The key \\x1b]0;title\\x07 is \\u202egnp.exe\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b\nc", r"a\|b c"),
        ("<script>x</script>", r"\<script\>x\</script\>"),
        ("[x](javascript:y)", r"[x\](javascript:y)"),
        ("![x](http://h/p.png)", "\\![x\\](http&#8203;://h/p.png)"),
        ("see www.x.org", "see www&#8203;.x.org"),
        ("&lt; & co", r"\&lt; & co"),
        ("`x` *y* _z_ a_b ~~", r"\`x\` \*y\* \_z\_ a_b \~\~"),
        ("<1% [0.1, 0.2] >99% 3 < 4", "<1% [0.1, 0.2] >99% 3 < 4"),
        ("\x1b[31m", r"\\x1b[31m"),
    ],
)
def test_markdown(text: str, shown: str) -> None:
    assert markdown(text) == shown


def test_latex() -> None:
    assert latex(r"\input{x} 50% $a$ #1 a&b ~^") == (
        r"\textbackslash{}input\{x\} 50\% \$a\$ \#1 a\&b \textasciitilde{}\textasciicircum{}"
    )
    assert latex("a\nb\x1b") == r"a b\textbackslash{}x1b"
