"""Initial weights of the layers that the release does not leave at PyTorch's defaults."""

from __future__ import annotations

from torch import nn

STD = 0.02
"""Of linear layers. The release cuts this normal distribution at -2 and 2, which are 100 standard deviations."""


def draw_linear(module: nn.Module) -> None:
    """Draws the weights of all linear layers in `module` from a normal distribution; their biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=STD)
            nn.init.zeros_(layer.bias)


def draw_convolution(layer: nn.Conv2d) -> nn.Conv2d:
    """Returns `layer` with weights drawn as He et al. (ICCV 2015) do for ReLUs, by its outputs; its bias, if any, becomes 0."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
