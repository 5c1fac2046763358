"""The public interface: `import pseudo_ris as pr`."""

from __future__ import annotations

import ast
import doctest
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from demo_checkpoint import write_demo_checkpoint
from PIL import Image

import pseudo_ris as pr
from pseudo_ris.cli.main import main
from pseudo_ris.formats.registry import FORMATS
from pseudo_ris.ris.config import DataConfig

PACKAGE = Path(pr.__file__)
NAME = "scene_00007.png"  # two objects: the quickest of the shipped scenes


@pytest.fixture(scope="module")
def work(tmp_path_factory, demo_images):
    """The current folder of the examples: photo.jpg, photos/photo.jpg, best.pt, and out/ as `generate` leaves it."""
    folder, before = tmp_path_factory.mktemp("api"), Path.cwd()
    (folder / "photos").mkdir()
    for place in ("photo.jpg", "photos/photo.jpg"):
        shutil.copy(demo_images / NAME, folder / place)
    write_demo_checkpoint(folder / "best.pt", DataConfig())
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def pipeline():
    return pr.Pipeline.from_preset("demo", device="cpu")


@pytest.fixture(scope="module")
def pairs(pipeline, work):
    return pipeline("photo.jpg")


@pytest.fixture(scope="module")
def generated(work):
    return pr.generate("photos", "out", device="cpu")


def refused(call, *words):
    with pytest.raises(pr.UserError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_importing_the_package_imports_no_library():
    code = "import sys; import pseudo_ris as pr; pr.UserError; print(*sys.modules)"
    began = time.monotonic()
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(f"import pseudo_ris: {time.monotonic() - began:.2f} s, start of Python included")
    assert {"torch", "numpy", "PIL", "cv2"}.isdisjoint(finished.stdout.split())


def test_every_public_name_is_there_and_typed_as_it_is_imported():
    typed = next(node for node in ast.parse(PACKAGE.read_text()).body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == pr._HOMES
    assert sorted(seen) == pr.__all__
    assert set(pr.__all__) <= set(dir(pr))
    assert all(getattr(pr, name).__module__ == module for name, module in seen.items())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pr.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["Pipeline", "PairSet", "RisSegmenter", "generate", "load_ris", "read_pairs"])
def test_the_examples_in_the_docstrings_run(name, work, generated, pipeline, monkeypatch):
    shutil.rmtree("out/refer", ignore_errors=True)
    if name != "Pipeline":
        monkeypatch.setattr(pr.Pipeline, "from_preset", lambda *_, **__: pipeline)
    thing = getattr(pr, name)
    module = sys.modules[thing.__module__]
    tests = doctest.DocTestFinder(recurse=True).find(thing, name, module, {"pr": pr})
    assert any(test.examples for test in tests)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        assert runner.run(test).failed == 0


def test_the_pairs_of_one_image_are_those_of_the_stages(pairs, generated):
    assert list(pairs.rows()) == list(generated.rows())
    assert len(pairs) == 2 and repr(pairs) == repr(generated)
    for ours, stored in zip(pairs, generated, strict=True):
        np.testing.assert_array_equal(ours.mask, stored.mask)
        np.testing.assert_array_equal(ours.image, stored.image)
        np.testing.assert_array_equal(ours.doc, stored.doc)
        assert ours.expressions == stored.expressions and ours.best in ours.expressions


def test_generate_leaves_the_files_of_the_commands(generated, work, tmp_path):
    assert main(["masks", "--images", "photos", "--masks", f"{tmp_path}/masks", "--device", "cpu"]) == 0
    stage2 = ["pairs", "--images", "photos", "--masks", f"{tmp_path}/masks", "--output", f"{tmp_path}/pairs"]
    assert main([*stage2, "--device", "cpu"]) == 0
    ours = {name: data for name, data in contents(work / "out").items() if not name.startswith("refer/")}
    assert ours.pop("pairs/distinctive_captions_cc3m.sources.json")
    assert ours == contents(tmp_path)


def test_an_image_may_be_a_path_a_pil_image_or_an_array(pipeline, work):
    pixels = pr.load_image("photo.jpg")
    for image in (work / "photo.jpg", Image.open("photo.jpg"), pixels):
        np.testing.assert_array_equal(pr.load_image(image), pixels)
    grey = Image.open("photo.jpg").convert("L")
    np.testing.assert_array_equal(pr.load_image(grey), np.asarray(grey)[..., None].repeat(3, 2))
    assert [mask.seg_id for mask in pipeline.find_masks(pixels)] == [0, 1]


def test_masks_of_ones_own_are_described(pipeline, pairs):
    own = [pairs[1].mask]
    described = pipeline(pairs[0].image, masks=own)
    assert [mask.seg_id for mask in described] == [0] and len(described[0].expressions) == 44
    np.testing.assert_array_equal(described[0].mask, own[0])
    refused(lambda: pipeline("photo.jpg", masks=[own[0][:9]]), "masks[0]", "resize")
    refused(lambda: pipeline("photo.jpg", masks=[own[0] * 255]), "masks[0]", "convert")
    refused(lambda: pipeline("photo.jpg", masks=[np.zeros_like(own[0])]), "photo", "blank")


def test_an_image_without_objects_gives_an_empty_set_that_can_be_looked_at(pipeline):
    empty = pipeline(np.full((40, 60, 3), 120, np.uint8))
    assert len(empty) == 0 and list(empty.rows()) == [] and list(empty.by_image()) == []
    assert empty.show().size[0] == 640
    assert len(empty.select()) == 0


def test_steps_can_be_used_by_themselves(pairs):
    image = pairs[0].image
    detector = pr.Cutler.from_config(pr.CutlerConfig(), "cpu")
    segmenter = pr.AutomaticSam.from_config(pr.SamConfig(), "cpu")
    matches = pr.match_masks(detector.detect(image).masks, segmenter.generate(image).masks, pr.MatchingConfig())
    assert len(matches) == 2
    captioner = pr.CocaCaptioner.from_config(pr.CocaConfig(), "cpu")
    scorer, find_noun = pr.ClipScorer.from_config(pr.ClipConfig(), "cpu"), pr.make_noun_finder(pr.ScoringConfig())
    masks, few = np.stack([mask.mask for mask in pairs]), pr.DecodingConfig(top_k=(5,), top_p=(), max_length=8)
    written = pr.write_candidates(captioner, image, masks, [0, 1], "photo", few, pr.CropConfig())
    scored = pr.score_candidates(scorer, find_noun, image, masks, [0, 1], written, pr.ScoringConfig(), pr.CropConfig())
    assert [len(each.candidates) for each in scored] == [8, 8]
    assert len(pr.kept_candidates(scored[0], threshold=-1.0)) == 8


def test_selecting_is_what_the_command_does(generated, work, tmp_path):
    best = generated.select(doc=1.0, top_k=3)
    csv = best.write(tmp_path / "best.csv")
    pairs = "out/pairs/distinctive_captions_cc3m.csv"
    main(["select", "--pairs", pairs, "--output", f"{tmp_path}/command.csv", "--doc", "1.0", "--top-k", "3"])
    assert csv.read_bytes() == (tmp_path / "command.csv").read_bytes()
    assert list(pr.read_pairs(csv).rows()) == list(best.rows())
    assert best.steps[-1].candidates == sum(len(mask.expressions) for mask in best)
    assert list(best.select(preset="paper", doc=None, places="keep").rows()) == list(best.rows())


def test_rules_on_areas_need_no_folder(pairs, generated):
    areas = [mask.mask.mean() for mask in pairs]
    for given in (pairs, generated):
        assert [mask.seg_id for mask in given.select("paper", min_area=max(areas), doc=None)] == [int(np.argmax(areas))]


@pytest.mark.parametrize("to", ["refer", "coco", "parquet"])
def test_what_is_exported_is_what_the_set_holds(pairs, generated, tmp_path, to):
    best = generated.select(doc=1.0)
    totals = best.export(to, tmp_path / to, copy_images=to != "parquet")
    assert (totals.images, totals.objects) == (1, len(best))
    assert best.export(to, tmp_path / to, copy_images=to != "parquet") == totals  # it is there already
    images = list(FORMATS[to].read(tmp_path / to, None))
    assert [each.sentences for each in images[0].objects] == [mask.expressions for mask in best]
    pairs.select(doc=1.0).export(to, tmp_path / "from one image")


def test_a_set_is_a_sequence_of_masks(generated):
    assert [mask.seg_id for mask in generated[1:]] == [generated[-1].seg_id]
    assert [len(part) for part in generated.by_image()] == [2]
    with pytest.raises(IndexError):
        generated[2]


def test_a_set_shows_itself(pairs, generated):
    for shown in (pairs, generated):
        assert shown._repr_png_().startswith(b"\x89PNG")
        assert "data:image/png;base64," in shown._repr_html_() and repr(shown) in shown._repr_html_()
    nothing = generated.select(doc=1e9, places="drop")
    assert nothing._repr_png_() is None and "<img" not in nothing._repr_html_()
    refused(nothing.show, "select")


def test_a_model_is_asked_about_an_image(work):
    model = pr.load_ris("best.pt", device="cpu")
    mask = model.segment("photo.jpg", "the car on the left")
    assert mask.dtype == bool and mask.shape == pr.load_image("photo.jpg").shape[:2]
    assert model.show("photo.jpg", "a car", "the other car").size[0] >= 480
    refused(lambda: model.segment("photo.jpg", " "), "expression")
    refused(lambda: pr.load_ris("none.pt"), "none.pt", "best.pt")


def test_a_preset_or_setting_that_is_unknown_is_named_with_the_nearest():
    refused(lambda: pr.Pipeline.from_preset("dmo"), "dmo", "demo")
    refused(lambda: pr.Pipeline.from_preset("demo", {"scoring.treshold": 1}), "scoring.treshold", "scoring.threshold")
    refused(lambda: pr.Pipeline.from_preset("demo", {"scoring": {"threshold": "high"}}), "scoring.threshold")
    assert pr.Pipeline.from_preset(settings={"decoding": {"top_k": (3,)}}).caption_settings.decoding.top_k == (3,)


def test_what_is_no_image_is_refused(pipeline, tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("no image")
    refused(lambda: pipeline(text), "notes.jpg", "replace")
    refused(lambda: pipeline(tmp_path / "missing.jpg"), "missing.jpg")
    refused(lambda: pipeline(np.zeros((20, 20), np.uint8)), "[H, W, 3]", "convert")
    refused(lambda: pipeline(np.zeros((20, 20, 3))), "float64", "convert")
    refused(lambda: pipeline(np.zeros((2, 20, 3), np.uint8)), "image.png", "8 a side")
    refused(lambda: pipeline([1, 2]), "list", "path")


def test_pairs_that_cannot_be_found_are_named(generated, tmp_path):
    refused(lambda: pr.read_pairs(tmp_path / "none"), "none", "CSV")
    refused(lambda: pr.read_pairs(tmp_path), str(tmp_path), "CSV")
    pairs = shutil.copytree("out/pairs", tmp_path / "moved" / "pairs")
    shutil.copytree("out/masks", tmp_path / "moved" / "masks")
    assert pr.read_pairs(pairs)[0].mask.any()  # the masks have moved with it
    note = pairs / "distinctive_captions_cc3m.sources.json"
    note.write_text("[]")
    refused(lambda: pr.read_pairs(pairs), note.name, "remove")
    note.unlink()
    refused(lambda: pr.read_pairs(pairs), "images=")
    assert len(pr.read_pairs(pairs, images="photos")) == 2
    refused(lambda: pr.read_pairs(pairs, images="photos", masks="nowhere"), "masks", "nowhere")
    shutil.copy(pairs / "distinctive_captions_cc3m.csv", pairs / "b.csv")
    shutil.copy(pairs / "distinctive_captions_cc3m_doc.txt", pairs / "b_doc.txt")
    refused(lambda: pr.read_pairs(pairs, images="photos"), "b.csv")


def test_what_is_unknown_in_a_set_is_named_with_the_nearest(pairs, tmp_path):
    refused(lambda: pairs.select(topk=3), "topk", "top_k")
    refused(lambda: pairs.select("papers"), "papers", "paper")
    refused(lambda: pairs.select(min_area=2.0), "area", "from 0 to 1")
    refused(lambda: pairs.export("refers", tmp_path / "x"), "refers", "refer")
    refused(lambda: pairs.write(tmp_path / "x.txt"), ".csv")
