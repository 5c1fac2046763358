"""ResNet with a feature pyramid, with detectron2's tensor names (`bottom_up.res2.0.conv1.norm.weight`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's levels p2 ... p6
LEVELS = (2, 3, 4, 5)


class NormedConv(nn.Conv2d):
    """Convolution without bias, then batch normalisation, which is a child named `norm` as in detectron2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(x))


class Stem(nn.Module):
    """Stride-2 convolution and stride-2 pooling: [b, 3, h, w] -> [b, channels, h / 4, w / 4]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(3, channels, 7, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.relu(self.conv1(x)), 3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1, added to the input."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut = NormedConv(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else None
        self.conv1 = NormedConv(inputs, inner, 1)
        self.conv2 = NormedConv(inner, inner, 3, stride)
        self.conv3 = NormedConv(inner, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(residual + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """Stem and four stages; see `CascadeConfig` for the arguments."""

    def __init__(self, stem: int, inner: tuple[int, ...], outputs: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = Stem(stem)
        inputs = stem
        for level, width, channels, count in zip(LEVELS, inner, outputs, blocks, strict=True):
            stage = []
            for index in range(count):
                stride = 2 if index == 0 and level > LEVELS[0] else 1
                stage.append(Bottleneck(inputs, width, channels, stride))
                inputs = channels
            setattr(self, f"res{level}", nn.Sequential(*stage))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[b, 3, h, w] -> outputs of res2 ... res5, strides 4 ... 32."""
        features = [self.stem(x)]
        for level in LEVELS:
            features.append(getattr(self, f"res{level}")(features[-1]))
        return features[1:]


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al. 2017) over `bottom_up`, fused by summing."""

    def __init__(self, bottom_up: ResNet, inputs: tuple[int, ...], channels: int) -> None:
        super().__init__()
        for level, width in zip(LEVELS, inputs, strict=True):
            setattr(self, f"fpn_lateral{level}", NormedConv(width, channels, 1))
            setattr(self, f"fpn_output{level}", NormedConv(channels, channels, 3))
        self.bottom_up = bottom_up

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[b, 3, h, w], h and w multiples of 32 -> p2 ... p6, each [b, channels, h / stride, w / stride] (up)."""
        pyramid: list[torch.Tensor] = []
        top = None
        for level, features in reversed(list(zip(LEVELS, self.bottom_up(x), strict=True))):
            lateral = getattr(self, f"fpn_lateral{level}")(features)
            top = lateral if top is None else lateral + F.interpolate(top, scale_factor=2.0, mode="nearest")
            pyramid.insert(0, getattr(self, f"fpn_output{level}")(top))
        return [*pyramid, pyramid[-1][:, :, ::2, ::2]]
