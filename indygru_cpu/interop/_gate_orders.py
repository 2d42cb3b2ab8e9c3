"""The single table of gate orders, equations, the meaning of z, and bias layouts of every supported library.

The converters read this table. docs/interop.md prints its layouts and docs/which_cell.md its equations; tests compare
both pages with it, and evaluate its equations.
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
    importer : str or None
        Name of the function of `indygru_cpu.interop` that reads its weights.
    gates : str
        Order of the gates in every array. A cell without a reset gate has no r.
    symbols : tuple of str
        What the library calls these gates, in the same order.
    candidate, update : str
        The library's equations of the candidate and of the new state, as NumPy expressions of its symbols, x, the old
        state h, the weights W and U (u where it is a vector) and the biases b and d of the input and of the state.
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
    importer: str | None
    gates: str
    symbols: tuple[str, ...]
    candidate: str
    update: str
    z_sign: int
    kernel: str
    recurrent_kernel: str
    bias: str
    bias_inside_reset: bool
    exact_when: str

    def to_native(self, planes: Array) -> Array:
        """Convert (..., 3N), or (..., 2N) without r, from this order to IndyGRU's order, in a new array."""
        return self._reordered(planes, self.gates, self._native_gates)

    def from_native(self, planes: Array) -> Array:
        """Convert (..., 3N), or (..., 2N) without r, from IndyGRU's order to this order, in a new array."""
        return self._reordered(planes, self._native_gates, self.gates)

    @property
    def _native_gates(self) -> str:
        return "".join(name for name in "rzc" if name in self.gates)

    def _reordered(self, planes: Array, source: str, target: str) -> Array:
        gate = dict(zip(source, np.split(planes, len(source), axis=-1), strict=True))
        gate["z"] = self.z_sign * gate["z"]
        return np.concatenate([gate[name] for name in target], axis=-1)


_DIAGONAL = "the recurrent matrices are diagonal"
_RESET_AFTER: dict[str, Any] = {
    "candidate": "tanh(x @ W + b + r * (h @ U + d))",
    "bias_inside_reset": True,
    "exact_when": f"{_DIAGONAL}, and the candidate's bias of the state is 0",
}

INDYGRU = GateOrder(
    library="IndyGRU",
    importer=None,
    gates="rzc",
    symbols=("r", "z", "c"),
    candidate="tanh(x @ W + b + u * (r * h))",
    update="z * h + (1 - z) * c",
    z_sign=1,
    kernel="kernel_l0 (D/groups, 3N)",
    recurrent_kernel="recurrent_kernel_l0 (3N,)",
    bias="bias_l0 (3N,)",
    bias_inside_reset=False,
    exact_when="always",
)
TORCH = GateOrder(
    library="torch.nn.GRU",
    importer="from_torch",
    gates="rzc",
    symbols=("r", "z", "n"),
    update="(1 - z) * n + z * h",
    z_sign=1,
    kernel="weight_ih_l0 (3N, D)",
    recurrent_kernel="weight_hh_l0 (3N, N)",
    bias="bias_ih_l0 (3N,) + bias_hh_l0 (3N,)",
    **_RESET_AFTER,
)
KERAS_RESET_BEFORE = GateOrder(
    library="Keras GRU, reset_after=False",
    importer="from_keras",
    gates="zrc",
    symbols=("z", "r", "hh"),
    candidate="tanh(x @ W + b + (r * h) @ U)",
    update="z * h + (1 - z) * hh",
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
    importer="from_onnx",
    gates="zrc",
    symbols=("z", "r", "h_"),
    candidate="tanh(x @ W + b + (r * h) @ U)",
    update="(1 - z) * h_ + z * h",
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
    importer="from_pararnn",
    gates="zrc",
    symbols=("z", "r", "c"),
    candidate="tanh(x @ W + b + u * (h * r))",
    update="(1 - z) * h + z * c",
    z_sign=-1,
    kernel="B (heads, D/heads, 3, N/heads)",
    recurrent_kernel="A (3, N)",
    bias="b (3, N)",
    bias_inside_reset=False,
    exact_when="always; its first state is 0",
)
XMA = GateOrder(
    library="GRU of accelerated-model-architectures (XMA)",
    importer="from_xma",
    gates="czr",
    symbols=("z", "f", "r"),
    candidate="tanh((h * r) * u + x @ W + b)",
    update="f * h + (1 - f) * z",
    z_sign=1,
    kernel="input_projection.weight (3N, D)",
    recurrent_kernel="state_weight, forget_weight, reset_weight (N, 1, 1)",
    bias="input_projection.bias (3N,)",
    bias_inside_reset=False,
    exact_when="state_head_dim is 1",
)
MINGRU_TORCH = GateOrder(
    library="minGRU of minGRU-pytorch",
    importer="from_mingru",
    gates="cz",
    symbols=("hidden", "gate"),
    candidate="g(x @ W)",
    update="(1 - gate) * h + gate * hidden",
    z_sign=-1,
    kernel="to_hidden_and_gate.weight (2N, D)",
    recurrent_kernel="0",
    bias="none; to_hidden_and_gate.bias (2N,) is read where a state dict has it",
    bias_inside_reset=False,
    exact_when="always",
)
MINGRU_KERAS = GateOrder(
    library="MinGRU of mingru-keras",
    importer="from_mingru",
    gates="zc",
    symbols=("Z", "H"),
    candidate="x @ W + b",
    update="(1 - Z) * h + Z * H",
    z_sign=-1,
    kernel="kernels of gate and candidate (D, N)",
    recurrent_kernel="0",
    bias="biases of gate and candidate (N,)",
    bias_inside_reset=False,
    exact_when="always; its first state is 0",
)
TABLE = (
    INDYGRU,
    TORCH,
    KERAS_RESET_BEFORE,
    KERAS_RESET_AFTER,
    ONNX_RESET_BEFORE,
    ONNX_RESET_AFTER,
    PARARNN,
    XMA,
    MINGRU_TORCH,
    MINGRU_KERAS,
)
