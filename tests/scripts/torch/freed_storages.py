"""Prints the argument that a module names if the storage of the lengths, or of hx, was freed."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pack_sequence

from indygru_cpu.torch import IndyGRU

module = IndyGRU(3, 5)
lengths, hx = torch.tensor([4, 2]), torch.randn(1, 2, 5)
packed = pack_sequence([torch.randn(2, 3), torch.randn(4, 3)], enforce_sorted=False)
for tensor in (lengths, hx):
    tensor.untyped_storage().resize_(0)
for call in (lambda: module(torch.randn(4, 2, 3), lengths=lengths), lambda: module(packed, hx)):
    try:
        call()
        print("no error")
    except ValueError as error:
        print(str(error).split(":")[0])
