"""Sentences as BERT's word pieces."""

from __future__ import annotations

import pickle

import pytest
import torch
from transformers import BertTokenizer

from pseudo_ris.errors import UserError
from pseudo_ris.ris.models.maskris.tokenizer import SPECIAL, BertWords, demo_vocabulary, read_vocabulary
from pseudo_ris.world.grammar import WORDS


def test_every_word_of_the_grammar_is_one_piece():
    words = BertWords(demo_vocabulary(), 3)
    tokens, attention = words(WORDS)
    assert attention.all()
    assert len(set(tokens[:, 1].tolist())) == len(WORDS)


def test_a_sentence_starts_with_cls_and_ends_with_sep_and_padding():
    words = BertWords(demo_vocabulary(), 8)
    tokens, attention = words(["The LARGE ball", ""])
    ids = {piece: number for number, piece in enumerate(demo_vocabulary())}
    assert tokens[0].tolist() == [ids[each] for each in ("[CLS]", "the", "large", "ball", "[SEP]", *["[PAD]"] * 3)]
    assert attention.sum(1).tolist() == [5, 2]
    assert (tokens.dtype, attention.dtype) == (torch.int64, torch.bool)


def test_a_sentence_that_is_too_long_keeps_its_end():
    words = BertWords(demo_vocabulary(), 5)
    tokens, attention = words(["the large red striped ball on the left"])
    assert tokens[0, -1] == demo_vocabulary().index("[SEP]") and attention.all()


def test_a_sentence_may_be_cut_without_an_end():
    words, sentences = demo_vocabulary(), ["the large red striped ball on the left", "the ball"]
    cut, kept = (BertWords(words, 5, keep_end)(sentences) for keep_end in (False, True))
    assert [words[each] for each in cut[0][0].tolist()] == ["[CLS]", "the", "large", "red", "striped"]
    assert torch.equal(cut[0][1], kept[0][1]) and torch.equal(cut[1], kept[1])


def test_other_text_becomes_letters():
    words = BertWords(demo_vocabulary(), 12)
    tokens, _ = words(["Zébra, 42!"])
    pieces = [demo_vocabulary()[token] for token in tokens[0].tolist()]
    assert pieces == ["[CLS]", "z", "##e", "##b", "##r", "##a", ",", "4", "##2", "!", "[SEP]", "[PAD]"]


def test_special_ids_are_those_that_are_no_words():
    words = BertWords(demo_vocabulary(), 20)
    assert [demo_vocabulary()[each] for each in words.special_ids] == list(SPECIAL)
    assert demo_vocabulary()[words.mask_id] == "[MASK]" and words.vocabulary == len(demo_vocabulary())


def test_a_vocabulary_file_reads_as_transformers_reads_it(tmp_path):
    pieces = ["[PAD]", "[unused0]", *SPECIAL[1:], *"ofxthe", "##x", "##o", "fox", "##es", "the", "quick", "-", "##n", "n"]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
    sentences = ["The quick foxes", "quick-fox Thé", "n oxn", "unseen word", "fox " * 20, ""]
    published = BertTokenizer(str(tmp_path / "vocab.txt"))
    expected = published(sentences, padding="max_length", truncation=True, max_length=9, return_tensors="pt")
    tokens, attention = BertWords(read_vocabulary(tmp_path / "vocab.txt"), 9)(sentences)
    assert torch.equal(tokens, expected["input_ids"])
    assert torch.equal(attention, expected["attention_mask"].bool())


def test_it_can_be_handed_to_a_worker():
    words = BertWords(demo_vocabulary(), 7)
    again = pickle.loads(pickle.dumps(words))
    assert torch.equal(again(["a ball"])[0], words(["a ball"])[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nball\n", r"has no line \[MASK\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nball\nball\n", "two lines"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_vocabulary(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
