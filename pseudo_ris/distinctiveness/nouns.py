"""Head nouns: what thing a caption is about. The only module that imports spaCy."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import UserError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

SPACY_MODEL = "en_core_web_lg"
# Parts of the model that neither the parse nor the noun chunks depend on.
NOT_NEEDED = ("ner", "lemmatizer")


NounRule = Literal["any_child", "first_child"]


class NounFinder(Protocol):
    """Captions -> the head noun of each. `name` tells the user which finder is at work."""

    name: str

    def __call__(self, sentences: Sequence[str]) -> list[str]: ...


def with_noun_finder(scoring: ScoringConfig) -> ScoringConfig:
    """`scoring` with the `noun_finder` "auto" replaced by what this machine has: "spacy" with its model, else "rules".

    The command that starts a run does this once and hands its workers the result, so that all of them find nouns alike.
    """
    if scoring.noun_finder != "auto":
        return scoring
    return replace(scoring, noun_finder="rules" if find_spec(SPACY_MODEL) is None else "spacy")


def make_noun_finder(scoring: ScoringConfig) -> NounFinder:
    """The head-noun finder that the settings name. Raises UserError for "spacy" without en_core_web_lg."""
    scoring = with_noun_finder(scoring)
    if scoring.noun_finder == "rules":
        return RuleNounFinder()
    try:
        import spacy

        return SpacyNounFinder(spacy.load(SPACY_MODEL, exclude=NOT_NEEDED), scoring.noun_rule)
    except (ImportError, OSError) as error:
        raise UserError(
            f"scoring.noun_finder: spaCy's model {SPACY_MODEL} is not installed on {platform.node()}; "
            f"run there: bash scripts/download_weights.sh {SPACY_MODEL} (or set noun_finder: rules)"
        ) from error


def noun_prompt(noun: str) -> str:
    """The CLIP prompt of a head noun (Pseudo-RIS, sec. 3.3); no second article when `noun` brings its own, in lower case."""
    words = noun.split()
    article = "" if words and words[0] in {"a", "an", "the"} else "a "
    return f"a photo of {article}{noun}".rstrip()


class SpacyNounFinder:
    """Head nouns from spaCy's dependency parse, the paper's way."""

    name = f"spaCy {SPACY_MODEL}"

    def __init__(self, parser: Language, rule: NounRule) -> None:
        self.parser, self.rule = parser, rule

    def __call__(self, sentences: Sequence[str]) -> list[str]:
        """Head noun of each sentence, see head_noun_of_parse."""
        return [head_noun_of_parse(doc, self.rule) for doc in self.parser.pipe(sentences)]


def head_noun_of_parse(doc: Doc, rule: NounRule) -> str:
    """Head noun of a parsed caption.

    The first root decides. If it lies in a noun chunk, the noun is that chunk's root. Else the rule "first_child" (the release)
    takes the root of the chunk in which the root's first child lies; no other child is looked at, so that "there is a dog" has
    no noun. "any_child" takes the root of the chunk of the first child that lies in one. Without a noun the whole caption is
    returned.
    """
    chunk_root = {token.i: chunk.root for chunk in doc.noun_chunks for token in chunk}
    root = next((token for token in doc if token.head.i == token.i), None)
    if root is None:
        return doc.text.strip()
    children = list(root.children)
    for token in (root, *(children[:1] if rule == "first_child" else children)):
        if token.i in chunk_root:
            return chunk_root[token.i].text
    return doc.text.strip()


# The words RuleNounFinder knows, lower case. They need not be complete: an unknown word counts as a noun, and a phrase's last
# noun is its head.
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words("a an the this that these those his her its their my our your some any each every another no")
PRONOUNS = _words("i he she it they we you there here what him them us me itself himself herself themselves")
NUMERALS = _words(
    "one two three four five six seven eight nine ten eleven twelve both several many few all most more much half first "
    "second third"
)
ADVERBS = _words(
    "very really too so not almost also just quite rather together away close closeup close-up close-ups closeups now then "
    "still only even back forward next upside partially slightly right-hand left-hand"
)
ADJECTIVES = _words(
    "red green blue yellow orange purple pink brown black white gray grey cyan magenta beige tan maroon turquoise golden "
    "silver gold teal violet navy blonde blond colorful colourful multicolored dark bright pale "
    "big small large little tiny huge long short tall wide narrow thin thick fat giant high low "
    "striped stripy spotted dotted plain checkered checked plaid solid patterned "
    "old new young beautiful pretty cute lovely nice clean dirty wet dry empty full open busy happy sad fluffy furry fuzzy "
    "wooden metallic round rectangular triangular flat ripe fresh hot cold warm cool sunny cloudy snowy grassy "
    "left right left-most right-most leftmost rightmost upper lower bottom middle central nearest closest farthest other "
    "same different single double various male female adult wild tropical electric modern ancient vintage"
)
PREPOSITIONS = _words(
    "of in on at with by for from to near beside besides behind under underneath beneath over above below between among "
    "amongst amid against along alongside across around round into onto through throughout up down off out inside outside "
    "toward towards without within upon atop during like past per via about after before beyond opposite despite"
)
CONJUNCTIONS = _words("and or but nor plus & yet")
RELATIVE_WORDS = _words("that which who whom whose where when while as because if whether than why how wherein")
VERBS = _words(
    "is are was were be been being am isn't aren't has have had having do does did can could will would may might must "
    "shall should sits sat stands stood wears wore worn holds held rides rode ridden runs ran walks looks eats ate eaten "
    "lies lay lays laid jumps plays flies flew flown swims swam sleeps slept carries gets got goes went gone takes took "
    "taken makes shows shown appears appear leans waits grazes drives drove driven hangs hung catches caught throws "
    "threw thrown hits poses reads talks uses seen kept put written bent contains "
    "says seems belongs comes came moves faces attends performs arrives sings"
)
BASE_VERBS = _words(
    "play run sit stand walk look eat lie ride hold graze swim fly sleep wait wear jump drive hang pose talk ski surf swing"
)
ING_NOUNS = _words(
    "building buildings ceiling painting clothing wing ring king string thing railing awning evening morning sling spring "
    "frosting topping icing dressing pudding dumpling duckling sibling crossing parking wedding swing lightning "
    "earring bedding siding flooring lettering stuffing gosling sterling fencing drawing carving landing opening"
)
IRREGULAR_PARTICIPLES = _words("made drawn woven grown built lit")
ED_NOUNS = _words("bed shed seed weed sled reed moped feed breed speed bobsled hotbed flatbed seabed newlywed deed")
LY_NOUNS = _words("fly butterfly dragonfly family belly jelly lily bully assembly anomaly italy july gully holly trolley")
PLURALS = _words("people men women children sheep cattle police geese mice fish deer kids")
FRAMINGS = _words("photo photos photograph picture pictures image images view shot snapshot")

FUNCTION_WORDS = DETERMINERS | PRONOUNS | PREPOSITIONS | CONJUNCTIONS | RELATIVE_WORDS | VERBS | ADVERBS | FRAMINGS

_TOKEN = re.compile(r"['’]s\b|[^\W_]+(?:['’\-][^\W_]+)*|&|[^\w\s]")


class RuleNounFinder:
    """Head nouns by word lists and endings; needs no download."""

    name = "rules"

    def __call__(self, sentences: Sequence[str]) -> list[str]:
        """Head noun of each sentence, see head_noun_by_rules."""
        return [head_noun_by_rules(sentence) for sentence in sentences]


def head_noun_by_rules(sentence: str) -> str:
    """Last word of the first noun phrase of `sentence`; the whole sentence when it has none.

    A noun phrase runs up to the first preposition, verb form, conjunction, relative word or punctuation mark.
    Stretches without a noun ("close up of ...", "there is ...") are passed over, and so is the frame of a picture
    ("a photo of ..."), which says nothing about the thing shown. "black and white cat" is one phrase: a conjunction
    or comma between adjectives does not end it.
    """
    tokens = _TOKEN.findall(sentence)
    spoken = [token.lower().replace("’", "'") for token in tokens]
    spare = None
    start = 0
    while start < len(tokens):
        end, head = _read_phrase(spoken, start)
        framing = head is not None and spoken[head] in FRAMINGS and spoken[end : end + 1] == ["of"]
        if head is not None and not framing:
            return tokens[head]
        if spare is None:
            spare = head if framing else _last_adjective(spoken, start, end)
        start = end + 1
    return sentence.strip() if spare is None else tokens[spare]


def content_words(sentence: str) -> set[str]:
    """The words of a sentence that say something of a thing, in lower case: nouns, adjectives and the like."""
    return {word for word in spoken_words(sentence) if not _is_punctuation(word)} - FUNCTION_WORDS


def spoken_words(sentence: str) -> list[str]:
    """The words and punctuation marks of a sentence, in lower case."""
    return [word.lower() for word in _TOKEN.findall(sentence)]


def _read_phrase(spoken: list[str], start: int) -> tuple[int, int | None]:
    """The stretch of words that starts at `start`: index of the word that ends it, index of its head or None."""
    noun = None
    determined = False
    adjective = None
    for index in range(start, len(spoken)):
        word = spoken[index]
        if _ends_phrase(spoken, index, start, noun, adjective):
            return index, noun if noun is not None else (adjective if determined else None)
        if word in DETERMINERS:
            determined = True
        elif _is_adjective(word, spoken, index):
            adjective = index
        elif not (word in PRONOUNS or word in ADVERBS or _is_punctuation(word) or word in CONJUNCTIONS):
            noun = index
    return len(spoken), noun if noun is not None else (adjective if determined else None)


def _ends_phrase(spoken: list[str], index: int, start: int, noun: int | None, adjective: int | None) -> bool:
    """Whether the word at `index` ends the stretch from `start`, in which `noun` and `adjective` came last so far."""
    word = spoken[index]
    if word == "'s":
        return noun is None  # "a man 's hand" goes on, "it 's a dog" starts anew
    if _is_punctuation(word) or word in CONJUNCTIONS:
        joins_adjectives = noun is None and adjective == index - 1
        return not joins_adjectives
    if word in PREPOSITIONS or word in VERBS:
        return True
    if word in RELATIVE_WORDS:
        return not (word == "that" and index == start)
    if noun is None:
        return False
    if word in DETERMINERS or word in PRONOUNS or word in ADVERBS or _is_adverb(word):
        return True
    if word.endswith("ing") and len(word) > 4 and word not in ING_NOUNS:
        return True
    if _is_participle(word):
        # "a snow covered hill" goes on, "a dog covered in mud" does not.
        return not _is_plain(spoken[index + 1]) if index + 1 < len(spoken) else True
    return word in BASE_VERBS and is_plural(spoken[index - 1])


def _is_punctuation(word: str) -> bool:
    return not word[0].isalnum() and word != "&"


def _is_participle(word: str) -> bool:
    regular = word.endswith("ed") and len(word) > 3 and word not in ED_NOUNS
    return regular or word in IRREGULAR_PARTICIPLES


def _is_adverb(word: str) -> bool:
    return word.endswith("ly") and len(word) > 3 and word not in LY_NOUNS


def is_plural(word: str) -> bool:
    """Whether a noun looks like a plural, by its ending."""
    return word in PLURALS or (word.endswith("s") and not word.endswith("ss"))


def _is_plain(word: str) -> bool:
    """Whether a word may stand inside a noun phrase, after its start."""
    stops = (PREPOSITIONS, VERBS, CONJUNCTIONS, RELATIVE_WORDS, DETERMINERS, PRONOUNS, ADVERBS)
    return not (_is_punctuation(word) or _is_adverb(word) or word.endswith("ing") or any(word in stop for stop in stops))


def _is_adjective(word: str, spoken: list[str], index: int) -> bool:
    """Whether the word at `index` describes a noun to come rather than being one."""
    if word in ADJECTIVES or word in NUMERALS or word.isdigit() or _is_adverb(word) or _is_participle(word):
        return True
    moving = word.endswith("ing") and len(word) > 4 and word not in ING_NOUNS
    return moving and index + 1 < len(spoken)


def _last_adjective(spoken: list[str], start: int, end: int) -> int | None:
    return next((index for index in range(end - 1, start - 1, -1) if spoken[index] in ADJECTIVES), None)
