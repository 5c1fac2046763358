"""Names of masks: the noun that candidates agree on, and whether the scorer recognises it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pseudo_ris.distinctiveness.nouns import content_words, is_plural


@dataclass(frozen=True, eq=False)
class Naming:
    """The nouns of an image and how well each fits each mask.

    nouns: the K distinct head nouns of all candidates, in lower case. agreement: float64 [N, K], share of a mask's candidates
    that have the noun. recognition: float64 [N, K] in (0, 1], exp(m - largest m of the mask) for CLIP's logits m of the masked
    crop and the noun prompts: 1 for the noun that CLIP prefers, 1/e for one whose logit is 1 lower.
    """

    nouns: tuple[str, ...]
    agreement: np.ndarray
    recognition: np.ndarray

    @classmethod
    def of(cls, nouns: Sequence[Sequence[str]], masked_logits: np.ndarray) -> Naming:
        """The naming of N masks.

        nouns: for each mask the head nouns of its candidates. masked_logits: float [N, T], CLIP's logits of each masked crop
        and each candidate's noun prompt, for the T candidates in the order of `nouns`.
        """
        said = [[noun.lower() for noun in own] for own in nouns]
        columns: dict[str, int] = {}
        for place, noun in enumerate(noun for own in said for noun in own):
            columns.setdefault(noun, place)
        logits = np.asarray(masked_logits, np.float64)[:, list(columns.values())]
        recognition = np.exp(logits - logits.max(axis=1, keepdims=True)) if columns else logits
        return cls(tuple(columns), agreement_of(said, tuple(columns)), recognition)

    def members(self, sure: float, recognised: float, possible: float) -> dict[str, np.ndarray]:
        """The masks that are called by each noun of which it is sure which masks have it: noun -> indices, int64 ascending.

        A mask is called by a noun if `sure` of its candidates have it and its recognition is at least `recognised`. It may be
        called so if `possible` of its candidates have the noun or the scorer prefers it. Left out are nouns that a mask may but
        need not have, plurals, and what is no single word.
        """
        called = (self.agreement >= sure) & (self.recognition >= recognised)
        unsure = ((self.agreement >= possible) | (self.recognition == 1)) & ~called
        return {
            noun: np.flatnonzero(called[:, column])
            for column, noun in enumerate(self.nouns)
            if called[:, column].any() and not unsure[:, column].any() and noun.isalpha() and not is_plural(noun)
        }


def agreement_of(said: Sequence[Sequence[str]], nouns: Sequence[str]) -> np.ndarray:
    """Share of each mask's candidates that have each noun, float64 [N, K]. said: the head nouns of each mask's candidates."""
    counts = [Counter(own) for own in said]
    shares = np.array([[count[noun] / max(1, count.total()) for noun in nouns] for count in counts])
    return shares.reshape(len(said), len(nouns))


def word_agreement(texts: Sequence[str], nouns: Sequence[str]) -> list[float]:
    """For each text of a mask the smallest share of the mask's texts that say one of its content words, but for its head noun.

    1 when the text has no other content word. texts, nouns: the mask's candidates and their head nouns.
    """
    said = [content_words(text) for text in texts]
    counts = Counter(word for words in said for word in words)
    return [
        min((counts[word] / len(texts) for word in words - {noun.lower()}), default=1.0)
        for words, noun in zip(said, nouns, strict=True)
    ]
