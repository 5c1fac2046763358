import importlib.util

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from pseudo_ris.demo.grammar import full_caption, sample_caption
from pseudo_ris.demo.scenes import draw_scene
from pseudo_ris.distinctiveness.nouns import (
    RuleNounFinder,
    SpacyNounFinder,
    head_noun_of_parse,
    make_noun_finder,
    noun_prompt,
)
from pseudo_ris.errors import UserError

CAPTIONS = [
    ("two dogs playing in the snow", "dogs"),
    ("the man who is riding a red bike", "man"),
    ("a red fire truck parked on the street", "truck"),
    ("close up of a cat", "cat"),
    ("a close up of a cat's face", "face"),
    ("A Dog.", "Dog"),
    ("a black and white cat", "cat"),
    ("a big, red truck", "truck"),
    ("a man and a woman sitting on a bench", "man"),
    ("the flying bird", "bird"),
    ("a tall building with a clock", "building"),
    ("a snow covered mountain", "mountain"),
    ("a dog covered in mud", "dog"),
    ("two men play tennis", "men"),
    ("there is a cat on the sofa", "cat"),
    ("this is a picture of a bowl of soup", "bowl"),
    ("a photo of the husky", "husky"),
    ("one of the dogs", "dogs"),
    ("an orange on a table", "orange"),
    ("an orange and white kitten", "kitten"),
    ("the red one on the left", "one"),
    ("the red on the left", "red"),
    ("that zebra near the tree", "zebra"),
    ("a woman that holds an umbrella", "woman"),
    ("a girl in a red dress", "girl"),
    ("standing elephants", "elephants"),
    ("a brightly colored kite", "kite"),
    ("a café au lait", "lait"),
    ("кот на столе", "столе"),
    ("the t-shirt worn by a boy", "t-shirt"),
    ("a bed", "bed"),
    ("3 cows grazing", "cows"),
    ("a bus is driving down the road", "bus"),
    ("a parking lot", "lot"),
    ("small blue striped umbrella", "umbrella"),
    ("large green mushroom with spots", "mushroom"),
    ("a cat, sleeping", "cat"),
    ("people walking", "people"),
    ("in the snow", "snow"),
    ("a traffic light over a street", "light"),
    ("a horse drawn carriage", "carriage"),
    ("a kite made of paper", "kite"),
    ("a man 's hand", "hand"),
    ("it 's a dog", "dog"),
    ("a half-eaten sandwich", "sandwich"),
    ("sheep are standing in a pen", "sheep"),
    ("A GIRAFFE EATING LEAVES", "GIRAFFE"),
    ("silver car, parked near curb", "car"),
    ("the second from the left", "second"),
]


@pytest.mark.parametrize(("caption", "noun"), CAPTIONS)
def test_rules_find_the_head_noun(caption, noun):
    assert RuleNounFinder()(caption) == noun


@pytest.mark.parametrize("caption", ["", "   ", "...", "of", "is", "and and", "-", "\n"])
def test_rules_return_the_caption_itself_when_it_has_no_noun(caption):
    assert RuleNounFinder()(caption) == caption.strip()


@pytest.mark.parametrize(
    ("noun", "prompt"),
    [
        ("dog", "a photo of a dog"),
        ("apple", "a photo of a apple"),
        ("the dog", "a photo of the dog"),
        ("A dog", "a photo of A dog"),
        ("an", "a photo of an"),
        ("theatre", "a photo of a theatre"),
        ("ant", "a photo of a ant"),
        ("", "a photo of a"),
    ],
)
def test_prompt_adds_an_article_unless_the_noun_brings_one(noun, prompt):
    assert noun_prompt(noun) == prompt


def parse(words, heads, deps, pos):
    return Doc(spacy.blank("en").vocab, words=words.split(), heads=heads, deps=deps.split(), pos=pos.split())


def test_parse_whose_root_is_in_a_chunk_gives_that_chunks_root():
    doc = parse(
        "a red fire truck on the street",
        [3, 3, 3, 3, 3, 6, 4],
        "det amod compound ROOT prep det pobj",
        "DET ADJ NOUN NOUN ADP DET NOUN",
    )
    assert head_noun_of_parse(doc) == "truck"


def test_parse_whose_root_is_a_verb_gives_the_chunk_of_its_first_child():
    doc = parse("two dogs chase a ball", [1, 2, 2, 4, 2], "nummod nsubj ROOT det dobj", "NUM NOUN VERB DET NOUN")
    assert head_noun_of_parse(doc) == "dogs"


def test_parse_skips_children_outside_chunks():
    doc = parse("quickly chase a ball", [1, 1, 3, 1], "advmod ROOT det dobj", "ADV VERB DET NOUN")
    assert head_noun_of_parse(doc) == "ball"


def test_parse_with_two_sentences_takes_the_first_root():
    doc = parse("a dog . a cat", [1, 1, 1, 4, 4], "det ROOT punct det ROOT", "DET NOUN PUNCT DET NOUN")
    assert head_noun_of_parse(doc) == "dog"


def test_parse_without_chunks_gives_the_whole_caption():
    doc = parse("run quickly", [0, 0], "ROOT advmod", "VERB ADV")
    assert head_noun_of_parse(doc) == "run quickly"


def test_parse_of_an_empty_caption_is_empty():
    assert head_noun_of_parse(Doc(spacy.blank("en").vocab, words=[])) == ""


def test_spacy_finder_applies_the_rule_to_what_the_parser_returns():
    doc = parse("a dog", [1, 1], "det ROOT", "DET NOUN")
    finder = SpacyNounFinder(lambda sentence: {"a dog": doc}[sentence])
    assert finder("a dog") == "dog"


@pytest.mark.skipif(importlib.util.find_spec("en_core_web_lg") is not None, reason="en_core_web_lg is installed")
def test_without_the_spacy_model_auto_takes_the_rules_and_spacy_is_refused():
    assert make_noun_finder("auto").name == "rules"
    with pytest.raises(UserError, match=r"download_weights.sh en_core_web_lg"):
        make_noun_finder("spacy")


def test_auto_takes_spacy_when_its_model_loads(monkeypatch):
    monkeypatch.setattr(spacy, "load", lambda name: {"en_core_web_lg": lambda sentence: None}[name])
    assert make_noun_finder("auto").name == "spaCy en_core_web_lg"
    assert make_noun_finder("rules").name == "rules"


@pytest.mark.slow
def test_rules_find_the_category_of_every_drawn_caption():
    rng = np.random.default_rng(0)
    for index in range(40):
        for obj in draw_scene("validation", 7, index).objects:
            assert RuleNounFinder()(sample_caption(obj, rng)) == obj.category
            assert RuleNounFinder()(full_caption(obj)) == obj.category
