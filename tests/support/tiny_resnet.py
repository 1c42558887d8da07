"""A teacher with ResNet18's names of modules that costs next to nothing; torchvision knows it while tests run."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models._api import register_model

NAME = "tiny_resnet"
WIDTHS = (8, 16, 16)  # of the taps of ResNet18's last three blocks


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class TinyResNet(nn.Module):
    """Four layers of two blocks; a block is one convolution, of 4 to 16 channels."""

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 4, 4)
        self.layer1 = nn.Sequential(block(4, 4), block(4, 4))
        self.layer2 = nn.Sequential(block(4, 8, 2), block(8, 8))
        self.layer3 = nn.Sequential(block(8, 8, 2), block(8, 8))
        self.layer4 = nn.Sequential(block(8, 16, 2), block(16, 16))
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def register() -> None:
    """Make `tiny_resnet` one of torchvision's classification models, in this process."""

    def build(weights: None = None, num_classes: int = 1000) -> TinyResNet:
        return TinyResNet(num_classes)

    build.__module__ = "torchvision.models.tiny_resnet"  # where list_models looks
    register_model(NAME)(build)


def save(path: Path, classes: int = 10) -> Path:
    """Write the weights that seed 0 draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(TinyResNet(classes).state_dict(), path)
    return path
