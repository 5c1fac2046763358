"""Learns the BPE vocabulary of the embedded models from the words of the grammar.

Run it after changing the grammar's words, then retrain CoCa and CLIP.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pseudo_ris.assets.vocabulary import BPE_PATH, WORDS_PATH, vocabulary_size
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.lab.learn_vocabulary import learn_merges, vocabulary_words, write_merges
from pseudo_ris.world.grammar import WORDS


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab learn-vocabulary`; returns the exit code. Raises UserError."""
    make_parser().parse_args(argv)
    WORDS_PATH.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    write_merges(learn_merges(vocabulary_words()), BPE_PATH)
    sys.stdout.write(f"{BPE_PATH}: {len(vocabulary_words())} words, {vocabulary_size()} tokens\n")
    return 0


def make_parser() -> CommandParser:
    return CommandParser("lab learn-vocabulary", __doc__)
