"""Learns the BPE vocabulary of the embedded models from the words of the grammar (`pseudo-ris lab learn-vocabulary`)."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from pseudo_ris.assets.vocabulary import Merge
from pseudo_ris.world.grammar import WORDS

PROMPT_WORDS = ("a", "an", "of", "photo", "the")  # of the head-noun prompt, "a photo of a NOUN"
HEADER = "#version: pseudo-ris demo"
END_OF_WORD = "</w>"


def vocabulary_words() -> list[str]:
    """Returns the words that become one token each, sorted: those of the grammar and of the noun prompt."""
    return sorted({*WORDS, *PROMPT_WORDS})


def learn_merges(words: Iterable[str]) -> list[Merge]:
    """Learns byte-pair merges until every word is one token (Sennrich et al. 2016, sec. 3.2); returns them in order.

    words: lower-case ASCII letters only, all with the same frequency. The most frequent pair of adjacent pieces is merged
    first; ties are broken alphabetically, so the result depends on the set of words alone. Raises ValueError on a word with
    other characters, which the tokenizer would split before merging.
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
    """Writes merges in the format of open_clip's SimpleTokenizer: a header line, then one pair per line, gzipped.

    The same merges give the same bytes, because the archive contains no time or name. There is no final newline, because the
    tokenizer would read it as a token.
    """
    text = "\n".join([HEADER, *(" ".join(merge) for merge in merges)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _apply(merge: Merge, pieces: list[str]) -> list[str]:
    """Returns `pieces` with every occurrence of the pair joined, from left to right."""
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
