"""The drawn WebDataset and the small CoCa's folder: what open_clip's training makes of them is what stage 2 sees and loads."""

import io
import json
import tarfile

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from pseudo_ris.captions.crops import CROP_SETS, cut_crop
from pseudo_ris.config import CocaConfig, CropConfig
from pseudo_ris.lab import finetune_data
from pseudo_ris.lab.crop_data import CropSource
from pseudo_ris.lab.finetune_data import draw_pairs, to_pixels, write_model_folder, write_webdataset
from pseudo_ris.models.coca.captioner import CocaCaptioner, build_tokenizer
from pseudo_ris.world.grammar import full_caption, parse
from pseudo_ris.world.scene_set import build_scene_set

# Half a grey level, in units of the smallest of CLIP's standard deviations.
ROUNDING = 0.5 / 255 / 0.26


@pytest.fixture(scope="module")
def scenes():
    return build_scene_set("validation", seed=5, count=3, progress=False)


def read_shard(path):
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_pairs_name_everything_and_go_on_when_objects_run_out(scenes):
    objects = [obj for scene in scenes for obj in scene.objects]
    pairs = list(draw_pairs(scenes, 2 * len(objects) + 3, seed=0))
    captions = [caption for _, caption in pairs]
    assert len(pairs) == 2 * len(objects) + 3
    assert sorted(captions[: len(objects)]) == sorted(full_caption(obj) for obj in objects)
    assert all(None not in (said.size, said.colour, said.pattern) for said in map(parse, captions))
    assert all(pixels.shape == (96, 96, 3) and pixels.dtype == np.uint8 for pixels, _ in pairs)


def test_pairs_depend_on_the_seed_only(scenes):
    first, again, other = (list(draw_pairs(scenes, 6, seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) and said == same for (a, said), (b, same) in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))


def test_pixels_are_those_of_a_crop_that_stage_2_cuts(scenes, monkeypatch):
    monkeypatch.setattr(finetune_data, "CropSource", lambda scenes, size, _: CropSource(scenes, size, {"none": 1.0}))
    expected = [
        to_pixels(cut_crop(scene.image, mask, crop_set, 96, CropConfig()))
        for scene in scenes
        for mask in scene.masks
        for crop_set in CROP_SETS
    ]
    for pixels, _ in draw_pairs(scenes, 8, seed=1):
        assert any(np.array_equal(pixels, crop) or np.array_equal(pixels[:, ::-1], crop) for crop in expected)


def test_to_pixels_undoes_the_normalisation(scenes):
    scene = scenes[0]
    everything = np.zeros((256, 256), bool)
    everything[[0, -1], [0, -1]] = True
    assert np.array_equal(to_pixels(cut_crop(scene.image, everything, "image_1.0", 256, CropConfig())), scene.image)


def test_shards_hold_every_pair_once_and_say_how_many(scenes, tmp_path):
    pairs = list(draw_pairs(scenes, 10, seed=0))
    write_webdataset(pairs, tmp_path / "crops", shards=4)
    shards = {path.name: read_shard(path) for path in sorted((tmp_path / "crops").glob("*.tar"))}
    sizes = json.loads((tmp_path / "crops" / "sizes.json").read_text())
    assert sizes == {name: len(content) / 2 for name, content in shards.items()} == dict(zip(shards, (3, 3, 2, 2), strict=True))
    content = {name: data for shard in shards.values() for name, data in shard.items()}
    assert len(content) == 20
    for number, (pixels, caption) in enumerate(pairs):
        assert content[f"{number:06d}.txt"].decode() == caption
        decoded = np.asarray(Image.open(io.BytesIO(content[f"{number:06d}.jpg"])))
        assert np.abs(decoded.astype(int) - pixels).mean() < 2


def test_the_same_pairs_give_the_same_bytes_and_replace_what_was_there(scenes, tmp_path):
    pairs = list(draw_pairs(scenes, 6, seed=0))
    write_webdataset(pairs, tmp_path / "once", shards=2)
    write_webdataset(pairs, tmp_path / "twice", shards=3)
    write_webdataset(pairs, tmp_path / "twice", shards=2)
    once, twice = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("once", "twice"))
    assert once == twice


def test_open_clip_trains_the_embedded_coca_on_what_stage_2_sees(scenes, tmp_path):
    write_model_folder(tmp_path / "coca_demo")
    name = f"local-dir:{tmp_path / 'coca_demo'}"
    model, for_training, _ = open_clip.create_model_and_transforms(name, aug_cfg={"scale": (1.0, 1.0)})
    embedded = CocaCaptioner.from_config(CocaConfig(), "cpu").model.state_dict()
    assert model.state_dict().keys() == embedded.keys()
    assert all(torch.equal(value, embedded[key]) for key, value in model.state_dict().items())

    captions = [full_caption(obj) for obj in scenes[0].objects]
    assert torch.equal(open_clip.get_tokenizer(name)(captions), build_tokenizer("demo")(captions, context_length=32))

    crop = cut_crop(scenes[0].image, scenes[0].masks[0], "image_1.2", 96, CropConfig())
    seen = for_training(Image.fromarray(to_pixels(crop)))
    assert torch.allclose(seen, crop, atol=ROUNDING + 1e-4)
