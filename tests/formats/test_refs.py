"""REFER sets, and pickles that are none or do harm."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest

from pseudo_ris.errors import UserError
from pseudo_ris.formats.refs import Ref, Sentence, plain_name, read_refs

# See the README beside it.
REFS = Path(__file__).parent / "golden" / "refcoco" / "refs(unc).p"


def ref(**changes) -> dict:
    sentence = {"sent_id": 5, "sent": "a dog", "raw": "A dog", "tokens": ["a", "dog"]}
    entry = {
        "ref_id": 1,
        "ann_id": 2,
        "category_id": 3,
        "image_id": 9,
        "file_name": "COCO_train2014_000000000009_4.jpg",
        "split": "train",
        "sent_ids": [5],
        "sentences": [sentence],
    }
    return {**entry, **changes}


def written(folder: Path, content: object, protocol: int = 2) -> Path:
    path = folder / "refs(unc).p"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def test_a_set_is_read_with_all_fields():
    refs = read_refs(REFS)
    assert refs[1] == Ref(
        ref_id=12,
        ann_id=502,
        category_id=8,
        image_id=900003,
        file_name="COCO_train2014_000000900003_12.jpg",
        split="val",
        sent_ids=(3,),
        sentences=(Sentence(3, "black truck", "black truck", ("black", "truck")),),
    )
    assert [each.ref_id for each in refs] == [11, 12, 13]
    assert [[sentence.sent for sentence in each.sentences] for each in refs] == [
        ["the dog", "dog in the middle"],
        ["black truck"],
        ["car far left", "little car", "left car"],
    ]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    assert read_refs(written(tmp_path, [ref()], protocol))[0].file_name == ref()["file_name"]


def test_byte_strings_of_python_2_are_latin_1(tmp_path):
    content = pickle.dumps([ref(split="SPLIT")], 2).replace(b"X\x05\x00\x00\x00SPLIT", b"U\x05caf\xe9s")
    assert read_refs(written(tmp_path, content))[0].split == "cafés"


def test_names_without_a_ref_s_number_stay():
    assert plain_name("COCO_train2014_000000000009_16.jpg") == "COCO_train2014_000000000009.jpg"
    for name in ("COCO_train2014_000000000009.jpg", "scene_00009.png", "000000000009.jpg"):
        assert plain_name(name) == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "is dict, not a list of refs"),
        ([ref(), [1]], "ref 1: sentences is missing or no"),
        ([ref(image_id="9")], "ref 0: image_id is missing or no"),
        ([ref(split=None)], "ref 0: split is missing or no"),
        ([ref(sent_ids=["a"])], "ref 0: sent_ids: each entry must be int"),
        ([ref(sentences=[{"sent_id": 1, "sent": "x", "raw": "x"}])], "ref 0, sentence 0: tokens is missing or no"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_refs(written(tmp_path, content))
    assert "refs(unc).p" in str(caught.value)
    assert "\n" not in str(caught.value)


class Call:
    """Pickled, a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "harm",
    [
        lambda mark: pickle.dumps(Call(os.mkdir, mark), 2),
        lambda mark: pickle.dumps([ref(), Call(os.system, f"mkdir {mark}")], 4),
        lambda mark: pickle.dumps([ref(split=Call(eval, f"__import__('os').mkdir({mark!r})"))], 0),
        lambda mark: f"(S'{mark}'\nios\nmkdir\n.".encode(),
        lambda mark: f"(cos\nmkdir\nS'{mark}'\no.".encode(),
        lambda mark: f"cos\nmkdir\n(S'{mark}'\ntR.".encode(),
        lambda mark: pickle.dumps([OrderedDict(ref())], 2),
        lambda mark: pickle.dumps([{1, 2}], 2),
        lambda mark: b"Pid\n.",
        lambda mark: b"(lp0\n\x80\x02]}b.",
    ],
)
def test_pickles_that_ask_for_more_than_plain_data_run_nothing(tmp_path, harm):
    mark = tmp_path / "mark"
    path = written(tmp_path, harm(str(mark)))
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: not a pickle of plain data") as caught:
        read_refs(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_the_pickles_above_do_harm_when_loaded_plainly(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Call(os.mkdir, str(mark)), 2))
    assert mark.exists()


@pytest.mark.parametrize("data", [b"", b"hello\nworld", b"\x80\x02]q\x00(", REFS.read_bytes()[:-100], b"\x80\x63."])
def test_damaged_pickles_are_one_line(tmp_path, data):
    with pytest.raises(UserError, match="not a pickle of plain data") as caught:
        read_refs(written(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.p: No such file"):
        read_refs(tmp_path / "none.p")
