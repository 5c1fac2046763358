"""The SAM-prompting model: against segment_anything's own decoder, zero-shot CLIP and one image a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pseudo_ris.errors import UserError
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.sam.segmenter import build_sam
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.base import Supervision
from pseudo_ris.ris.models.build import build_empty, build_model
from pseudo_ris.ris.models.sam.model import SIZES, SamRis
from pseudo_ris.ris.models.sam.proposals import Proposals, match, propose, similarities
from pseudo_ris.world.scenes import draw_scene

DEMO = ModelConfig("sam", image_weights="demo", text_weights="demo", detector_weights="demo", input_size=256)
SENTENCES = ["the leftmost thing", "a red ball", "the blue tree at the top", "the small duck"]


@pytest.fixture(scope="module")
def model() -> SamRis:
    return build_model(DEMO, 0).eval()


@pytest.fixture(scope="module")
def images(model) -> torch.Tensor:
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.form.mean, model.form.std))
    scenes = [draw_scene("validation", 5, number).image for number in range(2)]
    return torch.stack([(torch.from_numpy(scene).permute(2, 0, 1) / 255 - mean) / std for scene in scenes])


@pytest.fixture(scope="module")
def features(model, images) -> tuple[torch.Tensor, ...]:
    return model.image_features(images)


def said(model, sentences=SENTENCES) -> tuple[torch.Tensor, torch.Tensor]:
    return model.tokenizer(sentences)


@torch.no_grad()
def test_an_untrained_model_draws_what_sam_draws_at_the_centre_of_clips_choice(model, features):
    """Oracle: segment_anything's predict_masks, image by image, on the proposal of the largest similarity."""
    plain = build_model(DEMO, 0).eval()
    fusion = plain.fusion
    for layer in (fusion.score, fusion.pointer, fusion.direction):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(plain.fusion.prompts[0].weight)
    tokens, attention = said(plain)
    owners = torch.tensor([0, 0, 1, 1])
    logits = plain.from_features(features, tokens, attention, owners)
    sentence = plain.towers.read((), tokens, attention).sentence
    proposals = Proposals(*(each[owners] for each in features[1:]))
    best = similarities(proposals.regions, sentence, proposals.real)[..., :2].sum(-1).masked_fill(~proposals.real, -9).argmax(1)
    prompter, decoder = plain.sam.prompt_encoder, plain.sam.mask_decoder
    for row, (image, chosen) in enumerate(zip(owners.tolist(), best.tolist(), strict=True)):
        centre = proposals.centres[row, chosen][None, None]
        point, dense = prompter((centre, torch.ones(1, 1)), None, None)
        point = torch.cat([point, torch.zeros(1, plain.size.prompts, point.shape[2])], dim=1)
        masks, _ = decoder.predict_masks(features[0][image : image + 1], prompter.get_dense_pe(), point, dense)
        torch.testing.assert_close(logits[row, 1], masks[0, 0], atol=1e-4, rtol=1e-4)
        assert not logits[row, 0].any()


@torch.no_grad()
def test_sentences_of_one_image_get_what_one_image_a_sentence_gives(model, images, features):
    tokens, attention = said(model)
    owners = torch.tensor([0, 1, 1, 0])
    grouped = model.from_features(features, tokens, attention, owners)
    torch.testing.assert_close(grouped, model(images[owners], tokens, attention), atol=1e-4, rtol=1e-4)


def test_proposals_are_the_detectors_with_clips_view_of_them(model, images, features):
    proposals = Proposals(*features[1:])
    counts = proposals.real.sum(1).tolist()
    assert all(2 <= count <= model.size.proposals for count in counts)
    norms = proposals.regions.norm(dim=-1)
    torch.testing.assert_close(norms, proposals.real[..., None].float().expand_as(norms), atol=1e-5, rtol=0)
    for image, count in enumerate(counts):
        boxes, centres = proposals.boxes[image, :count], proposals.centres[image, :count]
        assert ((boxes[:, :2] <= centres) & (centres <= boxes[:, 2:])).all()
        assert not proposals.boxes[image, count:].any()
        torch.testing.assert_close(proposals.geometry[image, :count, :4], boxes / 128 - 1)
        torch.testing.assert_close(proposals.geometry[image, :count, 4:6], centres / 128 - 1)


def test_of_too_many_proposals_the_most_certain_are_kept(model, images):
    scene = draw_scene("validation", 5, 0).image
    detector = Cutler(model.detector, model.size.detector)
    all_, few = (propose(detector, model._embed_crops, scene, 96, count) for count in (12, 2))
    torch.testing.assert_close(few.boxes[0], all_.boxes[0, :2])
    assert few.regions.shape == (1, 2, 2, 256)


def test_an_image_without_proposals_has_an_empty_mask(model):
    tokens, attention = said(model, ["a dog"])
    logits = model(torch.zeros(1, 3, 256, 256), tokens, attention)
    assert (logits[:, 1] < 0).all()


def test_a_mask_is_matched_by_the_iou_of_boxes():
    """By hand: boxes of 10 x 10; the first mask's box is that of proposal 1 but for a column, the second fits none."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [20, 0, 30, 10]]).expand(3, -1, -1)
    real = torch.tensor([True, True, False]).expand(3, -1)
    truth = torch.zeros(3, 32, 32)
    truth[0, 0:10, 21:30] = 1
    truth[1, 20:30, 20:30] = 1
    which, known = match(boxes, real, truth)
    assert known.tolist() == [True, False, False]
    assert which[0] == 1


def test_only_what_is_new_and_what_speaks_and_draws_learns(model, features):
    """Every parameter of a group gets a gradient in a step with a hidden word, all others are frozen."""
    trained = build_model(DEMO, 0)
    tokens, attention = said(trained)
    tokens[0, 1] = trained.tokenizer.mask_id
    owners, truth = torch.tensor([0, 0, 1, 1]), torch.zeros(4, 256, 256)
    boxes = features[3]
    for row, owner in enumerate(owners):
        left, top, right, bottom = boxes[owner, row % 2].round().int().tolist()
        truth[row, top:bottom, left:right] = 1
    with torch.no_grad():
        trained.fusion.prompts[2].weight.normal_(0, 0.1)
    logits, auxiliary = trained(features, tokens, attention, owners, Supervision(truth, torch.tensor([0, 2])))
    assert logits.shape == (2, 2, 128, 128) and auxiliary.shape == (4,) and (auxiliary > 0).all()
    (logits[:, 1].square().mean() + auxiliary.mean()).backward()
    groups = trained.parameter_groups()
    learned = [parameter for group in groups for parameter in group["params"]]
    assert {id(each) for each in learned} == {id(each) for each in trained.parameters() if each.requires_grad}
    assert len(learned) == len({id(each) for each in learned})
    without = [name for name, each in trained.named_parameters() if each.requires_grad and each.grad is None]
    assert without == []
    assert not any(each.requires_grad for each in (*trained.detector.parameters(), *trained.sam.image_encoder.parameters()))
    frozen = (trained.sam.image_encoder, trained.detector, trained.towers.visual)
    assert trained.training and not any(module.training for each in frozen for module in each.modules())


def test_a_checkpoint_fills_an_empty_model_without_the_files(model, images):
    empty = build_empty(DEMO, [])
    empty.load_state_dict(model.state_dict())
    tokens, attention = said(model, ["a red ball", "the duck"])
    with torch.no_grad():
        torch.testing.assert_close(empty.eval()(images, tokens, attention), model(images, tokens, attention))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 320}, "model.input_size: sam demo takes 256, got 320"),
        ({"size": "vit_x"}, "model.size: sam has no vit_x; give one of demo, vit_b, vit_l, vit_h"),
        ({"adapters": True}, "model.adapters: only model.name clip has them"),
        ({"keep_end": False}, "model.keep_end: sam reads a sentence at its end token"),
        ({"image_weights": "nowhere.pth"}, "sam.weights: nowhere.pth does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        build_model(replace(DEMO, **change), 0)


@pytest.mark.slow
def test_a_step_and_an_evaluation_at_full_size(tmp_path):
    """SAM ViT-B, CLIP RN50 and CutLER's own size, with random weights; SAM's come from a file of the official form."""
    torch.manual_seed(0)
    with torch.device("meta"):
        counted = sum(
            each.numel()
            for each in SamRis.from_config(ModelConfig("sam", "vit_b", input_size=1024, image_weights="none")).parameters()
        )
    official = build_sam("vit_b").state_dict()
    torch.save(official, tmp_path / "sam_vit_b.pth")
    settings = ModelConfig("sam", "vit_b", image_weights=str(tmp_path / "sam_vit_b.pth"), input_size=1024, words=17)
    model = build_model(settings, 0)
    loaded = model.sam.state_dict()
    assert loaded.keys() >= official.keys() and all(torch.equal(loaded[name], official[name]) for name in official)
    assert sum(each.numel() for each in model.parameters()) == counted
    assert SIZES["vit_b"].proposals == 50
    features = (torch.randn(1, 256, 64, 64), *_made_up(model.size.proposals))
    tokens, attention = said(model, ["a dog", "the cat on the left"])
    truth = torch.zeros(2, 1024, 1024)
    truth[:, 100:300, 100:400] = 1
    owners = torch.zeros(2, dtype=torch.int64)
    logits, auxiliary = model(features, tokens, attention, owners, Supervision(truth))
    assert logits.shape == (2, 2, 256, 256) and (auxiliary > 0).all()
    (logits.mean() + auxiliary.mean()).backward()
    with torch.no_grad():
        drawn = model.eval()(torch.randn(1, 3, 1024, 1024), tokens[:1], attention[:1])
    assert drawn.shape == (1, 2, 256, 256)


def _made_up(count: int) -> Proposals:
    boxes = torch.tensor([100.0, 100, 400, 300]).expand(1, count, 4)
    regions = torch.nn.functional.normalize(torch.randn(1, count, 2, 1024), dim=-1)
    real = torch.ones(1, count, dtype=torch.bool)
    return Proposals(regions, torch.randn(1, count, 12), boxes, boxes[..., :2] + 50, real)
