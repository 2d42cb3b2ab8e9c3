"""The single table of gate orders, the meaning of z, and bias layouts of every supported library.

The converters read this table. docs/interop.md prints it, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from indygru_cpu._typing import Array


@dataclass(frozen=True)
class GateOrder:
    """The layout of GRU weights in one library. r, z and c are IndyGRU's names of the gates.

    Attributes
    ----------
    library : str
        Name of the library and of the GRU variant.
    gates : str
        Order of the gates in every array.
    z_sign : int
        1 where z is the share of the old state, as in IndyGRU; -1 where z is the share of the new state. All weights
        of z then change their sign, because 1 - sigmoid(a) = sigmoid(-a).
    kernel, recurrent_kernel, bias : str
        Names and shapes of the weights of one layer and direction.
    bias_inside_reset : bool
        Whether the candidate has a recurrent bias, multiplied by r: c = act(x W + b + r * (h U + b')).
    exact_when : str
        Condition under which such a GRU is exactly an IndyGRU.
    """

    library: str
    gates: str
    z_sign: int
    kernel: str
    recurrent_kernel: str
    bias: str
    bias_inside_reset: bool
    exact_when: str

    def to_native(self, planes: Array) -> Array:
        """Convert (..., 3N) from this order to IndyGRU's order, in a new array."""
        gate = dict(zip(self.gates, np.split(planes, 3, axis=-1), strict=True))
        return np.concatenate([gate["r"], self.z_sign * gate["z"], gate["c"]], axis=-1)

    def from_native(self, planes: Array) -> Array:
        """Convert (..., 3N) from IndyGRU's order to this order, in a new array."""
        r, z, c = np.split(planes, 3, axis=-1)
        gate = {"r": r, "z": self.z_sign * z, "c": c}
        return np.concatenate([gate[name] for name in self.gates], axis=-1)


_DIAGONAL = "the recurrent matrices are diagonal"
_RESET_AFTER: dict[str, Any] = {
    "bias_inside_reset": True,
    "exact_when": f"{_DIAGONAL}, and the candidate's bias of the state is 0",
}

INDYGRU = GateOrder(
    library="IndyGRU",
    gates="rzc",
    z_sign=1,
    kernel="kernel_l0 (D/groups, 3N)",
    recurrent_kernel="recurrent_kernel_l0 (3N,)",
    bias="bias_l0 (3N,)",
    bias_inside_reset=False,
    exact_when="always",
)
TORCH = GateOrder(
    library="torch.nn.GRU",
    gates="rzc",
    z_sign=1,
    kernel="weight_ih_l0 (3N, D)",
    recurrent_kernel="weight_hh_l0 (3N, N)",
    bias="bias_ih_l0 (3N,) + bias_hh_l0 (3N,)",
    **_RESET_AFTER,
)
KERAS_RESET_BEFORE = GateOrder(
    library="Keras GRU, reset_after=False",
    gates="zrc",
    z_sign=1,
    kernel="kernel (D, 3N)",
    recurrent_kernel="recurrent_kernel (N, 3N)",
    bias="bias (3N,)",
    bias_inside_reset=False,
    exact_when=_DIAGONAL,
)
KERAS_RESET_AFTER = replace(
    KERAS_RESET_BEFORE, library="Keras GRU, reset_after=True", bias="sum of bias (2, 3N)", **_RESET_AFTER
)
ONNX_RESET_BEFORE = GateOrder(
    library="ONNX GRU, linear_before_reset=0",
    gates="zrc",
    z_sign=1,
    kernel="W (directions, 3N, D)",
    recurrent_kernel="R (directions, 3N, N)",
    bias="sum of the halves of B (directions, 6N)",
    bias_inside_reset=False,
    exact_when=_DIAGONAL,
)
ONNX_RESET_AFTER = replace(ONNX_RESET_BEFORE, library="ONNX GRU, linear_before_reset=1", **_RESET_AFTER)
PARARNN = GateOrder(
    library="ParaGRU of ParaRNN",
    gates="zrc",
    z_sign=-1,
    kernel="B (heads, D/heads, 3, N/heads)",
    recurrent_kernel="A (3, N)",
    bias="b (3, N)",
    bias_inside_reset=False,
    exact_when="always; h0 is 0",
)
TABLE = (INDYGRU, TORCH, KERAS_RESET_BEFORE, KERAS_RESET_AFTER, ONNX_RESET_BEFORE, ONNX_RESET_AFTER, PARARNN)
