"""By the rule of configs/paper.yaml a parse gives the noun and the prompt of the release (golden/released_nouns)."""

import json
from pathlib import Path

import pytest
from coca_recipe import GOLDEN
from spacy.lang.en import English
from spacy.tokens import Doc

from pseudo_ris.config import CaptionGenerationConfig
from pseudo_ris.distinctiveness.nouns import head_noun_of_parse, noun_prompt
from pseudo_ris.stages.settings import parse_config

PAPER = Path(__file__).parents[2] / "configs" / "paper.yaml"


@pytest.fixture(scope="module")
def captions():
    return json.loads((GOLDEN / "released_nouns" / "captions.json").read_text())["captions"]


@pytest.fixture(scope="module")
def parses(captions):
    """The parses that spaCy's model gave, made again without it."""
    vocab = English().vocab
    return [
        Doc(
            vocab,
            words=caption["tokens"],
            spaces=caption["spaces"],
            pos=caption["pos"],
            tags=caption["tag"],
            heads=caption["head"],
            deps=caption["dep"],
        )
        for caption in captions
    ]


def test_noun_chunks_of_the_parses(captions, parses):
    chunks = [[[chunk.start, chunk.end, chunk.root.i] for chunk in doc.noun_chunks] for doc in parses]
    assert chunks == [caption["chunks"] for caption in captions]


def test_every_noun_and_prompt(captions, parses):
    rule = parse_config(CaptionGenerationConfig, ["--config", str(PAPER)]).scoring.noun_rule
    nouns = [head_noun_of_parse(doc, rule) for doc in parses]
    assert nouns == [caption["noun"].strip() for caption in captions]
    assert [noun_prompt(noun) for noun in nouns] == [" ".join(caption["prompt"].split()) for caption in captions]


def test_our_rule_finds_a_noun_where_the_release_takes_the_whole_caption(captions, parses):
    whole = {"any_child": 0, "first_child": 0}
    for rule in whole:
        nouns = [head_noun_of_parse(doc, rule) for doc in parses]
        whole[rule] = sum(noun == caption["caption"].strip() for noun, caption in zip(nouns, captions, strict=True))
    assert whole["any_child"] < whole["first_child"] == 80
