"""Conversion between the ParaGRU of ParaRNN and IndyGRU."""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu._layers.parameters import suffixes
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import PARARNN
from indygru_cpu.interop._state_dicts import check_names, check_no_prefix, has_weights_by_name, select_weights
from indygru_cpu.interop._weights import (
    WeightChecker,
    check_single_layer,
    converter_options,
    weights_with_reset_gate,
)
from indygru_cpu.layer import IndyGRU, checked_layer

#: Suffix of the parameter names of a layer with one layer and direction.
_SUFFIX = suffixes(1, bidirectional=False)[0][0]


def from_pararnn(
    A: Any, B: Any = None, b: Any = None, *, prefix: str = "", activation: str = "tanh", **options: Any
) -> IndyGRU:
    """Convert a ParaGRU cell to a layer. The cell's heads become the layer's groups.

    Parameters
    ----------
    A : array or tensor, (3, N); or mapping or module
        Recurrent weights; the rows are z, r, candidate. A mapping of names to arrays, or the cell itself, has all
        three.
    B : array or tensor, (heads, D/heads, 3, N/heads)
        Input weights.
    b : array or tensor, (3, N)
        Biases.
    prefix : str
        Prefix of the names to read of a mapping, such as "cell."; other names are ignored.
    activation : str
        Activation of the candidate, as for `IndyGRU`. Both gates must be sigmoids.
    **options
        Options of the new layer: batch_first, dropout, num_threads, reproducible, seed. ``batch_first`` defaults to
        True, as in ParaRNN.

    Returns
    -------
    IndyGRU
        A layer with ``groups=heads`` and copies of the weights, in their dtype.

    Raises
    ------
    TypeError
        The dtype is neither float32 nor float64, dtypes differ, or an option is unknown.
    ValueError
        Shapes do not fit each other, a mapping has other names, or an option has a wrong value.

    Notes
    -----
    ParaGRU [1]_ computes ``h' = (1 - z) h + z c``, so all weights of z change their sign. It starts at ``h0=None``.

    References
    ----------
    .. [1] F. Danieli et al., ParaRNN: Unlocking Parallel Training of Nonlinear RNNs for Large Language Models,
       https://arxiv.org/abs/2510.21450; ``gru_diag_mh.py`` of https://github.com/apple/ml-pararnn

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu.interop import from_pararnn
    >>> rng = np.random.default_rng(0)
    >>> A, B, b = (rng.uniform(-1, 1, shape) for shape in [(3, 10), (2, 3, 3, 5), (3, 10)])
    >>> from_pararnn(A, B, b).groups
    2
    """
    options = {"batch_first": True, **converter_options(options)}
    if (B is None) != (b is None) or (B is None and hasattr(A, "shape")):
        got = "no b" if B is not None else "no B" if b is not None else "A alone"
        raise TypeError(f"A, B, b: expected three arrays, or a mapping as A; got {got}")
    if B is None:
        arrays = select_weights("A", A, prefix, "a ParaGRU", "from_pararnn")
        check_names("A", arrays, prefix, "from_pararnn", {"A", "B", "b"})
        A, B, b = arrays["A"], arrays["B"], arrays["b"]
    elif has_weights_by_name(A):
        raise TypeError(f"A, B, b: expected three arrays, or a mapping as A; got B and b beside {type(A).__name__}")
    else:
        check_no_prefix(prefix, "three arrays")
    checker = WeightChecker()
    n = checker.checked("A", A, (3, "N")).shape[1]
    heads, d = checker.checked("B", B, ("heads", "D/heads", 3, "N/heads")).shape[:2]
    if n % heads:
        raise ValueError(f"B: expected a number of heads that divides the {n} units of A, got {heads}")
    blocks = checker.checked("B", B, (heads, d, 3, n // heads))
    state_dict = {
        f"kernel{_SUFFIX}": PARARNN.to_native(blocks.transpose(1, 2, 0, 3).reshape(d, 3 * n)),
        f"recurrent_kernel{_SUFFIX}": PARARNN.to_native(checker.checked("A", A, (3, n)).reshape(3 * n)),
        f"bias{_SUFFIX}": PARARNN.to_native(checker.checked("b", b, (3, n)).reshape(3 * n)),
    }
    layer = IndyGRU(heads * d, n, activation=activation, dtype=blocks.dtype, groups=heads, **options)
    layer.load_state_dict(state_dict)
    return layer


def to_pararnn(layer: IndyGRU) -> dict[str, Array]:
    """Convert a layer to the weights of an equivalent ParaGRU cell, which starts at a state of zeros.

    Parameters
    ----------
    layer : IndyGRU
        A layer with ``num_layers=1`` and one direction. Its groups become heads. A layer without a reset gate gets one
        with a bias of 40.

    Returns
    -------
    dict of str to array
        A (3, N), B (heads, D/heads, 3, N/heads) and b (3, N), the names of the cell's state_dict. All are copies. b is
        0 if the layer has no bias.

    Raises
    ------
    ValueError
        The layer is a stack or bidirectional.
    TypeError
        `layer` is not an IndyGRU.

    Examples
    --------
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.interop import from_pararnn, to_pararnn
    >>> layer = IndyGRU(6, 10, groups=2, seed=0)
    >>> {name: array.shape for name, array in to_pararnn(layer).items()}
    {'A': (3, 10), 'B': (2, 3, 3, 5), 'b': (3, 10)}
    >>> from_pararnn(**to_pararnn(layer), batch_first=False)
    IndyGRU(6, 10, groups=2, dtype=float32)
    """
    check_single_layer(checked_layer(layer), "a ParaGRU cell")
    n, heads = layer.hidden_size, layer.groups
    kernel, recurrent_kernel, bias = weights_with_reset_gate(layer, _SUFFIX)
    kernel = PARARNN.from_native(kernel).reshape(-1, 3, heads, n // heads)
    bias = np.zeros(3 * n, layer.dtype) if bias is None else bias
    return {
        "A": PARARNN.from_native(recurrent_kernel).reshape(3, n),
        "B": np.ascontiguousarray(kernel.transpose(2, 0, 1, 3)),
        "b": PARARNN.from_native(bias).reshape(3, n),
    }
