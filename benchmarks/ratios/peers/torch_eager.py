"""Plain PyTorch: a loop over the steps, autograd for the gradients."""

from __future__ import annotations

from functools import partial

from ratios.peers import _torch

forward = partial(_torch.forward, _torch.steps)
training = partial(_torch.training, _torch.steps)
