"""IndyGRU: the sequence layer, in the words of torch.nn.GRU."""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._layers.layouts import Start
from indygru_cpu._layers.parameters import initial_parameters
from indygru_cpu._layers.passes import Gradients, LayerTape, Passes
from indygru_cpu._layers.weighted import checked_options
from indygru_cpu._typing import Array
from indygru_cpu.stream import Stream


class IndyGRU(Passes):
    """A GRU whose recurrent weights are vectors: each unit sees its input and its own past only.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    num_layers : int
        Layers on top of each other, each taking the y of the one below.
    bias : bool
        Whether there is a bias.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...). No copy is made for it.
    dropout : float
        Probability with which `forward`, and only it, sets a number of an inner layer's y to 0; it divides the others
        by the probability of staying.
    bidirectional : bool
        Whether each layer has a second direction, which runs each row from its last valid step to its first.
    activation : str
        Of the candidate: tanh, relu, sigmoid, identity, elu or softsign.
    dtype : dtype
        float32 or float64, of weights, inputs and outputs alike.
    groups : int
        Blocks that inputs and units split into: units of a block see the inputs of that block only, and kernels store
        and multiply those alone. It divides `input_size` and `hidden_size`.
    seed : int, sequence, Generator or None
        For `numpy.random.default_rng`, which draws the initial weights and what dropout drops.
    num_threads : int, optional
        Threads of a call that names no number. None: each call chooses by measured costs, see `thread_statistics`.
        Results never depend on it. It is the only argument that can be set later, as an attribute: the others are
        read-only.
    reproducible : bool
        Make the bits of a row depend on that row alone, not on the others in its batch.

    Attributes
    ----------
    parameters : mapping of str to array
        The live arrays ``kernel_l0`` (D / groups, 3N), ``recurrent_kernel_l0`` (3N,) and ``bias_l0`` (3N,), gate order
        r, z, candidate; with ``_reverse`` appended, those of the second direction; and so on with ``_l1``. Writing into
        them changes the layer at once.

    Notes
    -----
    The equations are those of ``tf.contrib.rnn.IndyGRUCell`` (TensorFlow 1.14), and so are the initial values:
    kernels Glorot uniform (of gates with fans D and 2N, of the candidate with D and N), recurrent vectors uniform on
    [-1, 1), biases 1 for the gates and 0 for the candidate.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRU
    >>> layer = IndyGRU(3, 5, seed=0)
    >>> x = np.random.default_rng(0).standard_normal((9, 4, 3), dtype=np.float32)  # (T, B, D)
    >>> y, h_n = layer(x)
    >>> y.shape, h_n.shape
    ((9, 4, 5), (1, 4, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        activation: str = "tanh",
        dtype: Any = np.float32,
        *,
        groups: int = 1,
        seed: Any = None,
        num_threads: int | None = None,
        reproducible: bool = False,
    ) -> None:
        self._options = checked_options(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=bias, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, activation=activation, dtype=dtype, groups=groups,
            reproducible=reproducible,
        )  # fmt: skip
        num_threads, rng = check.num_threads(num_threads), check.generator(seed)
        self._finish(initial_parameters(self._shapes(), self.groups, self.dtype, rng), rng, num_threads)

    def __call__(
        self,
        x: object,
        h0: object = None,
        *,
        lengths: object = None,
        out: Array | None = None,
        h_out: Array | None = None,
        num_threads: int | None = None,
        progress: Any = None,
    ) -> tuple[Array, Array]:
        """Inference: y and h_n, as `forward` without dropout, keeping nothing else.

        Parameters
        ----------
        x, h0, lengths, num_threads, progress
            As in `forward`.
        out, h_out : arrays, shaped like y and h_n, optional
            Where the results go. They may share no memory with arguments or with each other, but `h_out` may be `h0`.

        Returns
        -------
        y, h_n : arrays
            As in `forward`; y may be written to.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, num_layers=2, bidirectional=True, seed=0)
        >>> x = np.random.default_rng(0).standard_normal((9, 4, 3), dtype=np.float32)
        >>> y, h_n = layer(x, lengths=[9, 0, 5, 1])
        >>> y.shape, h_n.shape
        ((9, 4, 10), (4, 4, 5))
        """
        start = Start.padded(self, x, h0, lengths)
        return self._infer(start, out, h_out, True, num_threads, progress)

    def last(
        self,
        x: object,
        h0: object = None,
        *,
        lengths: object = None,
        h_out: Array | None = None,
        num_threads: int | None = None,
        progress: Any = None,
    ) -> Array:
        """h_n alone, as `__call__` gives it: y is never stored, unless a layer below a bidirectional one makes it.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, seed=0)
        >>> x = np.random.default_rng(0).standard_normal((9, 4, 3), dtype=np.float32)
        >>> bool((layer.last(x) == layer(x)[1]).all())
        True
        """
        start = Start.padded(self, x, h0, lengths)
        return self._infer(start, None, h_out, False, num_threads, progress)[1]

    def ragged(
        self,
        values: object,
        offsets: object,
        h0: object = None,
        *,
        tape: bool = False,
        recompute: bool = False,
        out: Array | None = None,
        h_out: Array | None = None,
        num_threads: int | None = None,
        progress: Any = None,
    ) -> tuple[Array, Array] | tuple[Array, Array, LayerTape]:
        """Run sequences that lie one after the other, as Arrow and CSR have them: no padding anywhere.

        Parameters
        ----------
        values : array, (S, D)
            The steps of all sequences.
        offsets : integers, (B + 1,)
            Sequence b is ``values[offsets[b]:offsets[b + 1]]``; it may be empty.
        tape : bool
            As `forward`: dropout, and a tape for `backward`, whose `dy` and `x` are then (S, width) too.
        h0, recompute, out, h_out, num_threads, progress
            As in `__call__` and `forward`; with a tape there is no `out` and `h_out`.

        Returns
        -------
        y : array, (S, N), or (S, 2N) with two directions
            All states, laid out like `values`; 0 where those belong to no sequence.
        h_n : array, (layers * directions, B, N)
            State after each sequence's last step.
        tape : LayerTape
            Only with ``tape=True``.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, seed=0)
        >>> values = np.random.default_rng(0).standard_normal((9, 3), dtype=np.float32)
        >>> y, h_n = layer.ragged(values, [0, 2, 2, 9])  # of 2, 0 and 7 steps
        >>> y.shape, h_n.shape
        ((9, 5), (1, 3, 5))
        """
        start = Start.ragged(self, values, h0, offsets)
        if not tape:
            return self._infer(start, out, h_out, True, num_threads, progress)
        if out is not None or h_out is not None:
            raise ValueError("out, h_out: expected None with tape=True, whose arrays the tape keeps")
        return self._train(start, recompute, num_threads, progress)

    def forward(
        self,
        x: object,
        h0: object = None,
        *,
        lengths: object = None,
        recompute: bool = False,
        num_threads: int | None = None,
        progress: Any = None,
    ) -> tuple[Array, Array, LayerTape]:
        """Run the layer, with dropout, and keep what `backward` needs.

        Parameters
        ----------
        x : array, (T, B, D), or (B, T, D) with ``batch_first``, or (T, D) unbatched
            Inputs of the layer's dtype. Here as for every other argument that is read, also what lends its memory to
            NumPy or as a DLPack, such as a tensor of another library on the CPU; not masked arrays.
        h0 : array, (layers * directions, B, N), or (layers * directions, N) unbatched, or None
            States before the first step, in the order of torch.nn.GRU: layer by layer, forward before reverse. None is
            zeros.
        lengths : integers, (B,), optional
            Valid steps of each row, from 0 to T, in any order. Past them y is 0 and the state stays as it is.
        recompute : bool
            Keep only y for `backward` and compute the gates anew there: a quarter of the memory.
        num_threads : int, optional
            Threads of this call and its backward pass.
        progress : callable or tqdm bar, optional
            Called as ``progress(steps done, steps in all)`` every few hundredths of a second, where each layer and
            direction counts its own steps. An exception that it raises ends the call.

        Returns
        -------
        y : array, (T, B, N), or (B, T, N), or (T, N); with two directions (..., 2N), forward before reverse
            All states of the last layer, read-only, because the tape needs them: copy before you change them.
        h_n : array, shaped like h0
            States after each row's last valid step; of the reverse direction, after its first.
        tape : LayerTape
            For `backward`. It refers to x and to the parameters: run `backward` before you change them.

        Raises
        ------
        TypeError, ValueError
            A dtype, shape or length that does not fit, named with what was expected.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, seed=0)
        >>> x = np.random.default_rng(0).standard_normal((9, 4, 3), dtype=np.float32)
        >>> y, h_n, tape = layer.forward(x)
        >>> grads = layer.backward(tape, dy=2 * y)  # gradients of (y ** 2).sum()
        >>> layer.parameters["kernel_l0"][...] -= 0.01 * grads.parameters["kernel_l0"]  # a step of descent
        """
        start = Start.padded(self, x, h0, lengths)
        return self._train(start, recompute, num_threads, progress)

    def stream(self, batch_size: int = 1, *, num_threads: int | None = None) -> Stream:
        """Make a stream: steps one by one, as a live application has them, with as little around each as possible.

        Parameters
        ----------
        batch_size : int
            Rows of each step.
        num_threads : int, optional
            Threads of a step, if it is worth more than one; None is the layer's.

        Returns
        -------
        Stream
            With states of zeros and a snapshot of the layer's weights.

        Raises
        ------
        ValueError
            The layer is bidirectional.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, seed=0, reproducible=True)
        >>> x = np.random.default_rng(0).standard_normal((9, 1, 3), dtype=np.float32)
        >>> stream = layer.stream()
        >>> y = np.stack([stream.push(x_t).copy() for x_t in x])
        >>> bool((y == layer(x)[0]).all())
        True
        """
        return Stream(self, batch_size, num_threads)

    def backward(self, tape: LayerTape, dy: object = None, dh_n: object = None) -> Gradients:
        """Gradients of ``sum(y * dy) + sum(h_n * dh_n)``.

        Parameters
        ----------
        tape : LayerTape
            From this layer's `forward` or `ragged`; it can be used again.
        dy, dh_n : arrays shaped like y and h_n, or None
            Gradients of a scalar with respect to y and h_n; None is zeros.

        Returns
        -------
        Gradients
            ``x`` and ``h0``, shaped like them, and ``parameters``, a dict under the parameters' names.

        Raises
        ------
        TypeError, ValueError
            A tape of another layer, a gradient of another dtype or shape.
        """
        if not isinstance(tape, LayerTape) or tape.owner is not self:
            raise TypeError("tape: expected what this layer's forward returned")
        return self._gradients(tape, dy, dh_n)
