"""The count of CLIP tokens, against open_clip's own tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from pseudo_ris.models.clip.token_counts import fit_tokens

TOKENIZER = SimpleTokenizer()
ODD_PIECES = (
    *(
        "a ball ",
        "it's",
        "I'VE ",
        "<start_of_text>",
        "<END_of_text> ",
        "&amp;",
        "&lt;b&gt;",
        "\u00a0",
        "\x1b[0m",
        "\t\r\n",
        "\x07",
    ),
    *("été", "ÃƒÂ©", "漢字", "🎈", "ﬁ", "’", "İ", "ſ", "Σς ", "12 3", "...!?", "\u200b", "\u2028", "\x1c", "x" * 40, "\ufeff"),
)


def token_count(text: str) -> int:
    return 2 + len(TOKENIZER.encode(text))


@pytest.mark.slow
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.lists(st.sampled_from(ODD_PIECES)).map("".join), max_size=9)
)
@settings(deadline=None, max_examples=40)
def test_counts_are_those_of_open_clip(texts):
    for limit in {token_count(text) for text in texts} | {1, 17}:
        assert fit_tokens(texts, limit).tolist() == [token_count(text) <= limit for text in texts]
        assert fit_tokens(texts, limit - 1).tolist() == [token_count(text) < limit for text in texts]


@pytest.mark.parametrize(("words", "fits"), [(15, True), (16, False)])
def test_start_and_end_count(words, fits):
    assert fit_tokens([" ".join(["ball"] * words)], 17).tolist() == [fits]


def test_endless_words_are_too_long_at_once():
    assert fit_tokens(["x" * 10**6, "x1" * 10**6, "ab " * 10**6, "the"], 17).tolist() == [False, False, False, True]
