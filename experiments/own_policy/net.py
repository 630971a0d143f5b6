"""A network of one's own for images, with names for what ANIL and CAVIA adapt.

metarl train --family pixel_grid:PixelGrid-v0 --policy net:Net
"""

import torch
from torch import nn


class Net(nn.Module):
    """One convolution over the image, then two layers."""

    head = ("out.weight", "out.bias")
    context = ("task",)

    def __init__(self, observation_space, outputs, channels: int = 8, context_size: int = 4):
        super().__init__()
        height, width, colours = observation_space.shape
        self.convolution = nn.Conv2d(colours, channels, 3, padding=1)
        self.task = nn.Parameter(torch.zeros(context_size))
        self.hidden = nn.Linear(channels * height * width + context_size, 32)
        self.out = nn.Linear(32, outputs)

    def forward(self, images):
        """Images [rows, height, width, colours] in [0, 1] -> logits [rows, outputs]."""
        seen = torch.relu(self.convolution(images.movedim(-1, 1))).flatten(1)
        context = self.task.expand(images.shape[0], -1)
        return self.out(torch.tanh(self.hidden(torch.cat([seen, context], -1))))
