"""The report's file: its figures, its data and its errors."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report_data import AWKWARD, THRESHOLD, SmallSet

from pseudo_ris.cli.report import main
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.assembly import read_pairs
from pseudo_ris.pairs.rows import PAPER_COLUMNS
from pseudo_ris.report.page_data import SCALE


class Reader(HTMLParser):
    """Collects a page's elements, the text of its scripts and styles, and its totals."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements, self.inline, self._open, self._cells = [], {}, "", []
        self.feed(page)
        self.totals = dict(zip(self._cells[::2], self._cells[1::2], strict=True))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = "data" if dict(attrs).get("id") == "data" else tag
        if tag in ("dt", "dd"):
            self._cells.append("")

    def handle_data(self, data):
        if self._open in ("script", "style", "data"):
            self.inline[self._open] = data
        elif self._open in ("dt", "dd", "small"):
            self._cells[-1] += data

    def handle_endtag(self, tag):
        self._open = ""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    made = SmallSet(tmp_path_factory.mktemp("small"))
    made.report()
    return made


@pytest.fixture(scope="module")
def page(small):
    return Reader(small.page.read_text(encoding="utf-8"))


def candidates_of(data: dict) -> list[tuple]:
    """Every candidate of a page's data, taken apart again."""
    images, masks, groups = data["images"], data["masks"], data["groups"]
    found = []
    for image, name in enumerate(images["name"]):
        for mask in range(images["first"][image], images["first"][image + 1]):
            for group in range(masks["first"][mask], masks["first"][mask + 1]):
                text = data["texts"][groups["text"][group]]
                scores = tuple(groups[key][group] for key in ("doc", "m", "b", "uniqueness", "rival", "kept"))
                for place in range(groups["first"][group], groups["first"][group + 1]):
                    origin = data["origins"][groups["origin"][place]]
                    found.append((name, masks["seg"][mask], text, data["nouns"][groups["noun"][group]], *scores, *origin))
    return found


def kept_by_hand(row: dict, doc: float) -> bool:
    return doc > THRESHOLD if not row["one_mask"] else doc >= sorted(row["doc"])[-((len(row["doc"]) + 1) // 2)]


def test_totals_are_right(page):
    totals = page.totals
    assert totals["images"] == "3"
    assert totals["images without a mask"] == "1"
    assert totals["masks with candidates"] == "4"
    assert totals["candidates"] == "10"
    assert totals["kept candidates"] == "5 50.0%"
    assert totals["masks without a passing expression"] == "1 25.0%"
    assert totals["only masks of their image"] == "1 25.0%"
    assert totals["duplicate masks (IoU > 0.9)"] == "2 50.0%"


def test_every_candidate_is_in_the_data(small, page):
    data = json.loads(page.inline["data"])
    expected = [
        (row["img_name"], row["seg_id"], text, noun, *(round(value * SCALE) for value in scores), rival,
         kept_by_hand(row, scores[0]), *way)
        for row in read_pairs(small.pairs)
        for text, noun, *scores, rival, way in zip(
            row["pseudo_caption"], row["noun"], row["doc"], row["masked_score"], row["crop_score"], row["uniqueness"],
            row["rival"], zip(row["crop_set"], row["strategy"], strict=True), strict=True,
        )
    ]  # fmt: skip
    assert sorted(candidates_of(data)) == sorted(expected)
    assert data["masks"]["twins"] == [[1], [0], [], []]
    assert data["masks"]["only"] == [0, 0, 0, 1]


def test_kept_candidates_come_first_and_the_best_of_them_first(page):
    data = json.loads(page.inline["data"])
    groups, first = data["groups"], data["masks"]["first"]
    for start, end in pairwise(first):
        order = [(-groups["kept"][group], -groups["doc"][group]) for group in range(start, end)]
        assert order == sorted(order)
    assert first[1] - first[0] == 2  # "red ball" of two crop sets is one group


def test_captions_are_never_markup(page):
    assert AWKWARD in json.loads(page.inline["data"])["texts"]
    assert not {"onerror", "onload", "onclick"} & {name for _, attributes in page.elements for name in attributes}
    assert [tag for tag, _ in page.elements].count("script") == 2


def test_nothing_is_loaded_from_elsewhere(page):
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in page.inline["style"]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|insertAdjacentHTML|document\.write", page.inline["script"])


def test_the_policy_allows_just_the_pages_own_style_and_script(page):
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv"))
    assert "default-src 'none'" in policy
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inline[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_the_same_input_gives_the_same_bytes(small):
    before = small.page.read_bytes()
    small.report()
    assert small.page.read_bytes() == before


def test_figures_are_of_all_images_and_the_gallery_says_what_it_leaves_out(tmp_path):
    small = SmallSet(tmp_path, further_images=7)
    report = small.report(max_images=5)
    read = Reader(small.page.read_text(encoding="utf-8"))
    assert read.totals["images"] == "10"
    assert read.totals["masks with candidates"] == "18"
    assert len(json.loads(read.inline["data"])["images"]["name"]) == len(report.shown) == 5
    assert "5 of 10 images are shown" in small.page.read_text(encoding="utf-8")


def test_problems_are_listed_and_not_fatal(tmp_path):
    small = SmallSet(tmp_path)
    (small.images / "b.png").unlink()
    small.parts.append(small.parts[0].__class__("<b>x", "<b>x.png", small.parts[1].masks))
    small.write_pairs()
    arguments = {"pairs": small.pairs, "images": small.images, "masks": small.masks, "output": small.page}
    assert main([text for name, value in arguments.items() for text in (f"--{name}", str(value))]) == 0
    page = small.page.read_text(encoding="utf-8")
    assert "Problems (2)" in page
    assert "<li>b.png: is not in the folder of images</li>" in page
    assert "&lt;b&gt;x.png: is not in the folder of images" in page
    data = json.loads(Reader(page).inline["data"])
    assert data["masks"]["path"][3:] == ["", ""]
    assert data["images"]["jpeg"][1] == ""


def test_a_csv_with_the_papers_columns_only_is_enough(tmp_path):
    small = SmallSet(tmp_path)
    with small.pairs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with small.pairs.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, PAPER_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    small.report()
    groups = json.loads(Reader(small.page.read_text(encoding="utf-8")).inline["data"])["groups"]
    assert (groups["m"], groups["b"], groups["rival"], groups["noun"]) == (None, None, None, None)


def test_a_csv_without_rows_is_a_report(tmp_path):
    small = SmallSet(tmp_path)
    small.pairs.write_text(small.pairs.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    small.report()
    assert Reader(small.page.read_text(encoding="utf-8")).totals["candidates"] == "0"


def test_scores_of_any_size_are_a_report(tmp_path):
    small = SmallSet(tmp_path)
    spoil(small, "doc", "[1e308, -1e308, 0.0]")
    spoil(small, "uniqueness", "[1e-300, 0]", row=1)
    small.report()


def spoil(small: SmallSet, column: str, value: str, row: int = 0) -> None:
    with small.pairs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[row][column] = value
    with small.pairs.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [("doc", "[1, x]", "column doc"), ("seg_id", "1", "two rows with one seg_id"), ("img_id", "z", "two values of img_id")],
)
def test_a_wrong_csv_is_an_error_that_names_it(tmp_path, column, value, told):
    small = SmallSet(tmp_path)
    spoil(small, column, value)
    with pytest.raises(UserError, match=told) as error:
        small.report()
    assert str(small.pairs) in str(error.value)
    assert not small.page.exists()


@pytest.mark.parametrize(("name", "value"), [("images", "nowhere"), ("masks", "nowhere"), ("pairs", "nowhere.csv")])
def test_a_place_that_is_missing_is_an_error(tmp_path, name, value):
    small = SmallSet(tmp_path)
    setattr(small, name, tmp_path / value)
    with pytest.raises(UserError, match=value):
        small.report()


def test_a_negative_number_of_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match="--max-images"):
        SmallSet(tmp_path).report(max_images=-1)


def test_a_folder_as_output_is_an_error_before_any_work(tmp_path):
    small = SmallSet(tmp_path)
    small.page.mkdir()
    small.pairs.unlink()
    with pytest.raises(UserError, match=r"--output .*report.html: is a folder; give the name of a file"):
        small.report()


def test_no_progress_bar_in_a_log_and_no_leftover_of_a_killed_run(tmp_path, capsys):
    (tmp_path / ".report.html.0123abcd.tmp").touch()
    SmallSet(tmp_path).report()
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_exit_code_2(tmp_path):
    small = SmallSet(tmp_path)
    small.pairs.write_text("a,b\n1,2\n", encoding="utf-8")
    command = [sys.executable, "-m", "pseudo_ris.cli", "report", "--pairs", small.pairs, "--images", small.images]
    done = subprocess.run(
        [*map(str, command), "--masks", str(small.masks), "--output", str(small.page)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {small.pairs}: no column index")
