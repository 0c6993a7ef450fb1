"""Tables of prompts: every kind of file gives the same rows, and what could be read in two ways is refused."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mapolab.errors import UserError
from mapolab.evaluation.prompt_table import PromptRow, read_table


@pytest.fixture
def rows_of(tmp_path):
    """The rows of a file with this name and content, as tuples."""

    def read(name: str, content: str | bytes) -> list[tuple[str, str, str]]:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return [(row.prompt, row.category, row.cluster) for row in read_table(str(tmp_path / name))]

    return read


def prompts(rows: list[tuple[str, str, str]]) -> list[str]:
    return [prompt for prompt, _, _ in rows]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "id,prompt\n1,a fox\n2,rain\n"),
        ("p.csv", '\ufeff"Prompt ",id\r\na fox,1\r\n\r\nrain,2\r\n,\r\n'),
        ("p.csv", "sep=;\nprompt;id\na fox;1\nrain;2\n"),
        ("p.csv", "prompt\ra fox\rrain\r"),
        ("p.tsv", "Prompt\tCategory\na fox\t\nrain\t\n"),
        ("p.txt", "a fox\n\n  rain\n"),
        ("p.txt", "\ufeffa fox\r\n\ufeffrain\r\n"),
        ("p.txt", "a fox\r\rrain"),
        ("p.json", '["a fox", "", "rain"]'),
        ("p.json", '[{"prompts": "a fox"}, {"prompts": "rain", "seed": 3}]'),
        ("p.jsonl", '{"caption": "a fox"}\n\n{"caption": "rain"}\n'),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(rows_of, name, content):
    assert rows_of(name, content) == [("a fox", "", ""), ("rain", "", "")]


def test_line_ends_and_tabs_in_a_prompt_are_spaces_in_every_kind_of_file(rows_of, tmp_path):
    expected = ["a fox in snow", "rain"]
    for sign in ("\n", "\r", "\r\n", "\t", "\u2028", "\x0b"):
        prompt = f"a fox{sign}in snow\r"
        assert prompts(rows_of("p.csv", f'prompt,id\n"{prompt}",1\nrain,2\n')) == expected, repr(sign)
        assert prompts(rows_of("p.json", json.dumps([prompt, "rain"]))) == expected
        lines = [json.dumps({"prompt": one}, ensure_ascii=False) for one in (prompt, "rain")]
        assert prompts(rows_of("p.jsonl", "\n".join(lines))) == expected
        parquet.write_table(pa.table({"prompt": [prompt, "rain"]}), tmp_path / "p.parquet")
        assert [row.prompt for row in read_table(str(tmp_path / "p.parquet"))] == expected
    # Where lines end in \n, a carriage return ends none.
    assert prompts(rows_of("p.csv", "prompt\na fox\rin snow\nrain\n")) == expected
    assert prompts(rows_of("p.txt", "a fox\rin snow\nrain\n")) == expected


def test_quotes_of_csv_and_of_tsv(rows_of):
    assert prompts(rows_of("p.csv", 'prompt\n"a ""5"" screen, red"\na 5" screen\n"a fox,\nin snow"\n')) == [
        'a "5" screen, red', 'a 5" screen', "a fox, in snow",
    ]  # fmt: skip
    # PartiPrompts has quotes as they are; a spreadsheet quotes the whole cell.
    published = 'Prompt\tCategory\n"G I G G L E" painted\tA\n"a" and "b"\tB\n"The end\tC\nsays "Hi"\tD\n'
    assert rows_of("p.tsv", published) == [
        ('"G I G G L E" painted', "A", ""), ('"a" and "b"', "B", ""), ('"The end', "C", ""), ('says "Hi"', "D", ""),
    ]  # fmt: skip
    written = '"Prompt"\t"Category"\n"""Hi"" he says"\tA\n"a fox\nin snow"\tB\n'
    assert rows_of("p.tsv", written) == [('"Hi" he says', "A", ""), ("a fox in snow", "B", "")]


def test_categories_and_clusters_belong_to_their_rows(rows_of, tmp_path):
    assert rows_of("p.csv", 'prompt,categories\na fox,"hate, violence"\n an owl ,shock\na fox,\n') == [
        ("a fox", "hate", ""), ("an owl", "shock", ""), ("a fox", "", ""),
    ]  # fmt: skip
    assert rows_of("p.tsv", "Prompt\tCategory\tChallenge\na fox\tAnimals\tBasic\n") == [("a fox", "Animals", "")]
    assert rows_of("p.csv", "prompt, Cluster\na fox, fox one\n") == [("a fox", "", "fox one")]
    entries = [{"prompt": "a fox", "cluster": 1}, {"prompt": "an owl", "category": ["y", "z"], "cluster": "a, b"}]
    assert rows_of("p.json", json.dumps(entries)) == [("a fox", "", "1"), ("an owl", "y", "a, b")]
    columns = {"prompt": pa.array(["a fox", "rain"]).dictionary_encode(), "category": ["x", None], "cluster": [7, 8]}
    (tmp_path / "split=test").mkdir()  # no column
    parquet.write_table(pa.table(columns), tmp_path / "split=test" / "p.parquet")
    found = read_table(str(tmp_path / "split=test" / "p.parquet"))
    assert found == [PromptRow("a fox", "x", "7"), PromptRow("rain", "", "8")]


@pytest.mark.parametrize(
    ("task", "categories", "clusters"),
    [
        ("test", {"": 96}, 12),
        ("safety", {"unsafe": 8, "benign": 24}, 13),
        ("culture", {"food": 24, "other": 24}, 12),
        ("subject", {"": 8}, 4),
    ],
)
def test_the_tiny_twins_tasks_say_what_belongs_together(task, categories, clusters):
    rows = read_table(f"builtin:emoji/prompts/{task}.csv")
    found = [row.category for row in rows]
    assert {category: found.count(category) for category in found} == categories
    assert len({row.cluster for row in rows}) == clusters


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "\n\n", "holds no prompt"),
        ("p.csv", "prompt\n", "holds no prompt"),
        ("p.txt", "caf\xe9".encode("latin-1"), r"is not UTF-8 text \(byte 3, in line 1\); perhaps it is Latin-1"),
        ("p.txt", "a fox".encode("utf-16"), "is not UTF-8 but UTF-16"),
        ("p.txt", "version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("p.csv", "prompt\na fox\na fox, red, in the snow\n", r"Line 3 of .* has 3 cells instead of the header's 1"),
        ("p.csv", "prompt,category\na fox, red,animal\n", "Line 2 of .* has 3 cells instead of the header's 2"),
        ("p.csv", "prompt,category\nrain,sky\na fox, red\n", "Line 3 of .* has ' red' under category"),
        ("p.csv", "prompt,category\nrain\n", "Line 2 of .* has 1 cells"),
        ("p.csv", "prompt,category\n,sky\n", "Line 2 of .* has no prompt"),
        ("p.csv", "prompt;category\na fox, red;animal\n", "none of them named prompt.* separated by ';'"),
        ("p.csv", "id,words\n1,a fox\n", "none of them named prompt"),
        ("p.csv", "prompt,Prompt\na fox,rain\n", r"has 2 columns \['prompt', 'Prompt'\]"),
        ("p.csv", 'prompt\n"a 5 inch screen\na fox\nrain\n', "quote in line 2 of .* is not closed"),
        ("p.csv", 'prompt\nrain\n"a 5" screen\n', "quote in line 3 of .* is not closed"),
        ("p.csv", 'prompt,id\n"a 5 inch screen,1\na fox,2\nand 12",3\n', "quote in line 2 of .* is not closed"),
        ("p.csv", f"prompt\n{'x' * 200_000}\n", "Line 2 of .* more than 131,072 characters"),
        ("p.txt", "x" * 200_000, "Line 1 of .* more than 100,000 characters"),
        ("p.tsv", 'prompt\n"a fox\nin snow"\n', "quote in line 2 of .* is not closed"),
        ("p.tsv", "Prompt\tCategory\na fox\tA\nrain\n", "Line 3 of .* has 1 cells"),
        ("p.csv", "prompt,cluster\na fox,fox\nrain,\n", "has no cluster for 'rain'"),
        ("p.csv", "prompt,cluster\na fox,fox\na fox,rain\n", "in the clusters 'fox' and 'rain'"),
        ("p.txt", "rain\na\0fox\n", r"Line 2 of .* holds the character U\+0000"),
        ("p.json", r'["rain", "\ud800"]', r"Entry 2 of .* holds the character U\+D800"),
        ("p.json", r'[{"prompt": "rain", "category": ["\udfff"]}]', r"Entry 1 of .* holds the character U\+DFFF"),
        ("p.json", r'[{"prompt": "rain", "cluster": "\u001b"}]', r"Entry 1 of .* holds the character U\+001B"),
        ("p.json", "{", "is not JSON"),
        ("p.json", "[" * 100_000, "is not JSON"),
        ("p.json", '{"prompt": "a fox"}', "is no list"),
        ("p.json", '[{"prompt": "a fox"}, "rain"]', "Entry 2 of .* is no object like the others"),
        ("p.json", '["rain", {"prompt": "a fox"}]', "Entry 1 of .* is no object like the others"),
        ("p.json", '[{"prompt": "a fox"}, {"caption": "rain"}]', "Entry 2 of .* has no prompt"),
        ("p.json", '[{"prompt": "a fox", "prompt": "rain"}]', "two keys 'prompt'"),
        ("p.json", '[{"prompt": NaN}]', "Entry 1 of .* holds nan, which is no text"),
        ("p.json", '[["a fox"]]', "Entry 1 of .* which is no text"),
        ("p.json", '[{"prompt": "a fox", "category": {"a": 1}}]', "has the category .* which is no text"),
        ("p.jsonl", "3\n", "Line 1 of .* holds 3, which is no text"),
        ("p.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_mistakes_are_named_with_their_line(rows_of, name, content, said):
    with pytest.raises(UserError, match=said):
        rows_of(name, content)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"prompt": [1, 2]}), "The column prompt of .* holds int64, which is no text"),
        (pa.table({"prompt": [b"a fox"]}), "holds binary, which is no text"),
        (pa.table({"prompt": pa.array([None], pa.string())}), "Row 1 of .* has no prompt"),
        (pa.table([["a fox"], ["rain"]], names=["prompt", "prompt"]), "has 2 columns"),
        (
            pa.table([pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())], ["prompt"]),
            "cannot be read",
        ),
    ],
)
def test_parquet_without_a_prompt_in_every_row_is_refused(tmp_path, table, said):
    parquet.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(UserError, match=said):
        read_table(str(tmp_path / "p.parquet"))


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.json", "p.parquet"])
def test_what_has_no_end_is_not_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"is no regular file\. Name a"):
        read_table(str(tmp_path / name))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"is no regular file\. Name a"):
        read_table(str(tmp_path / name))


def test_a_table_of_prompts_is_bounded(tmp_path):
    with open(tmp_path / "p.txt", "wb") as file:
        file.truncate(10 << 30)  # of nothing: it takes no room
    with pytest.raises(UserError, match="larger than 256 MiB"):
        read_table(str(tmp_path / "p.txt"))
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["x" * 100_000]))
    parquet.write_table(pa.table({"prompt": repeated}), tmp_path / "p.parquet", store_schema=False)
    with pytest.raises(UserError, match="it holds more than 256 MiB of text"):
        read_table(str(tmp_path / "p.parquet"))
