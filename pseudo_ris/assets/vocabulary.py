"""The embedded models' own vocabulary: a small BPE in which every word of the drawn scenes' grammar is one token."""

from __future__ import annotations

import gzip
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
BPE_PATH = WEIGHTS / "bpe_demo.txt.gz"
WORDS_PATH = WEIGHTS / "words.txt"
BYTE_TOKENS = 512  # each of the 256 bytes, inside a word and at its end
SPECIAL_TOKENS = 2  # start and end, the last two ids

Merge = tuple[str, str]


def grammar_words() -> list[str]:
    """The words of the drawn scenes' expressions, sorted. Their places are token ids of the demo RIS models."""
    return WORDS_PATH.read_text(encoding="utf-8").split()


def read_merges(path: Path = BPE_PATH) -> list[Merge]:
    """Byte-pair merges of a file in the format of open_clip's SimpleTokenizer."""
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1:]
    return [(left, right) for left, right in (line.split() for line in lines)]


def vocabulary_size(path: Path = BPE_PATH) -> int:
    """Tokens of the tokenizer that reads the merges at `path`."""
    return BYTE_TOKENS + len(read_merges(path)) + SPECIAL_TOKENS
