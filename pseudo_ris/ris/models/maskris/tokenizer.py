"""Sentences as BERT's word pieces: the drawn world's own small vocabulary, or a published one."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers.implementations import BertWordPieceTokenizer

from pseudo_ris.assets.vocabulary import grammar_words
from pseudo_ris.errors import UserError

PADDING, UNKNOWN, START, END, HIDDEN = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUED = "##"


class BertWords:
    """See model.Tokenizer. Lower case, accents off, as bert-base-uncased.

    Args:
        pieces: word pieces, SPECIAL among them; their places are their ids. See demo_vocabulary and read_vocabulary.
        length: see model.Tokenizer.
        keep_end: see ModelConfig.
    """

    def __init__(self, pieces: Sequence[str], length: int, keep_end: bool = True) -> None:
        self.pieces = list(pieces)
        ids = {piece: number for number, piece in enumerate(pieces)}
        self.special_ids = tuple(ids[piece] for piece in SPECIAL)
        self.mask_id = ids[HIDDEN]
        self.vocabulary = len(pieces)
        self.length = length
        self._words = BertWordPieceTokenizer(ids)
        if keep_end:
            self._words.enable_truncation(length)
        self._words.enable_padding(length=length, pad_id=ids[PADDING])

    def __call__(self, sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [N, L] and attention bool [N, L]."""
        # One by one: a batch would start threads, after which the loader's workers could not be forked safely.
        read = [self._words.encode(sentence) for sentence in sentences]
        tokens = torch.tensor([each.ids[: self.length] for each in read], dtype=torch.int64)
        return tokens, torch.tensor([each.attention_mask[: self.length] for each in read], dtype=torch.bool)


def demo_vocabulary() -> list[str]:
    """The special pieces, all printable ASCII characters, each also inside a word, and the words of the grammar."""
    characters = string.ascii_lowercase + string.digits
    pieces = [*SPECIAL, *characters, *(CONTINUED + each for each in characters), *string.punctuation]
    return [*pieces, *(word for word in grammar_words() if word not in characters)]


def read_vocabulary(path: Path) -> list[str]:
    """The pieces of a vocab.txt, whose line numbers are their ids. Raises UserError that names the file and what it lacks."""
    try:
        pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"model.vocabulary: {path} cannot be read ({error}); give demo or a vocab.txt of BERT's") from error
    missing = [piece for piece in SPECIAL if piece not in pieces]
    if missing:
        raise UserError(f"model.vocabulary: {path} has no line {missing[0]}; give demo or a vocab.txt of BERT's")
    if len(set(pieces)) < len(pieces):
        raise UserError(f"model.vocabulary: {path} has the same piece on two lines; give the vocab.txt as it was published")
    return pieces
