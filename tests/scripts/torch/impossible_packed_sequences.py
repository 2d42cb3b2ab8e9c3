"""Prints the error of a module for packed sequences with impossible batch sizes. Argument: a JSON list of batch sizes.

Each is tried many times, because torch's own `pad_packed_sequence` would write past its result.
"""

from __future__ import annotations

import json
import sys

import torch
from torch.nn.utils.rnn import PackedSequence

from indygru_cpu.torch import IndyGRU

module = IndyGRU(3, 4)


def error_of(batch_sizes):
    try:
        module(PackedSequence(torch.ones(4, 3), torch.tensor(batch_sizes, dtype=torch.int64)))
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


for batch_sizes in json.loads(sys.argv[1]):
    (text,) = {error_of(batch_sizes) for _ in range(100)}
    print(text)
