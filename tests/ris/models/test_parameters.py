"""The table of parameters: its arithmetic is right, and nothing is left out."""

from __future__ import annotations

import pytest
import torch
from maskris_parameters import parts_of

from pseudo_ris.cli.lab.parameters import main
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.maskris.model import MaskRis
from pseudo_ris.ris.models.maskris.sizes import SIZES


def built(size_name: str) -> MaskRis:
    """Shapes only."""
    with torch.device("meta"):
        return MaskRis.from_config(ModelConfig("maskris", size_name, image_weights="none"))


def total_of(model: MaskRis) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("size_name", ["tiny", "base"])
def test_the_arithmetic_gives_the_number_of_parameters(size_name):
    model, size = built(size_name), SIZES[size_name]
    parts = parts_of(size, size.window, size.bert_words or model.tokenizer.vocabulary)
    for part in parts:
        assert eval(part.formula) == part.count(model), part.name
    assert sum(part.count(model) for part in parts) == total_of(model)


def test_the_towers_of_base_have_the_published_numbers():
    counts = {part.name: eval(part.formula) for part in parts_of(SIZES["base"], 7, 30_522)}
    assert sum(counts.values()) == 226_572_664
    # timm's Swin-B has 87,768,224, of which the classifier has 1,025,000 and the norm before it 2,048.
    assert sum(count for name, count in counts.items() if name.startswith("Swin")) == 87_768_224 - 1_025_000 - 2_048
    # transformers' BERT-base (uncased) has 109,482,240, of which the pooler has 590,592.
    assert counts["BERT embeddings"] + counts["BERT layers"] == 109_482_240 - 590_592


def test_the_command_prints_a_table(capsys):
    assert main(["--model.name", "maskris", "--model.size", "tiny", "--depth", "2"]) == 0
    *rows, total = [line.split() for line in capsys.readouterr().out.split("Trainable")[0].splitlines()]
    counted = total_of(built("tiny"))
    assert total == ["Total", "params:", f"{counted:,}"]
    assert sum(int(row[-1].replace(",", "")) for row in rows if row[0][0] in "├└│" and row[-1] != "--") == counted
