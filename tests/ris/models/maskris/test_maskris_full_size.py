"""The paper's size on the CPU: a training step and an evaluation step."""

from __future__ import annotations

import pytest
import torch

from pseudo_ris.ris.config import MaskingConfig, ModelConfig, ScheduleConfig
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.training.losses import training_loss
from pseudo_ris.ris.training.schedule import build_optimizer


@pytest.mark.slow
def test_swin_b_and_bert_base_train_and_evaluate_at_224_pixels():
    config = ModelConfig("maskris", "base", image_weights="none", input_size=224, words=20)
    model = build_model(config, seed=0)
    optimizer = build_optimizer(model, ScheduleConfig())
    tokens, attention = model.tokenizer(["the large red ball on the left"])
    truth = torch.zeros(1, 224, 224)
    truth[:, 50:150, 25:100] = 1
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 224, 224, generator=generator)
    batch = {"image": images, "tokens": tokens, "attention": attention, "mask": truth}

    loss = training_loss(model, batch, MaskingConfig(), seeds=[0])
    loss.backward()
    missed = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missed and loss.isfinite()
    before = [parameter.detach().clone() for parameter in (model.decoder.lateral[0].weight, model.image.norms[3].weight)]
    optimizer.step()
    assert not torch.equal(before[0], model.decoder.lateral[0].weight)
    assert not torch.equal(before[1], model.image.norms[3].weight)

    optimizer.zero_grad(set_to_none=True)
    with torch.inference_mode():
        logits = model.eval().upsampled(model(images, tokens, attention), 224)
    assert logits.shape == (1, 2, 224, 224) and logits.isfinite().all()
