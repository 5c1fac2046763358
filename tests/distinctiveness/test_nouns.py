import platform
import shutil
from multiprocessing import Pipe

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from pseudo_ris.cli import pairs as command
from pseudo_ris.config import CaptionGenerationConfig, ScoringConfig
from pseudo_ris.distinctiveness import nouns
from pseudo_ris.distinctiveness.nouns import (
    RuleNounFinder,
    SpacyNounFinder,
    head_noun_by_rules,
    head_noun_of_parse,
    make_noun_finder,
    noun_prompt,
    with_noun_finder,
)
from pseudo_ris.errors import UserError
from pseudo_ris.runtime.engine.job import Job, Stopped
from pseudo_ris.runtime.engine.worker import work
from pseudo_ris.stages import captions as stage2
from pseudo_ris.world.grammar import full_caption, sample_caption
from pseudo_ris.world.scenes import draw_scene

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
    assert head_noun_by_rules(caption) == noun


@pytest.mark.parametrize("caption", ["", "   ", "...", "of", "is", "and and", "-", "\n"])
def test_rules_return_the_caption_itself_when_it_has_no_noun(caption):
    assert head_noun_by_rules(caption) == caption.strip()


@pytest.mark.parametrize(
    ("noun", "prompt"),
    [
        ("dog", "a photo of a dog"),
        ("apple", "a photo of a apple"),
        ("the dog", "a photo of the dog"),
        ("A dog", "a photo of a A dog"),  # the release looks for lower case only, which is all that CoCa writes
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


PARSES = {
    "root in a chunk": (
        parse(
            "a red fire truck on the street",
            [3, 3, 3, 3, 3, 6, 4],
            "det amod compound ROOT prep det pobj",
            "DET ADJ NOUN NOUN ADP DET NOUN",
        ),
        ("truck", "truck"),
    ),
    "first child in a chunk": (
        parse("two dogs chase a ball", [1, 2, 2, 4, 2], "nummod nsubj ROOT det dobj", "NUM NOUN VERB DET NOUN"),
        ("dogs", "dogs"),
    ),
    "only a later child in a chunk": (
        parse("there is a dog", [1, 1, 3, 1], "expl ROOT det attr", "PRON VERB DET NOUN"),
        ("dog", "there is a dog"),
    ),
    "two sentences": (
        parse("a dog . a cat", [1, 1, 1, 4, 4], "det ROOT punct det ROOT", "DET NOUN PUNCT DET NOUN"),
        ("dog", "dog"),
    ),
    "no chunk": (parse("run quickly", [0, 0], "ROOT advmod", "VERB ADV"), ("run quickly", "run quickly")),
    "a root alone": (parse("run", [0], "ROOT", "VERB"), ("run", "run")),
    "empty": (Doc(spacy.blank("en").vocab, words=[]), ("", "")),
}


@pytest.mark.parametrize("case", PARSES)
def test_noun_of_a_parse_by_both_rules(case):
    doc, expected = PARSES[case]
    assert (head_noun_of_parse(doc, "any_child"), head_noun_of_parse(doc, "first_child")) == expected


def test_spacy_finder_parses_all_sentences_in_one_call_and_applies_its_rule():
    docs = {doc.text.strip(): doc for doc, _ in PARSES.values()}
    batches = []

    class Parser:
        def pipe(self, sentences):
            batches.append(list(sentences))
            return (docs[sentence] for sentence in sentences)

    sentences = ["there is a dog", "two dogs chase a ball"]
    assert SpacyNounFinder(Parser(), "any_child")(sentences) == ["dog", "dogs"]
    assert SpacyNounFinder(Parser(), "first_child")(sentences) == ["there is a dog", "dogs"]
    assert batches == [sentences, sentences]


@pytest.mark.parametrize("installed", [True, False])
def test_auto_is_settled_by_what_is_installed_without_loading_it(monkeypatch, installed):
    monkeypatch.setattr(nouns, "find_spec", lambda name: {"en_core_web_lg": "a spec" if installed else None}[name])
    settled = with_noun_finder(ScoringConfig(noun_finder="auto", threshold=3.0))
    assert settled == ScoringConfig(noun_finder="spacy" if installed else "rules", threshold=3.0)
    for choice in ("spacy", "rules"):
        assert with_noun_finder(ScoringConfig(noun_finder=choice)).noun_finder == choice


def missing_model(name, exclude):
    raise OSError(f"[E050] Can't find model '{name}'.")


def test_spacy_without_its_model_is_refused_with_the_machine_and_the_remedy(monkeypatch):
    monkeypatch.setattr(spacy, "load", missing_model)
    with pytest.raises(UserError, match=rf"not installed on {platform.node()}.*download_weights.sh en_core_web_lg"):
        make_noun_finder(ScoringConfig(noun_finder="spacy"))


def test_spacy_is_loaded_without_what_nouns_do_not_need(monkeypatch):
    loaded = []
    monkeypatch.setattr(spacy, "load", lambda name, exclude: loaded.append((name, exclude)))
    finder = make_noun_finder(ScoringConfig(noun_finder="spacy", noun_rule="first_child"))
    assert (finder.name, finder.rule) == ("spaCy en_core_web_lg", "first_child")
    assert loaded == [("en_core_web_lg", ("ner", "lemmatizer"))]
    assert make_noun_finder(ScoringConfig(noun_finder="rules")).name == "rules"


@pytest.fixture
def options(tmp_path, demo_images):
    """Of a command for stage 2 on one image that has no masks."""
    folders = {name: tmp_path / name for name in ("images", "masks", "output")}
    folders["images"].mkdir()
    folders["masks"].mkdir()
    shutil.copy(next(demo_images.iterdir()), folders["images"])
    return [f"--{name}={folder}" for name, folder in folders.items()]


@pytest.mark.parametrize("installed", [True, False])
def test_workers_are_handed_the_finder_that_the_command_has_chosen(monkeypatch, options, installed):
    handed = []
    monkeypatch.setattr(nouns, "find_spec", lambda name: "a spec" if installed else None)
    monkeypatch.setattr(stage2, "run_loop", lambda loop, config, *_: handed.append(config))
    command.main([*options, "--engine=local", "--workers=2"])
    assert [config.scoring.noun_finder for config in handed] == ["spacy" if installed else "rules"]


def test_a_worker_without_the_model_stops_the_run_instead_of_taking_the_rules(monkeypatch):
    monkeypatch.setattr(nouns, "find_spec", lambda name: None)
    monkeypatch.setattr(spacy, "load", missing_model)
    config = CaptionGenerationConfig(scoring=ScoringConfig(noun_finder="spacy"))
    ours, workers = Pipe()
    ours.send(Job.of(stage2.write_expressions, config))
    work(workers)
    stopped = ours.recv()
    assert isinstance(stopped, Stopped)
    assert "download_weights.sh en_core_web_lg" in stopped.message


@pytest.mark.slow
def test_rules_find_the_category_of_every_drawn_caption():
    rng = np.random.default_rng(0)
    for index in range(40):
        for obj in draw_scene("validation", 7, index).objects:
            captions = [sample_caption(obj, rng), full_caption(obj)]
            assert RuleNounFinder()(captions) == [obj.category] * 2
