"""Expressions of several masks ("the two red cups") and of none ("the red cup" where no cup is red), as gRefCOCO has.

gRefCOCO (Liu et al., CVPR 2023) calls them multi-target and no-target expressions; its no-target expressions are deceptive:
their words fit other objects of the image. Here both are composed from what the candidates of an image's masks agree on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from pseudo_ris.distinctiveness.naming import Naming, agreement_of
from pseudo_ris.distinctiveness.nouns import FUNCTION_WORDS, NUMERALS, content_words, spoken_words
from pseudo_ris.records import MaskCaptions


@dataclass(frozen=True)
class GroupRules:
    """When an expression of several or of no masks is sure enough.

    Args:
        sure: share of a mask's candidates that must have a head noun, so that the mask is called by it.
        recognised: recognition that this noun must have.
        possible: share of a mask's candidates from which on a noun or attribute may be the mask's.
        said: share of a mask's candidates that must say an attribute before the noun, so that the mask has it.
        largest: number of masks that an expression may mean.
        crowded: number of masks of an image above which it gets no expression of several: where stage 1 misses a thing, numbers
            are wrong, and it misses more of them in crowded images.
    """

    sure: float = 0.75
    recognised: float = 0.3
    possible: float = 0.02
    said: float = 0.3
    largest: int = 3
    crowded: int = 5


@dataclass(frozen=True)
class NamedMask:
    """The candidates of a mask, with the head noun of each and the noun's recognition (see naming.Naming)."""

    seg_id: int
    texts: tuple[str, ...]
    nouns: tuple[str, ...]
    recognition: tuple[float, ...]

    @classmethod
    def of(cls, captions: MaskCaptions) -> NamedMask:
        """The candidates of a mask, all of them."""
        records = captions.candidates
        return cls(
            captions.seg_id,
            tuple(record.text for record in records),
            tuple(record.noun for record in records),
            tuple(record.recognition for record in records),
        )

    @cached_property
    def mentioned(self) -> dict[str, float]:
        """Share of the candidates that say each content word anywhere."""
        return _shares(map(content_words, self.texts), len(self.texts))

    @cached_property
    def attributes(self) -> dict[str, float]:
        """Share of the candidates that say each word right before their head noun, or before another such word."""
        before = (set(attributes_of(text, noun)) for text, noun in zip(self.texts, self.nouns, strict=True))
        return _shares(before, len(self.texts))


@dataclass(frozen=True)
class GroupExpression:
    """An expression and the seg_ids of the masks that it means, in the image's order; () if it means none."""

    text: str
    targets: tuple[int, ...]


def group_expressions(masks: Sequence[NamedMask], rules: GroupRules | None = None) -> list[GroupExpression]:
    """Returns the expressions of several and of no masks of an image, without duplicates.

    A noun is used only if it is sure which masks have it (see `Naming.members`); an attribute only if every mask called by the
    noun surely has it or surely has not. The attribute of a no-target expression is surely that of a mask with another noun.
    """
    rules = rules or GroupRules()
    found: list[GroupExpression] = []
    for noun, members in _naming(masks).members(rules.sure, rules.recognised, rules.possible).items():
        called = [masks[index] for index in members]
        others = [mask for index, mask in enumerate(masks) if index not in members]
        if len(masks) <= rules.crowded:
            found += _of_several(noun, called, rules)
        found += _of_none(noun, called, others, rules)
    return list(dict.fromkeys(found))


def _naming(masks: Sequence[NamedMask]) -> Naming:
    """As far as the candidates tell: a noun that no candidate of a mask has is not recognised there."""
    said = [[noun.lower() for noun in mask.nouns] for mask in masks]
    nouns = tuple(dict.fromkeys(noun for own in said for noun in own))
    recognition = np.zeros((len(masks), len(nouns)))
    for row, own, mask in zip(recognition, said, masks, strict=True):
        for noun, value in zip(own, mask.recognition, strict=True):
            row[nouns.index(noun)] = value
    return Naming(nouns, agreement_of(said, nouns), recognition)


def _of_several(noun: str, called: Sequence[NamedMask], rules: GroupRules) -> Iterator[GroupExpression]:
    if 2 <= len(called) <= rules.largest:
        yield GroupExpression(_plural("", noun, len(called)), tuple(mask.seg_id for mask in called))
    for word, having in having_attributes(called, rules):
        if 2 <= len(having) <= rules.largest:
            yield GroupExpression(_plural(word, noun, len(having)), tuple(mask.seg_id for mask in having))


def having_attributes(called: Sequence[NamedMask], rules: GroupRules) -> Iterator[tuple[str, list[NamedMask]]]:
    """Each attribute of which it is sure which of the masks have it, and these masks."""
    for word in _attributes(called, rules):
        having = [mask for mask in called if _has(mask, word, rules)]
        if having == [mask for mask in called if _may_have(mask, word, rules)]:
            yield word, having


def _of_none(
    noun: str, called: Sequence[NamedMask], others: Sequence[NamedMask], rules: GroupRules
) -> Iterator[GroupExpression]:
    for word in _attributes(others, rules):
        if not any(_may_have(mask, word, rules) for mask in called):
            yield GroupExpression(f"the {word} {noun}", ())


def _attributes(masks: Sequence[NamedMask], rules: GroupRules) -> list[str]:
    """The attributes that one of the masks surely has."""
    return list(dict.fromkeys(word for mask in masks for word in mask.attributes if _has(mask, word, rules)))


def _has(mask: NamedMask, word: str, rules: GroupRules) -> bool:
    return mask.attributes.get(word, 0) >= rules.said


def _may_have(mask: NamedMask, word: str, rules: GroupRules) -> bool:
    return mask.mentioned.get(word, 0) >= rules.possible


def attributes_of(text: str, noun: str) -> list[str]:
    """Returns the content words that stand together right before a text's head noun, in lower case."""
    words = spoken_words(text)
    if noun.lower() not in words:
        return []
    before = words[: words.index(noun.lower())]
    start = next((index + 1 for index in range(len(before) - 1, -1, -1) if not _is_attribute(before[index])), 0)
    return before[start:]


def _is_attribute(word: str) -> bool:
    return word.isalpha() and word not in FUNCTION_WORDS and word not in NUMERALS


def _plural(attribute: str, noun: str, number: int) -> str:
    english = _english()
    return " ".join(word for word in ("the", english.number_to_words(number), attribute, english.plural_noun(noun)) if word)


@cache
def _english() -> Any:
    import inflect  # 0.2 s

    return inflect.engine()


def _shares(sets: Iterator[set[str]], number: int) -> dict[str, float]:
    return {word: count / number for word, count in Counter(word for each in sets for word in each).items()}
