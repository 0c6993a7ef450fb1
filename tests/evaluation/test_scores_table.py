"""scores.csv: what is written is read again, files of earlier versions too, and a broken one is named by its line."""

import json
import random

import pytest

from mapolab.errors import UserError
from mapolab.evaluation.scores_table import Picture, read_scores, write_scores

OLD = "index,prompt,seed,image,style\n0,a fox,5,images/00000.png,0.25\n1,rain,5,images/00001.png,1e-05\n"


def picture(index: int, prompt: str, category: str = "", cluster: str = "") -> Picture:
    image = f"images/{index:05d}.png"
    return Picture(index=index, prompt=prompt, seed=5, image=image, category=category, cluster=cluster)


def test_every_text_is_read_as_it_was_written(tmp_path):
    """From all of Unicode but surrogates, and often from what means something in a CSV file."""
    rng, special = random.Random(0), ",\"\r\n\t;'\\ \0\x1f\x85\u2028\ufeff"

    def text() -> str:
        signs = (rng.choice(special) if rng.random() < 0.5 else chr(rng.randrange(0xD800)) for _ in range(9))
        return "".join(signs) + chr(rng.randrange(0xE000, 0x110000))

    for _ in range(100):
        pictures = [picture(index, text(), text(), text()) for index in range(4)]
        scores = {text(): [rng.uniform(-9, 9) for _ in pictures] for _ in range(2)}
        write_scores(tmp_path, pictures, scores)
        table = read_scores(tmp_path)
        assert list(table.pictures) == pictures and list(table.scorers) == list(scores)
        for scorer, values in scores.items():
            assert table.values(scorer).tolist() == [float(f"{value:.9g}") for value in values]


def test_categories_and_clusters_have_a_column_where_there_are_some(tmp_path):
    for given, header in (
        ({}, "index,prompt,seed,image,style"),
        ({"category": "x"}, "index,prompt,seed,image,category,style"),
        ({"cluster": "y"}, "index,prompt,seed,image,cluster,style"),
        ({"category": "x", "cluster": "y"}, "index,prompt,seed,image,category,cluster,style"),
    ):
        pictures = [picture(0, "rain"), picture(1, "a fox", **given)]
        write_scores(tmp_path, pictures, {"style": [0.5, 1.0]})
        assert (tmp_path / "scores.csv").read_text().splitlines()[0] == header
        table = read_scores(tmp_path)
        assert list(table.pictures) == pictures and table.scorers == ("style",) and table.means() == {"style": 0.75}


def test_tables_of_earlier_versions_and_without_scorers_are_read(tmp_path):
    (tmp_path / "scores.csv").write_text(OLD)
    table = read_scores(tmp_path)
    assert list(table.pictures) == [picture(0, "a fox"), picture(1, "rain")]
    assert table.values("style").tolist() == [0.25, 1e-05]
    with pytest.raises(UserError, match=r"scores\.csv has no scores of beauty"):
        table.values("beauty")
    write_scores(tmp_path, table.pictures, {})
    assert read_scores(tmp_path).scorers == () and read_scores(tmp_path).pictures == table.pictures


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "scores.csv is missing"),
        ("", "has no row"),
        (OLD.splitlines()[0] + "\n", "has no row"),
        (OLD[:-1], "ends in the middle of a line"),
        (OLD[:-3], "ends in the middle of a line"),
        (OLD[:-7] + "\n", "has 4 cells in line 3 under 5 columns"),
        (OLD.replace("rain", '"rain'), "cannot be read"),
        (OLD.replace("rain", "r\xe9").encode("latin-1"), "cannot be read"),
        (OLD.replace("0.25", "nan"), "has 'nan' in line 2, column style, which is no finite number"),
        (OLD.replace("1e-05", "inf"), "has 'inf' in line 3, column style"),
        (OLD.replace("0.25", ""), "has '' in line 2, column style"),
        (OLD.replace("a fox", '"a\nfox"').replace("1e-05", "x"), "has 'x' in line 4, column style"),
        (OLD.replace("0,a", "zero,a"), "has 'zero' in line 2, column index, which is no whole number"),
        (OLD.replace("seed", "noise"), "has no column seed"),
        (OLD.replace("style", "image"), "has two columns called image"),
    ],
)
def test_a_broken_table_is_named_by_its_line(tmp_path, content, said):
    if content is not None:
        (tmp_path / "scores.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"{said}.* Give the `mapolab evaluate` command of"):
        table = read_scores(tmp_path)
        assert table.pictures and table.means()


def test_the_settings_know_how_many_rows_and_which_scorers_there_are(tmp_path):
    (tmp_path / "scores.csv").write_text(OLD)
    settings = {"prompt_count": 2, "images_per_prompt": 2, "scorers": [{"name": "style"}]}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="has 2 rows of 4"):
        read_scores(tmp_path)
    # An earlier version let a scorer be called like a column.
    (tmp_path / "scores.csv").write_text(OLD.replace("style", "cluster"))
    settings |= {"images_per_prompt": 1, "scorers": [{"name": "cluster"}]}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="has a scorer called cluster, which is a column of the table itself"):
        read_scores(tmp_path)
