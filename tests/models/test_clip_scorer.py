import pytest
import torch

from pseudo_ris.checkpoints.weights import save_weights
from pseudo_ris.config import ClipConfig
from pseudo_ris.errors import UserError
from pseudo_ris.models.clip.scorer import ClipScorer, build_clip, build_tokenizer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "random.safetensors"
    save_weights(build_clip("demo"), path, {})
    return path


@pytest.fixture(scope="module")
def scorer(weights):
    return ClipScorer.from_config(ClipConfig(weights=str(weights)), "cpu")


def test_demo_clip_has_the_image_tower_of_rn50s_family():
    model = build_clip("demo")
    assert type(model.visual).__name__ == "ModifiedResNet"
    assert build_tokenizer("demo")(["a photo of a dog"]).shape == (1, model.context_length)


def test_texts_keep_their_order_and_equal_texts_their_embedding(scorer):
    texts = ["a red dog", "a blue cat", "a red dog", ""]
    rows = scorer.embed_texts(texts)
    assert rows.shape[0] == 4 and rows.dtype == torch.float32
    assert torch.equal(rows[0], rows[2])
    alone = torch.cat([scorer.embed_texts([text]) for text in texts])
    torch.testing.assert_close(rows, alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(rows[0], rows[1])


def test_many_texts_and_crops_are_batched_without_changing_the_rows(scorer, monkeypatch):
    texts = [f"a {word} dog" for word in ("red", "blue", "green", "big", "old")]
    crops = torch.randn(5, 3, scorer.image_size, scorer.image_size, generator=torch.Generator().manual_seed(1))
    whole = scorer.embed_images(crops), scorer.embed_texts(texts)
    monkeypatch.setattr("pseudo_ris.models.clip.scorer.TEXTS_PER_BATCH", 2)
    monkeypatch.setattr("pseudo_ris.models.clip.scorer.CROPS_PER_BATCH", 2)
    torch.testing.assert_close(scorer.embed_images(crops), whole[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scorer.embed_texts(texts), whole[1], rtol=1e-5, atol=1e-5)


def test_logits_are_open_clips_own(scorer):
    crops = torch.randn(3, 3, scorer.image_size, scorer.image_size, generator=torch.Generator().manual_seed(2))
    texts = ["a red dog", "a big tree"]
    with torch.inference_mode():
        expected, _ = scorer.model.get_logits(crops, scorer.tokenizer(texts))
    logits = scorer.logits(scorer.embed_images(crops), scorer.embed_texts(texts))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_nothing_to_embed_gives_empty_rows(scorer):
    size = scorer.image_size
    images, texts = scorer.embed_images(torch.zeros(0, 3, size, size)), scorer.embed_texts([])
    assert scorer.logits(images, texts).shape == (0, 0)


def test_a_caption_longer_than_the_context_is_cut(scorer):
    assert scorer.embed_texts(["dog " * 500]).isfinite().all()


def test_weights_of_another_model_are_refused(tmp_path):
    save_weights(torch.nn.Linear(2, 2), tmp_path / "other.safetensors", {})
    with pytest.raises(UserError, match=r"not weights of clip \(demo\)"):
        ClipScorer.from_config(ClipConfig(weights=str(tmp_path / "other.safetensors")), "cpu")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("RN5O", "did you mean RN50"), ("nonsense!", "for example RN50"), ("roberta-ViT-B-32", "no plain CLIP text tower")],
)
def test_unknown_and_unfit_architectures_are_refused(name, remedy):
    with pytest.raises(UserError, match=remedy):
        build_clip(name)


@pytest.mark.slow
def test_rn50_is_built_as_openai_trained_it():
    with torch.device("meta"):
        model = build_clip("RN50")
    assert sum(parameter.numel() for parameter in model.parameters()) == 102_007_137
    assert type(model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert model.visual.image_size == 224


@pytest.mark.parametrize("batch", [2, 256])
def test_texts_of_any_length_are_encoded_as_open_clip_does(scorer, batch, monkeypatch):
    monkeypatch.setattr("pseudo_ris.models.clip.scorer.TEXTS_PER_BATCH", batch)
    texts = [" ".join(["a red dog and"] * count) for count in (3, 0, 1, 30, 2)]
    with torch.inference_mode():
        expected = scorer.model.encode_text(scorer.tokenizer(texts), normalize=True)
    torch.testing.assert_close(scorer.embed_texts(texts), expected, rtol=1e-5, atol=1e-5)


def test_a_text_tower_that_looks_ahead_sees_the_whole_context(weights, monkeypatch):
    scorer = ClipScorer.from_config(ClipConfig(weights=str(weights)), "cpu")
    causal = scorer.embed_texts(["a red dog"])
    monkeypatch.setattr(scorer.model, "attn_mask", None)
    with torch.inference_mode():
        expected = scorer.model.encode_text(scorer.tokenizer(["a red dog"]), normalize=True)
    torch.testing.assert_close(scorer.embed_texts(["a red dog"]), expected)
    assert not torch.allclose(expected, causal, atol=1e-3)
