"""Parts and the files assembled from them."""

import ast
import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.assembly import PAPER_COLUMNS, read_pairs, write_pairs
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions
from pseudo_ris.storage.caption_parts import Part, PartStore

NAME = "pairs"


def caption(text: str, doc: float, rival: int | None = 2) -> CaptionRecord:
    return CaptionRecord(text, "masked", "beam", "ball", 20.1234567, 21.0, 1.5, 20.1234567, doc, rival)


def image(number: int) -> ImageRecord:
    return ImageRecord(str(number), f"{number}.jpg", Path(f"{number}.jpg").read_bytes)


@pytest.fixture
def store(tmp_path) -> PartStore:
    store = PartStore(tmp_path, NAME)
    store.prepare()
    return store


def test_rows_follow_image_order_with_the_papers_columns_first(store, tmp_path):
    store.write(image(2), "k", [MaskCaptions(3, False, (caption('a "red" ball', 1.25), caption("it's, a ball", 0.5)))])
    store.write(image(1), "k", [MaskCaptions(0, True, (caption("ein Bällchen 🎈", 21.0, None),))])
    store.write(image(3), "k", [])
    totals = write_pairs(store.read_all([image(1), image(2), image(3), image(4)]), tmp_path, NAME, ScoringConfig(threshold=1.0))
    with (tmp_path / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:8] == ["index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask"]
    identity = [tuple(row[column] for column in ("index", "img_id", "seg_id", "one_mask")) for row in rows]
    assert identity == [("0", "1", "0", "1"), ("1", "2", "3", "0")]
    for read in (ast.literal_eval, json.loads):
        assert read(rows[1]["pseudo_caption"]) == ['a "red" ball', "it's, a ball"]
        assert read(rows[1]["doc"]) == [1.25, 0.5]
        assert read(rows[0]["rival"]) == [-1]
        assert read(rows[0]["masked_score"]) == [20.123457]
    lines = [json.loads(line) for line in (tmp_path / "pairs.json").read_text().splitlines()]
    assert lines == read_pairs(tmp_path / "pairs.csv")
    assert (totals.images, totals.images_without_masks, totals.masks, totals.candidates, totals.kept) == (3, 1, 2, 3, 2)
    assert "one-mask cases: 1" in (tmp_path / "pairs_doc.txt").read_text()
    assert "candidates with DoC > 1: 2" in (tmp_path / "pairs_doc.txt").read_text()
    assert 'a "red" ball' in (tmp_path / "pairs_text.txt").read_text()


def test_parts_are_current_only_for_their_key(store):
    assert not store.is_current(image(1), "k")
    store.write(image(1), "k", [])
    assert store.is_current(image(1), "k")
    assert not store.is_current(image(1), "other")
    (store.folder / "1.json").write_text('{"key": "k", ')
    assert not store.is_current(image(1), "k")


def test_no_temporary_file_stays(store, tmp_path):
    write_pairs([], tmp_path, NAME, ScoringConfig(threshold=1.0))
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"pairs.csv", "pairs.json", "pairs.parts", "pairs_doc.txt", "pairs_text.txt"}


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
@settings(deadline=None)
def test_any_text_survives(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    store = PartStore(folder, NAME)
    store.prepare()
    store.write(image(1), "k", [MaskCaptions(0, False, tuple(caption(text, 1.5) for text in texts))])
    write_pairs(store.read_all([image(1)]), folder, NAME, ScoringConfig(threshold=1.0))
    assert read_pairs(folder / "pairs.csv")[0]["pseudo_caption"] == texts


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1.25]", "[__import__('os').getcwd()]", "row 2, column doc: not a list literal"),
        (",3,1,", ",three,1,", "row 2, column seg_id"),
        ("seg_id", "segment", "no column seg_id"),
    ],
)
def test_bad_cells_name_file_row_and_column_and_are_never_evaluated(store, tmp_path, old, new, message):
    store.write(image(1), "k", [MaskCaptions(3, False, (caption("a ball", 1.25),))])
    write_pairs(store.read_all([image(1)]), tmp_path, NAME, ScoringConfig(threshold=1.0))
    path = tmp_path / "pairs.csv"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_pairs(path)


def test_lists_may_be_python_literals_as_the_release_writes_them(tmp_path):
    sentences, docs = ["a ball", 'the dog\'s "red" ball', "a\nb"], [1.5, 2, 0.5]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([PAPER_COLUMNS, [0, "1.jpg", "1", 0, 3, str(sentences), str(docs), 0]])
    (row,) = read_pairs(tmp_path / "pairs.csv")
    assert (row["pseudo_caption"], row["doc"]) == (sentences, docs)


@given(name=st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.text(',"\r\n; ', max_size=6))
@settings(deadline=None, max_examples=40)
def test_any_image_name_survives(name, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    mask = MaskCaptions(0, False, (caption("a ball", 1.5),))
    write_pairs([Part("1", name, (mask,))], folder, NAME, ScoringConfig(threshold=1.0))
    assert [row["img_name"] for row in read_pairs(folder / "pairs.csv")] == [name]


def test_a_byte_order_mark_is_no_part_of_the_first_column(store, tmp_path):
    store.write(image(1), "k", [MaskCaptions(0, True, (caption("a ball", 2.0),))])
    write_pairs(store.read_all([image(1)]), tmp_path, NAME, ScoringConfig())
    rows = read_pairs(tmp_path / "pairs.csv")
    (tmp_path / "saved.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "pairs.csv").read_bytes())
    assert read_pairs(tmp_path / "saved.csv") == rows


@pytest.mark.parametrize("name", ["=1+2.jpg", "@a.jpg", "+a.jpg", "-a.jpg", "a=1.jpg"])
def test_a_name_that_a_spreadsheet_evaluates_stays_what_it_is_and_is_warned_of_once(tmp_path, capsys, name):
    parts = [Part(name.removesuffix(".jpg"), name, (MaskCaptions(each, False, (caption("a ball", 2.0),)),)) for each in (0, 1)]
    write_pairs(parts, tmp_path, NAME, ScoringConfig())
    assert [row["img_name"] for row in read_pairs(tmp_path / "pairs.csv")] == [name, name]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == (not name.startswith("a"))
    assert all(
        f"{tmp_path / 'pairs.csv'}: in 2 rows the image's name or id begins with = + - or @" in line for line in warnings
    )


def test_files_that_cannot_be_finished_leave_the_earlier_ones_alone(tmp_path):
    parts = [Part("1", "1.jpg", (MaskCaptions(0, False, (caption("a ball", 1.5),)),))]
    write_pairs(parts, tmp_path, NAME, ScoringConfig())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken():
        yield parts[0]
        raise UserError("the second part is damaged")

    with pytest.raises(UserError, match="second part"):
        write_pairs(broken(), tmp_path, NAME, ScoringConfig())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
