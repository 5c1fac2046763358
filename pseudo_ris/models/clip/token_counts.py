"""Counts the CLIP tokens of a sentence, without torch and without making the tokens."""

from __future__ import annotations

import gzip
import html
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import ftfy
import numpy as np
import regex

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
# The file lists more merges than CLIP's vocabulary of 49,408 has room for beside 2 x 256 letters and the two special tokens.
MERGES = 49408 - 2 * 256 - 2
WORD_END = "</w>"
SPECIAL = ("<start_of_text>", "<end_of_text>")
START_AND_END = 2
WORD = regex.compile("|".join(SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def fit_tokens(texts: Iterable[str], limit: int) -> np.ndarray:
    """Whether each text is of at most `limit` tokens, start and end included: bool [texts].

    The tokens are those of open_clip's SimpleTokenizer: mended text, lower case, byte pairs merged within words.
    """
    of_chunk = _ChunkCounts()
    return np.array([_fits(text, limit, of_chunk) for text in texts], bool)


def _fits(text: str, limit: int, of_chunk: _ChunkCounts) -> bool:
    chunks = _mended(text).lower().split()
    # A token has a longest length, so endless chunks need not be merged to be found too long.
    if sum(map(len, chunks)) > limit * _longest_token():
        return False
    return START_AND_END + sum(map(of_chunk.__getitem__, chunks)) <= limit


def _mended(text: str) -> str:
    if text.isascii() and text.isprintable() and "&" not in text:  # nothing for ftfy to fix; the check is 100 times as fast
        return text
    return html.unescape(html.unescape(ftfy.fix_text(text)))


class _ChunkCounts(dict[str, int]):
    """Characters between spaces -> the number of their tokens, counted on first use: no token spans a space."""

    def __missing__(self, chunk: str) -> int:
        count = self[chunk] = sum(1 if word in SPECIAL else _count(word) for word in WORD.findall(chunk))
        return count


def _count(word: str) -> int:
    """Tokens of a word."""
    parts = [_letters()[byte] for byte in word.encode()]
    parts[-1] += WORD_END
    ranks = _merge_ranks()
    while len(parts) > 1 and (best := min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))) in ranks:
        parts = _merged(parts, best)
    return len(parts)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with each occurrence of the pair, from the left, made one part."""
    merged: list[str] = []
    place = 0
    while place < len(parts):
        width = 2 if tuple(parts[place : place + 2]) == pair else 1
        merged.append("".join(parts[place : place + width]))
        place += width
    return merged


@cache
def _letters() -> list[str]:
    """The letter that stands for each byte in the merges file: itself where it can be seen, else one from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


@cache
def _merge_ranks() -> dict[tuple[str, str], int]:
    """Byte pairs that are merged -> when, 0 first. The file is open_clip's; importing that would bring torch."""
    spec = find_spec("open_clip")
    path = Path(spec.submodule_search_locations[0]) / MERGES_FILE
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    return {tuple(line.split()): rank for rank, line in enumerate(lines[1 : 1 + MERGES])}


@cache
def _longest_token() -> int:
    """Bytes of the longest token."""
    return max(len((left + right).removesuffix(WORD_END)) for left, right in _merge_ranks())
