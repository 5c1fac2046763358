"""The demo models' own BPE vocabulary: small, and every word of the scene grammar is one token.

Run `python -m pseudo_ris.demo.vocabulary` after a change of the grammar's words, then retrain CoCa and CLIP.
"""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from pseudo_ris.demo.grammar import WORDS

BPE_PATH = Path(__file__).parent / "weights" / "bpe_demo.txt.gz"

PROMPT_WORDS = ("a", "an", "of", "photo", "the")  # of the head-noun prompt, "a photo of a NOUN"
HEADER = "#version: pseudo-ris demo"
BYTE_TOKENS = 512  # each of the 256 bytes, inside a word and at its end
SPECIAL_TOKENS = 2  # start and end, the last two ids
END_OF_WORD = "</w>"

Merge = tuple[str, str]


def vocabulary_words() -> list[str]:
    """Words that are one token each, sorted: the grammar's and the prompt's."""
    return sorted({*WORDS, *PROMPT_WORDS})


def learn_merges(words: Iterable[str]) -> list[Merge]:
    """Byte-pair merges, in the order of learning, until every word is one token (Sennrich et al. 2016, sec. 3.2).

    words: distinct, lower case, ASCII letters only, all of the same frequency. The most frequent pair of neighbouring pieces is
    merged first, and among equals the alphabetically first, so that the result depends on the set of words only.
    Raises ValueError on a word with other characters: the tokenizer would split it before merging.
    """
    segmented = []
    for word in sorted(set(words)):
        if not (word.isascii() and word.isalpha() and word.islower()):
            raise ValueError(f"word {word!r}: only lower-case ASCII letters can become one token")
        segmented.append([*word[:-1], word[-1] + END_OF_WORD])
    merges: list[Merge] = []
    while True:
        counts = Counter(pair for pieces in segmented for pair in pairwise(pieces))
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        segmented = [_apply(best, pieces) for pieces in segmented]


def write_merges(merges: Iterable[Merge], path: Path) -> None:
    """Writes merges as open_clip's SimpleTokenizer reads them: a header line, then one pair a line, gzipped.

    The same merges give the same bytes: the archive holds no time and no name. There is no final newline, which the
    tokenizer would take for a token.
    """
    text = "\n".join([HEADER, *(" ".join(merge) for merge in merges)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def read_merges(path: Path = BPE_PATH) -> list[Merge]:
    """Merges of a file that `write_merges` wrote."""
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1:]
    return [(left, right) for left, right in (line.split() for line in lines)]


def vocabulary_size(path: Path = BPE_PATH) -> int:
    """Tokens of the tokenizer that reads the merges at `path`."""
    return BYTE_TOKENS + len(read_merges(path)) + SPECIAL_TOKENS


def _apply(merge: Merge, pieces: list[str]) -> list[str]:
    """`pieces` with every occurrence of the pair joined, from left to right."""
    joined: list[str] = []
    position = 0
    while position < len(pieces):
        if tuple(pieces[position : position + 2]) == merge:
            joined.append("".join(merge))
            position += 2
        else:
            joined.append(pieces[position])
            position += 1
    return joined


if __name__ == "__main__":
    write_merges(learn_merges(vocabulary_words()), BPE_PATH)
    sys.stdout.write(f"{BPE_PATH}: {len(vocabulary_words())} words, {vocabulary_size()} tokens\n")
