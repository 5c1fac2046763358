"""The command that selects: files in, files out, the table it prints, damaged input."""

import json
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from pseudo_ris.cli.select import main, table_of
from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.assembly import read_pairs, write_pairs
from pseudo_ris.pairs.selection import select
from pseudo_ris.pairs.selection_rules import PRESETS, SelectionRules
from pseudo_ris.records import CaptionRecord, MaskCaptions
from pseudo_ris.storage.caption_parts import Part

EVERYTHING = SelectionRules()
LONG = "the tall man in the red shirt who stands to the left of the two dogs"


def caption(text: str, doc: float, listener: float = 1.0, strategy: str = "beam") -> CaptionRecord:
    return CaptionRecord(text, "masked", strategy, "ball", 20.5, 21.0, 1.5, 20.5, doc, 4, listener=listener)


PARTS = (
    Part(
        "7",
        'a "b", c.jpg',
        (
            MaskCaptions(
                0, False, (caption("a red ball", 1.5), caption("A red ball", 1.5), caption(LONG, 3.0), caption("x", 0.9))
            ),
            MaskCaptions(2, False, (caption('été 🎈\n, "quoted"', 1.1, 0.5), caption("a ball", 1.15, 0.5))),
            MaskCaptions(4, False, (caption("a red ball", 1.25), caption("a dog", 9.0), caption("a dog's ear", 8.0))),
        ),
    ),
    Part("8", "8.jpg", (MaskCaptions(1, True, (caption("one", 5.0), caption("two", 7.0), caption("three", 6.0))),)),
)


@pytest.fixture
def pairs(tmp_path) -> Path:
    write_pairs(PARTS, tmp_path, "pairs", ScoringConfig())
    return tmp_path / "pairs.csv"


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def sentences(path):
    return {(row["img_id"], row["seg_id"]): row["pseudo_caption"] for row in read_pairs(path)}


def test_without_options_the_recommended_rules_apply(pairs, tmp_path):
    run("--pairs", pairs, "--output", tmp_path / "out" / "best.csv")
    assert sentences(tmp_path / "out" / "best.csv") == {
        ("7", 0): ["a red ball", "x"],
        ("7", 4): ["a dog", "a dog's ear"],
        ("8", 1): ["two", "three"],
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "best.csv",
        "best.json",
        "best_doc.txt",
        "best_text.txt",
    ]


def test_the_output_keeps_columns_and_ids_and_numbers_its_rows_anew(pairs, tmp_path):
    run("--pairs", pairs, "--output", tmp_path / "best.csv")
    before = {(row["img_id"], row["seg_id"]): row for row in read_pairs(pairs)}
    after = read_pairs(tmp_path / "best.csv")
    assert [row["index"] for row in after] == [0, 1, 2]
    for row in after:
        assert row.keys() == before[row["img_id"], row["seg_id"]].keys()
        assert row["num_sent"] == len(row["pseudo_caption"])
        assert row["img_name"] == before[row["img_id"], row["seg_id"]]["img_name"]
    assert after[2]["doc"] == [7.0, 6.0] and after[2]["rival"] == [4, 4]
    assert [json.loads(line) for line in (tmp_path / "best.json").read_text().splitlines()] == after
    assert "candidates: 6" in (tmp_path / "best_doc.txt").read_text().splitlines()
    assert "7" not in (tmp_path / "best_text.txt").read_text().splitlines()


def test_with_every_rule_off_the_files_are_the_input_s(pairs, tmp_path):
    select(pairs, tmp_path / "same.csv", EVERYTHING)
    for ending in (".csv", ".json", "_text.txt", "_doc.txt"):
        assert (tmp_path / f"same{ending}").read_bytes() == (tmp_path / f"pairs{ending}").read_bytes()


def test_the_papers_preset_keeps_all_of_a_mask_where_none_passes(pairs, tmp_path):
    run("--pairs", pairs, "--output", tmp_path / "paper.csv", "--preset", "paper", "--doc", "1.2")
    assert sentences(tmp_path / "paper.csv")["7", 2] == ['été 🎈\n, "quoted"', "a ball"]
    assert len(sentences(tmp_path / "paper.csv")["7", 0]) == 3


def test_a_rule_that_is_given_wins_over_the_preset(pairs, tmp_path):
    off = [word for rule in ("max-tokens", "agreement", "recognition", "listener", "top-k") for word in (f"--{rule}", "off")]
    common = ("--pairs", pairs, "--duplicates", "keep")
    run(*common, "--output", tmp_path / "a.csv", *off, "--doc", "1.2", "--fallback", "unfiltered")
    run("--pairs", pairs, "--output", tmp_path / "b.csv", "--preset", "paper", "--doc", "1.2")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    run(*common, "--output", tmp_path / "c.csv", *off)
    assert (tmp_path / "c.csv").read_bytes() == pairs.read_bytes()


def test_the_presets_are_the_project_s_and_the_paper_s():
    assert PRESETS["recommended"].doc is None
    assert PRESETS["paper"] == SelectionRules(places="drop", doc=1.0, fallback="unfiltered")


def test_the_table_follows_the_rules_order_and_adds_up(pairs, tmp_path, capsys):
    options = "--fallback unfiltered --ambiguous drop --top-k 1 --per-image 1 --uniqueness 1 --correctness 2 --doc 1.2"
    options += " --places drop --rank doc --word-agreement 0.5 --confidence 0.5"
    for number, image in enumerate(("7", "8")):
        (tmp_path / "masks" / "_meta").mkdir(parents=True, exist_ok=True)
        masks = [{"seg_id": seg_id, "area": 5 + 10 * seg_id * (1 - number)} for seg_id in range(5)]
        (tmp_path / "masks" / "_meta" / f"{image}.json").write_text(json.dumps({"size": [5, 10], "masks": masks}))
    run(
        "--pairs",
        pairs,
        "--output",
        tmp_path / "out.csv",
        "--masks",
        tmp_path / "masks",
        "--min-area",
        0.1,
        "--max-area",
        0.9,
        *options.split(),
    )
    lines = capsys.readouterr().out.splitlines()
    assert [re.split("  +", line)[0] for line in lines[1:-1]] == [
        "read",
        "masks of at least 0.1 of the image",
        "masks of at most 0.9 of the image",
        "no place words",
        "at most 17 CLIP tokens",
        "each sentence once per mask",
        "agreement >= 0.75",
        "word agreement >= 0.5",
        "recognition >= 0.3",
        "listener >= 0.9",
        "confidence >= 0.5",
        "uniqueness > 1",
        "correctness > 2",
        "DoC > 1.2, or the better half of an only mask",
        "fallback: all candidates of masks where none passes",
        "no sentence shared by masks of an image",
        "best 1 per mask",
        "best 1 per image",
    ]
    counts = [[int(cell) for cell in re.split("  +", line)[1:]] for line in lines[1:-1]]
    assert counts[0] == [0, 12, 0, 4]
    for (_, candidates, _, masks), (removed, left, masks_removed, masks_left) in pairwise(counts):
        assert (left, masks_left) == (candidates - removed, masks - masks_removed)
    written = read_pairs(tmp_path / "out.csv")
    assert counts[-1][1::2] == [sum(row["num_sent"] for row in written), len(written)]
    assert [row[0] for row in counts] == [0, 0, 0, 0, 1, 1, 0, 0, 0, 2, 0, 0, 0, 2, -2, 2, 3, 1]


def test_masks_that_are_too_large_lose_all_candidates(pairs, tmp_path):
    meta = tmp_path / "masks" / "_meta"
    meta.mkdir(parents=True)
    areas = {"7": {0: 50, 2: 1, 4: 30}, "8": {1: 10}}
    for image, own in areas.items():
        masks = [{"seg_id": seg_id, "area": area} for seg_id, area in own.items()]
        (meta / f"{image}.json").write_text(json.dumps({"size": [5, 10], "masks": masks}))
    select(pairs, tmp_path / "out.csv", SelectionRules(min_area=0.02, max_area=0.6), tmp_path / "masks")
    assert sentences(tmp_path / "out.csv").keys() == {("7", 2), ("7", 4), ("8", 1)}
    with pytest.raises(UserError, match="with --masks"):
        select(pairs, tmp_path / "out.csv", SelectionRules(min_area=0.02))


def test_nothing_left_is_a_file_of_a_header(pairs, tmp_path):
    steps = select(pairs, tmp_path / "none.csv", SelectionRules(correctness=1000.0))
    assert (steps[-1].candidates, steps[-1].masks) == (0, 0)
    assert (tmp_path / "none.csv").read_bytes() == pairs.read_bytes().split(b"\n")[0] + b"\n"
    again = select(tmp_path / "none.csv", tmp_path / "again.csv", PRESETS["recommended"])
    assert table_of(again)[-1].split()[-4:] == ["0", "0", "0", "0"]


@pytest.mark.parametrize("output", ["pairs.csv", "../{here}/pairs.csv", "link.csv"])
def test_the_input_is_not_replaced(pairs, tmp_path, output):
    (tmp_path / "link.csv").symlink_to(pairs)
    before = pairs.read_bytes()
    with pytest.raises(UserError, match=r"would replace the input .*; give another name"):
        select(pairs, tmp_path / output.format(here=tmp_path.name), EVERYTHING)
    assert pairs.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1.5, 1.5, 3.0, 0.9]", "[1.5, 1.5, 3.0]", "row 2, column doc: 3 entries, num_sent is 4"),
        ("[1.5, 1.5, 3.0, 0.9]", "[1.5, 1.5, 3.0, NaN]", "row 2, column doc: contains NaN or infinity"),
        ("[1.5, 1.5, 3.0, 0.9]", "[1.5, 1.5, 3.0, 1e999]", "row 2, column doc: contains NaN or infinity"),
        ("[1.5, 1.5, 3.0, 0.9]", f"[1.5, 1.5, 3.0, 1{'0' * 400}]", "row 2, column doc: contains NaN or infinity"),
        ("[1.5, 1.5, 3.0, 0.9]", "[1.5, 1.5, 3.0, true]", "row 2, column doc: an entry is bool, not a number"),
        ('"[1.5, 1.5, 3.0, 0.9]"', '"[1.5, 1.5, 3.0, ""0.9""]"', "row 2, column doc: an entry is str, not a number"),
        ("[1.5, 1.5, 3.0, 0.9]", "[" * 100_000, "row 2, column doc: not a list literal"),
        ("[1.5, 1.5, 3.0, 0.9]", "{}", "row 2, column doc: is dict, not a list"),
        ("[4, 4]", "[4, -2]", "row 3, column rival: contains a number that is neither a seg_id"),
        ("[4, 4]", "[4, 9223372036854775808]", "row 3, column rival: contains a number that is neither a seg_id"),
        ('""x""', "2", "row 2, column pseudo_caption: an entry is int, not str"),
        ('""x""', '""\\ud83d""', "row 2, column pseudo_caption: contains a lone surrogate"),
        (",8,1,3,", ",8,-1,3,", "row 5, column seg_id: '-1' is not an integer"),
        (",8,1,3,", f",8,{'9' * 30},3,", "row 5, column seg_id"),
        ('6.0]",1,', '6.0]",2,', "row 5, column one_mask: '2' is neither 0 nor 1"),
        ("\n3,8.jpg", "\n8.jpg", "row 5: 21 cells, the header has 22"),
        ("uniqueness", "doc", "duplicate column doc"),
        ("uniqueness", "extra", "column extra is not a column of stage 2"),
        ("one_mask", "one_masks", "no column one_mask"),
        ("\n1,", '\n1"x,', ""),
    ],
)
def test_a_damaged_file_is_named_with_row_and_column_and_nothing_is_written(pairs, tmp_path, old, new, message):
    content = pairs.read_text(encoding="utf-8")
    assert old in content
    pairs.write_text(content.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{pairs}") + ".*" + re.escape(message)):
        select(pairs, tmp_path / "out.csv", EVERYTHING)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'"', b"\x00", b"a,b\n1,2\n"])
def test_a_file_that_is_no_pairs_csv_is_named(tmp_path, content):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"pairs\.csv(, line 1)?: "):
        select(tmp_path / "pairs.csv", tmp_path / "out.csv", EVERYTHING)


def test_paths_that_do_not_fit_end_in_one_line(pairs, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        select(tmp_path / "none.csv", tmp_path / "out.csv", EVERYTHING)
    with pytest.raises(UserError, match=r"must end in \.csv"):
        select(pairs, tmp_path / "out.json", EVERYTHING)
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(UserError, match=r"--output .*out\.csv: is a folder; give the name of a file"):
        select(pairs, tmp_path / "out.csv", EVERYTHING)
    (tmp_path / "other.json").mkdir()
    with pytest.raises(UserError, match=r"--output .*other\.csv: .*other\.json: is a folder"):
        select(pairs, tmp_path / "other.csv", EVERYTHING)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.slow
def test_the_command_needs_no_torch_and_says_what_is_wrong_in_one_line(pairs, tmp_path):
    command = [sys.executable, "-m", "pseudo_ris.cli", "select", "--pairs", str(pairs), "--output"]
    shown = subprocess.run([*command, str(pairs)], capture_output=True, text=True)
    assert shown.returncode == 2 and shown.stderr.startswith("error: --output") and shown.stderr.count("\n") == 1
    arguments = [*command[4:], str(tmp_path / "out.csv")]
    program = f"import sys; from {main.__module__} import main; main({arguments}); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("False\n")


PIECES = (
    *(
        b"NaN",
        b"Infinity",
        b"-1e999",
        b"null",
        b"true",
        b'""1.5""',
        b"[",
        b"]",
        b"[" * 5000,
        b"{}",
        b'"',
        b'""',
        b",",
        b"\n",
        b"\r",
    ),
    *(
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"9" * 30,
        b"-1",
        b"1_0",
        b"\xd9\xa3",
        b"0x1",
        b"__import__('os')",
        b" ",
        b"\\",
    ),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` with one to three pieces of it changed, taken out, doubled or replaced by something odd."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 60)))
        piece = bytes(data[start:stop])
        data[start:stop] = rng.choice((rng.choice(PIECES), rng.randbytes(1), b"", 2 * piece, piece[::-1]))
    return bytes(data)


def check_mutations(pairs, numbers):
    content, output = pairs.read_bytes(), pairs.with_name("out.csv")
    refused = 0
    for number in numbers:
        pairs.write_bytes(mutated(content, random.Random(number)))
        try:
            select(pairs, output, EVERYTHING)
        except UserError as error:
            assert str(error).startswith(f"{pairs}") and "\n" not in str(error)
            refused += 1
        else:
            assert [{**row, "index": 0} for row in read_pairs(output)] == [
                {**row, "index": 0} for row in read_pairs(pairs) if row["num_sent"]
            ]
    return refused


def test_mutated_files_are_refused_or_read(pairs):
    assert 0 < check_mutations(pairs, range(200)) < 200


@pytest.mark.slow
def test_2000_mutated_files_are_refused_or_read(pairs):
    assert 0 < check_mutations(pairs, range(200, 2200)) < 2000
