"""The demo tokenizer: every grammar word is one token, and the shipped file is the one the grammar asks for."""

import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from pseudo_ris.assets import architectures
from pseudo_ris.assets.vocabulary import BPE_PATH, grammar_words, read_merges, vocabulary_size
from pseudo_ris.lab.learn_vocabulary import learn_merges, vocabulary_words, write_merges
from pseudo_ris.world.grammar import WORDS

WORD_SETS = st.sets(st.text("abcdeorst", min_size=1, max_size=7), min_size=1, max_size=25)


@pytest.fixture(scope="module")
def tokenizer():
    return SimpleTokenizer(bpe_path=str(BPE_PATH))


def test_every_grammar_word_is_one_token_that_reads_back(tokenizer):
    for word in WORDS:
        tokens = tokenizer.encode(word)
        assert len(tokens) == 1, word
        assert tokenizer.decode(tokens) == f"{word} "


def test_the_noun_prompt_costs_one_token_a_word(tokenizer):
    assert len(tokenizer.encode("a photo of a boat")) == 5


def test_unknown_words_fall_back_to_bytes(tokenizer):
    tokens = tokenizer.encode("zebra café")
    assert len(tokens) > 2
    assert tokenizer.decode(tokens) == "zebra café "


def test_the_shipped_words_and_merges_are_those_of_the_grammar():
    assert grammar_words() == list(WORDS)
    assert read_merges() == learn_merges(vocabulary_words())


def test_sizes_agree(tokenizer):
    assert tokenizer.vocab_size == vocabulary_size()
    for model in (architectures.COCA, architectures.CLIP):
        assert model["text_cfg"]["vocab_size"] == tokenizer.vocab_size
    assert architectures.COCA["multimodal_cfg"]["vocab_size"] == tokenizer.vocab_size


def test_start_and_end_are_the_last_ids(tokenizer):
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)


def test_the_same_merges_give_the_same_bytes(tmp_path):
    merges = learn_merges(["ball", "boat"])
    for name in ("a.gz", "b.txt.gz"):
        write_merges(merges, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.txt.gz").read_bytes()
    assert read_merges(tmp_path / "a.gz") == merges
    assert not gzip.decompress((tmp_path / "a.gz").read_bytes()).endswith(b"\n")


def test_merges_by_hand():
    # "ab" twice is the most frequent pair; the rest are ties in alphabetical order.
    assert learn_merges(["abc", "abd"]) == [("a", "b"), ("ab", "c</w>"), ("ab", "d</w>")]


@given(WORD_SETS)
def test_any_words_become_one_token_each(tmp_path_factory, words):
    merges = learn_merges(words)
    path = tmp_path_factory.mktemp("bpe") / "merges.gz"
    write_merges(merges, path)
    tokenizer = SimpleTokenizer(bpe_path=str(path))
    assert tokenizer.vocab_size == vocabulary_size(path)
    assert all(len(tokenizer.encode(word)) == 1 for word in words)


@given(WORD_SETS)
def test_no_merge_is_learnt_twice(words):
    merges = sorted(learn_merges(words))
    assert all(left != right for left, right in pairwise(merges))


@pytest.mark.parametrize("word", ["dark-blue", "Ball", "two words", "naïve", "4", ""])
def test_words_the_tokenizer_would_split_are_refused(word):
    with pytest.raises(ValueError, match="one token"):
        learn_merges(["ball", word])
