"""The ParaGRU of ParaRNN from and to IndyGRU."""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import PARARNN
from indygru_cpu.interop._weights import Reader, checked_layer, checked_options
from indygru_cpu.layer import IndyGRU


def from_pararnn(A: Any, B: Any, b: Any, *, activation: str = "tanh", **options: Any) -> IndyGRU:
    """Make a layer of a ParaGRU cell. Its heads stay blocks: they are the layer's groups.

    Parameters
    ----------
    A : array or tensor, (3, N)
        Recurrent weights; the rows are z, r, candidate.
    B : array or tensor, (heads, D/heads, 3, N/heads)
        Weights of the inputs.
    b : array or tensor, (3, N)
        Biases.
    activation : str
        Of the candidate, as for `IndyGRU`. Both gates must be sigmoids.
    **options
        Of the new layer: batch_first, dropout, num_threads, reproducible, seed. ``batch_first`` is True unless given,
        as ParaRNN has it.

    Returns
    -------
    IndyGRU
        With ``groups=heads``, copies of the weights, and their dtype.

    Raises
    ------
    TypeError, ValueError
        A dtype other than float32 and float64, or a mixture; shapes that do not fit each other.

    Notes
    -----
    ParaGRU [1]_ has ``h' = (1 - z) h + z c``, so that the weights of z change their sign. It begins at ``h0=None``.

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
    options = {"batch_first": True, **checked_options(options)}
    read = Reader()
    n = read("A", A, (3, "N")).shape[1]
    heads, d = read("B", B, ("heads", "D/heads", 3, "N/heads")).shape[:2]
    if not heads or n % heads:
        raise ValueError(f"B: expected a number of heads that divides the {n} units of A, got {heads}")
    blocks = read("B", B, (heads, d, 3, n // heads))
    layer_weights = {
        "kernel_l0": PARARNN.ours(blocks.transpose(1, 2, 0, 3).reshape(d, 3 * n)),
        "recurrent_kernel_l0": PARARNN.ours(read("A", A, (3, n)).reshape(3 * n)),
        "bias_l0": PARARNN.ours(read("b", b, (3, n)).reshape(3 * n)),
    }
    layer = IndyGRU(heads * d, n, activation=activation, dtype=blocks.dtype, groups=heads, **options)
    layer.load_state_dict(layer_weights)
    return layer


def to_pararnn(layer: IndyGRU) -> dict[str, Array]:
    """Make the weights of a ParaGRU cell that computes the same, beginning at a state of zeros.

    Parameters
    ----------
    layer : IndyGRU
        Of one layer and direction. Its groups become heads.

    Returns
    -------
    dict of str to array
        A (3, N), B (heads, D/heads, 3, N/heads), b (3, N): the names in the cell's state_dict. Copies. A layer
        without a bias has one of zeros there.

    Raises
    ------
    ValueError
        A stack, or both directions: a ParaGRU cell is one layer, forward.

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
    if checked_layer(layer).num_layers > 1 or layer.bidirectional:
        raise ValueError(
            "layer: a ParaGRU cell is one layer and runs forward, and this layer has "
            f"num_layers={layer.num_layers}, bidirectional={layer.bidirectional}"
        )
    n, heads = layer.hidden_size, layer.groups
    arrays = layer.parameters
    kernel = PARARNN.theirs(arrays["kernel_l0"]).reshape(-1, 3, heads, n // heads)
    bias = arrays.get("bias_l0", np.zeros(3 * n, layer.dtype))
    return {
        "A": PARARNN.theirs(arrays["recurrent_kernel_l0"]).reshape(3, n),
        "B": np.ascontiguousarray(kernel.transpose(2, 0, 1, 3)),
        "b": PARARNN.theirs(bias).reshape(3, n),
    }
