"""The manifest that ships, and what is wrong with others."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml

from pseudo_ris.assets.data_files import WEIGHTS_LIST
from pseudo_ris.checkpoints import manifest
from pseudo_ris.checkpoints.manifest import held_checksum, local_path, read_manifest, weights_folder
from pseudo_ris.errors import UserError

ENTRY = {
    "model": "sam",
    "architecture": "vit_b",
    "file": "sam.pth",
    "urls": ["https://example.org/sam.pth"],
    "licence": "MIT",
    "used_for": "tests",
}


def written(folder, **changes):
    """A manifest of one entry with changed fields; None takes a field away."""
    entry = {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}
    path = folder / "weights.yaml"
    path.write_text(yaml.safe_dump({"presets": {"one": ["sam"]}, "files": {"sam": entry}}))
    return path


def test_shipped_manifest_has_what_the_presets_need():
    manifest = read_manifest()
    assert set(manifest.presets) == {"paper", "default", "ris"}
    for preset in ("paper", "default"):
        models = [entry.model for entry in manifest.select([preset])]
        assert sorted(models) == ["clip", "coca", "cutler", "sam", "spacy"]
    assert [entry.model for entry in manifest.select(["ris"])] == ["swin", "bert", "bert_words"]
    files = [entry.file for entry in manifest.files.values()]
    assert len(set(files)) == len(files)


def test_digits_in_the_names_of_sam_files_begin_their_md5():
    entries = [entry for entry in read_manifest().files.values() if entry.model == "sam"]
    assert len(entries) == 3
    for entry in entries:
        assert entry.md5.startswith(re.fullmatch(r"sam_vit_[bhl]_(\w{6})\.pth", entry.file)[1])
        assert entry.sha256 and entry.size


def test_published_checksums_in_addresses_are_those_of_the_entry():
    entry = read_manifest().files["clip_rn50"]
    assert f"/{entry.sha256}/" in entry.urls[0]


def test_open_clip_knows_the_tags_and_has_them_at_the_same_addresses():
    from open_clip.pretrained import get_pretrained_cfg

    tagged = [entry for entry in read_manifest().files.values() if entry.open_clip_tag]
    assert {entry.name for entry in tagged} == {"coca_laion2b", "coca_mscoco", "clip_rn50"}
    for entry in tagged:
        known = get_pretrained_cfg(entry.architecture, entry.open_clip_tag)
        address = known["url"] if "url" in known else f"https://huggingface.co/{known['hf_hub']}"
        assert entry.urls[0].startswith(address)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("swin_b_window12_22k", "ms_in22k"),
        ("swin_b_window7_22k", "ms_in22k"),
        ("swin_b_window7", "ms_in1k"),
        ("swin_s_window7", "ms_in1k"),
    ],
)
def test_timm_has_the_swins_at_the_same_addresses(name, tag):
    from timm.models import get_pretrained_cfg

    entry = read_manifest().files[name]
    assert entry.model == "swin"
    assert list(entry.urls) == [get_pretrained_cfg(f"{entry.architecture}.{tag}").url]


def test_bert_and_its_words_are_of_one_revision():
    files = read_manifest().files
    (weights,), (words,) = (files[name].urls for name in ("bert_base_uncased", "bert_base_uncased_vocab"))
    assert (weights.rpartition("/")[0], weights.rpartition("/")[2]) == (words.rpartition("/")[0], "model.safetensors")
    assert all(files[name].sha256 and files[name].size for name in ("bert_base_uncased", "bert_base_uncased_vocab"))


def test_tags_are_found_in_the_spelling_of_the_release():
    manifest = read_manifest()
    assert manifest.find_tag("coca_ViT-L-14", "mscoco_finetuned_laion2B-s13B-b90k") is manifest.files["coca_mscoco"]
    assert manifest.find_tag("coca_ViT-B-32", "laion2b_s13b_b90k") is None


def test_selection_takes_presets_and_names_once_each():
    names = [entry.name for entry in read_manifest().select(["sam_vit_b", "paper", "sam_vit_h"])]
    assert names == ["sam_vit_b", "cutler", "sam_vit_h", "coca_cc3m", "clip_rn50", "en_core_web_lg"]
    with pytest.raises(UserError, match="did you mean sam_vit_h"):
        read_manifest().select(["sam_vit_hh"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": None}, r"weights\.yaml: files\.sam\.licence: is missing"),
        ({"sha265": "0" * 64}, r"files\.sam\.sha265: no such field"),
        ({"sha256": "0" * 63}, r"files\.sam\.sha256: must be of the form"),
        ({"md5": "G" * 32}, r"files\.sam\.md5: must be of the form"),
        ({"file": "../sam.pth"}, r"files\.sam\.file: must be of the form"),
        ({"size": "1 GB"}, r"files\.sam\.size: must be a number"),
        ({"model": "sam2"}, r"files\.sam\.model: must be one of"),
        ({"used_for": 3}, r"files\.sam\.used_for: must be text"),
        ({"urls": ["http://example.org/sam.pth"]}, r"files\.sam\.urls: must be https"),
        ({"urls": []}, r"files\.sam\.urls: must be a list"),
        ({"urls": None}, r"files\.sam: must have either urls or hub"),
        ({"urls": None, "hub": {"repo": "a/b"}}, r"files\.sam\.hub\.patterns: is missing"),
    ],
)
def test_wrong_entries_are_one_line_that_names_file_and_field(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["files: {", "[]", "files: {}", "presets: {a: [b]}\nfiles: {}", "presets: 1\nfiles: {}"])
def test_wrong_manifests_are_one_line(tmp_path, text):
    path = tmp_path / "weights.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"weights\.yaml") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


def test_missing_manifest_is_one_line(tmp_path):
    with pytest.raises(UserError, match="restore it"):
        read_manifest(tmp_path / "none.yaml")


def test_files_lie_beside_the_list_in_a_checkout_unless_set_otherwise(tmp_path, monkeypatch):
    entry = read_manifest().files["cutler"]
    monkeypatch.delenv("PSEUDO_RIS_WEIGHTS", raising=False)
    assert weights_folder() == WEIGHTS_LIST.parent / "weights"
    monkeypatch.setenv("PSEUDO_RIS_WEIGHTS", str(tmp_path))
    assert local_path(entry) == tmp_path / "cutler_cascade_final.pth"
    assert local_path(entry, tmp_path / "a") == tmp_path / "a" / "cutler_cascade_final.pth"


def test_files_lie_in_the_cache_folder_of_the_user_without_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "IN_CHECKOUT", False)
    monkeypatch.delenv("PSEUDO_RIS_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "pseudo-ris" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert weights_folder() == tmp_path / "home" / ".cache" / "pseudo-ris" / "weights"


def test_checksum_held_to_is_the_published_one_else_the_recorded_one(tmp_path):
    files = read_manifest().files
    assert held_checksum(files["cutler"], tmp_path) is None
    record = {"cutler_cascade_final.pth": "1" * 64, "RN50.pt": "2" * 64}
    (tmp_path / "checksums.json").write_text(json.dumps(record))
    assert held_checksum(files["cutler"], tmp_path) == "1" * 64
    assert held_checksum(files["clip_rn50"], tmp_path) == files["clip_rn50"].sha256


@pytest.mark.parametrize("text", ["{", "[]", '{"cutler_cascade_final.pth": "1"}'])
def test_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / "checksums.json").write_text(text)
    with pytest.raises(UserError, match=r"checksums\.json.*restore or remove") as caught:
        held_checksum(read_manifest().files["cutler"], tmp_path)
    assert "\n" not in str(caught.value)


def test_reading_it_does_not_import_torch():
    code = "import sys, pseudo_ris.checkpoints.download; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=WEIGHTS_LIST.parents[1]).returncode == 0
