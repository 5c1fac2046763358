"""The selection rules, against a slow loop over the rows that says the same."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from pseudo_ris.distinctiveness.nouns import content_words
from pseudo_ris.distinctiveness.places import PLACE
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.assembly import FURTHER_COLUMNS, PAPER_COLUMNS, read_pairs
from pseudo_ris.pairs.candidate_table import read_table, table_of
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.pairs.selection_rules import AT_LEAST, PRESETS, Selection, SelectionRules
from pseudo_ris.records import CaptionRecord, MaskCaptions

TOKENIZER = SimpleTokenizer()
LONG = "the tall man in the red shirt who stands to the left of the two dogs"
SENTENCES = ("a ball", "A  ball", "a ball ", "two dogs", "the red ball", LONG, "", "it's a dog.", "été 🎈")
SCORES = (-1.0, 0.0, 0.5, 1.0, 1.1, 1.2, 1.5, 2.0, 7.25)
SHARES = (0.0, 0.25, 0.5, 0.9, 1.0)
unhurried = settings(deadline=None, max_examples=30)


def test_minimal_wording_keeps_what_no_other_sentence_of_the_mask_says_with_less():
    texts = ["a cup on a red table", "the red cup", "a small red cup", "a red striped cup", "a cup", "the leftmost cup", "it"]
    row = {"index": 0, "img_name": "a.jpg", "img_id": "a", "seg_id": 0, "num_sent": 7, "one_mask": 0, "pseudo_caption": texts}
    row |= {"doc": [1.0] * 7, "strategy": ["beam"] * 5 + [PLACE, "beam"]}
    table = table_of(tuple(row), [row])
    selection = Selection(table, np.array([True, True, True, True, False, True, True]))
    selection.apply(SelectionRules(redundant="drop"))
    kept = [text for text, stays in zip(texts, selection.kept, strict=True) if stays]
    assert kept == ["the red cup", "the leftmost cup", "it"]


@st.composite
def tables(draw):
    """Rows of a pairs CSV, with ties, equal sentences, masks without candidates and one-mask images."""
    rows = []
    for seg_id in range(draw(st.integers(0, 7))):
        size = draw(st.integers(0, 6))
        one_mask = draw(st.booleans())
        image = f"alone{seg_id}" if one_mask else f"image{draw(st.integers(0, 1))}"
        row = {"img_name": f"{image}.jpg", "img_id": image, "seg_id": seg_id, "num_sent": size}
        row["pseudo_caption"] = draw(st.lists(st.sampled_from(SENTENCES), min_size=size, max_size=size))
        for column in ("doc", "uniqueness", "correctness", "masked_score", "crop_score"):
            row[column] = draw(st.lists(st.sampled_from(SCORES), min_size=size, max_size=size))
        for column in AT_LEAST:
            row[column] = draw(st.lists(st.sampled_from(SHARES), min_size=size, max_size=size))
        row |= {"one_mask": int(one_mask), "rival": [-1] * size, "listener_rival": [-1] * size}
        row |= {"noun": ["ball"] * size, "crop_set": ["masked"] * size}
        kinds = ["beam"] if one_mask else ["beam", "beam", PLACE]
        row["strategy"] = draw(st.lists(st.sampled_from(kinds), min_size=size, max_size=size))
        rows.append(row)
    return rows


def optional(values):
    return st.none() | st.sampled_from(values)


RULES = st.builds(
    SelectionRules,
    min_area=optional([0.0, 0.2, 0.5]),
    max_area=optional([0.5, 0.8, 1.0]),
    places=st.sampled_from(["keep", "drop"]),
    max_tokens=optional([1, 4, 17]),
    **{name: optional(SHARES) for name in AT_LEAST},
    rank=st.sampled_from(["doc", "support"]),
    duplicates=st.sampled_from(["keep", "drop"]),
    uniqueness=optional(SCORES),
    correctness=optional(SCORES),
    doc=optional(SCORES),
    fallback=st.sampled_from(["drop", "unfiltered"]),
    redundant=st.sampled_from(["keep", "drop"]),
    ambiguous=st.sampled_from(["keep", "drop"]),
    top_k=optional([1, 2, 4]),
    per_image=optional([1, 3, 5]),
)


def write_rows(rows, path, columns=(*PAPER_COLUMNS, *FURTHER_COLUMNS)) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for index, row in enumerate(rows):
            values = {"index": index, **row}
            writer.writerow(json.dumps(values[c]) if isinstance(values[c], list) else values[c] for c in columns)
    return path


def best_first(places, doc):
    return sorted(places, key=lambda place: -doc(place))


def choose(rows, rules, shares):
    """The oracle: kept places (row, candidate), and after each rule how many candidates and masks are left."""
    left = [(r, c) for r, row in enumerate(rows) for c in range(row["num_sent"])]
    counts = []

    def count():
        counts.append((len(left), len({r for r, _ in left})))

    def keep(passes):
        nonlocal left
        left = [place for place in left if passes(*place)]
        count()

    def value(column):
        return lambda place: rows[place[0]][column][place[1]]

    def sentence(r, c):
        return " ".join(rows[r]["pseudo_caption"][c].lower().split())

    doc, image = value("doc"), [row["img_id"] for row in rows]

    def placed(r, c):
        return rows[r]["strategy"][c] == PLACE

    def goodness(place):
        r, c = place
        if rules.rank == "doc":
            return doc(place)
        repeats = sum(sentence(r, other) == sentence(r, c) for other in range(rows[r]["num_sent"]))
        return repeats * rows[r]["listener"][c] * rows[r]["confidence"][c], doc(place)

    def best(places, count):
        """The best of the places, and as many with place words."""
        ranked = sorted(places, key=goodness, reverse=True)
        kinds = [[place for place in ranked if placed(*place) == kind] for kind in (False, True)]
        return {place for own in kinds for place in own[:count]}

    count()
    if rules.min_area is not None:
        keep(lambda r, c: shares[r] >= rules.min_area)
    if rules.max_area is not None:
        keep(lambda r, c: shares[r] <= rules.max_area)
    if rules.places == "drop":
        keep(lambda r, c: not placed(r, c))
    if rules.max_tokens is not None:
        keep(lambda r, c: 2 + len(TOKENIZER.encode(rows[r]["pseudo_caption"][c])) <= rules.max_tokens)
    if rules.duplicates == "drop":
        before = list(left)
        keep(lambda r, c: not any(sentence(r, other) == sentence(r, c) for s, other in before if s == r and other < c))
    before = list(left)
    for name in AT_LEAST:
        if (bound := getattr(rules, name)) is not None:
            keep(lambda r, c, name=name, bound=bound: placed(r, c) or rows[r][name][c] >= bound)
    if rules.uniqueness is not None:
        keep(lambda r, c: placed(r, c) or rows[r]["one_mask"] or rows[r]["uniqueness"][c] > rules.uniqueness)
    if rules.correctness is not None:
        keep(lambda r, c: placed(r, c) or rows[r]["correctness"][c] > rules.correctness)
    if rules.doc is not None:
        passing = {place for place in left if not rows[place[0]]["one_mask"] and doc(place) > rules.doc}
        for r in range(len(rows)):
            if rows[r]["one_mask"]:
                own = best_first([place for place in left if place[0] == r], doc)
                passing |= set(own[: (len(own) + 1) // 2])
        keep(lambda r, c: placed(r, c) or (r, c) in passing)
    if rules.fallback == "unfiltered":
        left = sorted({*left, *(place for place in before if all(place[0] != r for r, _ in left))})
        count()
    if rules.redundant == "drop":
        words = {(r, c): content_words(rows[r]["pseudo_caption"][c]) for r, c in left}
        others = [place for place in left if not placed(*place)]
        keep(
            lambda r, c: (
                placed(r, c) or not any(other[0] == r and words[other] and words[other] < words[r, c] for other in others)
            )
        )
    if rules.ambiguous == "drop":
        uses = {(image[r], r, sentence(r, c)) for r, c in left}
        keep(lambda r, c: sum((image[r], sentence(r, c)) == (i, s) for i, _, s in uses) == 1)
    if rules.top_k is not None:
        chosen = set().union(*(best([place for place in left if place[0] == r], rules.top_k) for r in range(len(rows))))
        keep(lambda r, c: (r, c) in chosen)
    if rules.per_image is not None:
        chosen = set().union(*(best([p for p in left if image[p[0]] == of], rules.per_image) for of in image))
        keep(lambda r, c: (r, c) in chosen)
    return left, counts


def with_probabilities(table, rows):
    """As a fitted rule adds them."""
    return replace(table, scores={**table.scores, "probability": np.array([p for row in rows for p in row["probability"]])})


def selected(path, rules, shares=None):
    table = read_table(path)
    selection = Selection(table)
    selection.apply(rules, shares)
    return table, selection


@st.composite
def selections(draw):
    """Rows, rules and the masks' areas."""
    rows = draw(tables())
    areas = draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), min_size=len(rows), max_size=len(rows)))
    return rows, draw(RULES), np.array(areas)


def check_against_the_loop(rows, rules, shares, path):
    table = with_probabilities(read_table(write_rows(rows, path)), rows)
    selection = Selection(table)
    selection.apply(rules, shares)
    left, counts = choose(rows, rules, shares)
    columns = np.arange(len(table.row)) - np.searchsorted(table.row, table.row)
    places = [(int(r), int(c)) for r, c in zip(table.row, columns, strict=True)]
    assert [place for place, kept in zip(places, selection.kept, strict=True) if kept] == left
    assert [(step.candidates, step.masks) for step in selection.steps] == counts


@pytest.mark.slow
@given(selections())
@settings(deadline=None, max_examples=50)
def test_every_rule_leaves_what_a_loop_over_the_rows_leaves(tmp_path_factory, selection):
    check_against_the_loop(*selection, tmp_path_factory.getbasetemp() / "rules.csv")


@pytest.mark.slow
@given(selections())
@settings(deadline=None, max_examples=600)
def test_every_rule_leaves_what_a_loop_leaves_of_600_tables(tmp_path_factory, selection):
    check_against_the_loop(*selection, tmp_path_factory.getbasetemp() / "rules.csv")


@given(rows=tables())
@unhurried
def test_the_papers_preset_is_the_release_s_choice(rows, tmp_path_factory):
    path = write_rows(rows, tmp_path_factory.getbasetemp() / "pairs.csv")
    table, selection = selected(path, PRESETS["paper"])
    for number, row in enumerate(rows):
        sampled = [strategy != PLACE for strategy in row["strategy"]]
        of_row = selection.kept[table.row == number].tolist()
        assert not any(kept for kept, own in zip(of_row, sampled, strict=True) if not own)
        kept = [kept for kept, own in zip(of_row, sampled, strict=True) if own]
        docs = [doc for doc, own in zip(row["doc"], sampled, strict=True) if own]
        if row["one_mask"]:
            assert sum(kept) == (len(docs) + 1) // 2
            assert all(
                a >= b for a, of_a in zip(docs, kept, strict=True) for b, of_b in zip(docs, kept, strict=True) if of_a > of_b
            )
        elif any(doc > 1.0 for doc in docs):
            assert kept == [doc > 1.0 for doc in docs]
        else:
            assert all(kept)


@given(rows=tables(), threshold=st.sampled_from(SCORES), fallback=st.sampled_from(["drop", "unfiltered"]))
@unhurried
def test_the_doc_rule_alone_is_kept_candidates(rows, threshold, fallback, tmp_path_factory):
    rows = [row | {"strategy": ["beam"] * row["num_sent"]} for row in rows]
    path = write_rows(rows, tmp_path_factory.getbasetemp() / "pairs.csv")
    table, selection = selected(path, SelectionRules(doc=threshold, fallback=fallback))
    for number, row in enumerate(rows):
        records = [CaptionRecord(str(c), "", "", "", 1.0, 1.0, 1.0, 1.0, doc, None) for c, doc in enumerate(row["doc"])]
        expected = kept_candidates(MaskCaptions(0, bool(row["one_mask"]), tuple(records)), threshold, fallback)
        kept = np.flatnonzero(selection.kept[table.row == number])
        assert kept.tolist() == [int(record.text) for record in expected]


@given(rows=tables())
@unhurried
def test_the_table_holds_the_rows_of_the_file(rows, tmp_path_factory):
    path = write_rows(rows, tmp_path_factory.getbasetemp() / "pairs.csv")
    table, read = read_table(path), read_pairs(path)
    assert table.image_name.strings().tolist() == [row["img_name"] for row in read]
    assert table.image_id.strings().tolist() == [row["img_id"] for row in read]
    assert table.seg_id.tolist() == [row["seg_id"] for row in read]
    assert table.one_mask.tolist() == [row["one_mask"] for row in read]
    assert table.row.tolist() == [number for number, row in enumerate(read) for _ in range(row["num_sent"])]
    columns = {**table.scores, **table.rivals, **{name: column.strings() for name, column in table.texts.items()}}
    for name, values in columns.items():
        assert values.tolist() == [value for row in read for value in row[name]]


def test_a_file_of_the_papers_columns_can_be_read_and_selected_by_doc(tmp_path):
    row = {"img_name": "1.jpg", "img_id": "1", "seg_id": 0, "num_sent": 2, "one_mask": 0}
    path = write_rows([row | {"pseudo_caption": ["a", "b"], "doc": [1.5, 1.0]}], tmp_path / "p.csv", PAPER_COLUMNS)
    table, selection = selected(path, PRESETS["paper"])
    assert table.rival is None and table.scores.keys() == {"doc"} and table.texts.keys() == {"pseudo_caption"}
    assert selection.kept.tolist() == [True, False]
    with pytest.raises(UserError, match="no column uniqueness; run stage 2 again, or omit --uniqueness"):
        selected(path, SelectionRules(uniqueness=1.0))
    with pytest.raises(UserError, match=r"no column agreement; .* --agreement \(--preset paper"):
        selected(path, PRESETS["recommended"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"doc": float("nan")}, "--doc nan: must be a finite number, or off"),
        ({"uniqueness": float("inf")}, "--uniqueness inf"),
        ({"max_tokens": 0}, "--max-tokens 0: must be 1 or more"),
        ({"top_k": -1}, "--top-k -1"),
        ({"min_area": 1.5}, "--min-area 1.5: must be a fraction"),
        ({"max_area": float("nan")}, "--max-area nan"),
        ({"listener": 1.5}, "--listener 1.5: must be a fraction"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(UserError, match=message):
        SelectionRules(**setting)
