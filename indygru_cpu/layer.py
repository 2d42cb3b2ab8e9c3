"""IndyGRU: the sequence layer, in the words of torch.nn.GRU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import _validation as check
from indygru_cpu import functional
from indygru_cpu._parameters import Parameters, initial_parameters

Array = np.ndarray[Any, Any]


class Gradients(NamedTuple):
    """Gradients of a scalar: shaped like x, like h0, and like the parameters under their names."""

    x: Array
    h0: Array
    parameters: dict[str, Array]


@dataclass(frozen=True, eq=False)
class LayerTape:
    """What `IndyGRU.backward` needs of a call of `IndyGRU.forward`; it refers to that call's arrays."""

    owner: IndyGRU
    inner: functional.Tape
    batched: bool
    num_threads: int | None


class IndyGRU:
    """A GRU whose recurrent weights are vectors: each unit sees its input and its own past only.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    num_layers, dropout, bidirectional
        Only 1, 0.0 and False so far; others raise NotImplementedError.
    bias : bool
        Whether there is a bias.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...). No copy is made for it.
    activation : str
        Of the candidate: tanh, relu, sigmoid, identity, elu or softsign.
    dtype : dtype
        float32 or float64, of weights, inputs and outputs alike.
    seed : int, sequence, Generator or None
        For `numpy.random.default_rng`, which draws the initial weights.
    num_threads : int, optional
        Threads of a call that does not say; None chooses by the machine. Results never depend on it.
    reproducible : bool
        Make the bits of a row depend on that row alone, not on the others in its batch.

    Attributes
    ----------
    parameters : mapping of str to array
        The live arrays ``kernel_l0`` (D, 3N), ``recurrent_kernel_l0`` (3N,) and ``bias_l0`` (3N,), gate order r, z,
        candidate. Writing into them changes the layer at once.

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
        seed: Any = None,
        num_threads: int | None = None,
        reproducible: bool = False,
    ) -> None:
        for name, value, only in (
            ("num_layers", num_layers, 1),
            ("dropout", dropout, 0.0),
            ("bidirectional", bidirectional, False),
        ):
            if value != only:
                raise NotImplementedError(f"{name}={value!r}: only {only!r} is implemented so far")
        self.input_size = check.integer(input_size, "input_size", 1)
        self.hidden_size = check.integer(hidden_size, "hidden_size", 1)
        self.bias, self.batch_first, self.reproducible = bool(bias), bool(batch_first), bool(reproducible)
        check.activation_index(activation)
        self.activation = activation
        self.dtype = check.dtype(dtype)
        self.num_threads = check.num_threads(num_threads)
        self._parameters = initial_parameters(
            self.input_size, self.hidden_size, self.bias, self.dtype, np.random.default_rng(seed)
        )

    @property
    def parameters(self) -> Parameters:
        """The live arrays by name."""
        return self._parameters

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy values into the parameters. Every name, shape and dtype is checked first; an error changes nothing.

        Parameters
        ----------
        state_dict : mapping of str to array
            The names of `parameters`, no more and no fewer, with their shapes and dtype.

        Raises
        ------
        ValueError
            Missing or unknown names, or a shape that does not fit.
        TypeError
            Another dtype than the layer's.

        Examples
        --------
        >>> from indygru_cpu import IndyGRU
        >>> a, b = IndyGRU(3, 5, seed=0), IndyGRU(3, 5, seed=1)
        >>> b.load_state_dict(a.state_dict())
        >>> bool((a.parameters["kernel_l0"] == b.parameters["kernel_l0"]).all())
        True
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        names = self._parameters.keys()
        missing, unknown = sorted(names - state_dict.keys()), sorted(state_dict.keys() - names)
        if missing or unknown:
            raise ValueError(f"state_dict: missing {missing}, unknown {unknown}")
        self._parameters.update(state_dict)

    def _weights(self) -> tuple[Array, Array, Array | None]:
        arrays = self._parameters
        return arrays["kernel_l0"], arrays["recurrent_kernel_l0"], arrays.get("bias_l0")

    def _time_major(self, array: Array, batched: bool) -> Array:
        """A view of a user's array as (T, B, width)."""
        if not batched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _as_given(self, array: Array, batched: bool) -> Array:
        """The other way round: a view of a (T, B, width) array as the user lays out his."""
        if not batched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _checked_x(self, x: object) -> tuple[Array, bool]:
        batched = np.ndim(x) != 2  # type: ignore[arg-type]
        sizes = ("T",) if not batched else ("B", "T") if self.batch_first else ("T", "B")
        return check.array("x", x, (*sizes, self.input_size), ("the layer", self.dtype)), batched

    def _checked_state(self, name: str, state: object, n_batch: int, batched: bool) -> Array | None:
        """A state, (1, B, N) or unbatched (1, N), as (B, N)."""
        if state is None:
            return None
        shape = (1, n_batch, self.hidden_size) if batched else (1, self.hidden_size)
        return check.array(name, state, shape, ("the layer", self.dtype)).reshape(n_batch, self.hidden_size)

    def _run(
        self,
        x: object,
        h0: object,
        lengths: object,
        num_threads: int | None,
        tape: bool = False,
        recompute: bool = False,
    ) -> tuple[Array, Array, LayerTape | None]:
        given, batched = self._checked_x(x)
        inputs = self._time_major(given, batched)
        state = self._checked_state("h0", h0, inputs.shape[1], batched)
        if lengths is not None and not batched:
            lengths = np.asarray(lengths)
            lengths = lengths[None] if lengths.ndim == 0 else lengths
        threads = self.num_threads if num_threads is None else num_threads
        y = np.empty((*given.shape[:-1], self.hidden_size), self.dtype)
        _, h_n, *inner = functional.forward(
            inputs, state, *self._weights(), activation=self.activation, lengths=lengths,
            out=self._time_major(y, batched), tape=tape, recompute=recompute, num_threads=threads,
            reproducible=self.reproducible,
        )  # fmt: skip
        return y, h_n[None] if batched else h_n, LayerTape(self, inner[0], batched, threads) if inner else None

    def __call__(
        self, x: object, h0: object = None, *, lengths: object = None, num_threads: int | None = None
    ) -> tuple[Array, Array]:
        """Inference: y and h_n, as `forward`, keeping nothing else."""
        y, h_n, _ = self._run(x, h0, lengths, num_threads)
        return y, h_n

    def forward(
        self,
        x: object,
        h0: object = None,
        *,
        lengths: object = None,
        recompute: bool = False,
        num_threads: int | None = None,
    ) -> tuple[Array, Array, LayerTape]:
        """Run the layer and keep what `backward` needs.

        Parameters
        ----------
        x : array, (T, B, D), or (B, T, D) with ``batch_first``, or (T, D) unbatched
            Inputs of the layer's dtype.
        h0 : array, (1, B, N), or (1, N) unbatched, or None
            State before the first step; None is zeros.
        lengths : integers, (B,), optional
            Valid steps of each row, from 0 to T. Past them y is 0 and the state stays as it is.
        recompute : bool
            Keep only y for `backward` and compute the gates anew there: a quarter of the memory.
        num_threads : int, optional
            Threads of this call and its backward pass.

        Returns
        -------
        y : array, (T, B, N), or (B, T, N), or (T, N)
            All states, read-only, because the tape needs them: copy before you change them.
        h_n : array, (1, B, N), or (1, N)
            State after each row's last valid step.
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
        y, h_n, tape = self._run(x, h0, lengths, num_threads, tape=True, recompute=recompute)
        assert tape is not None
        y.flags.writeable = False
        return y, h_n, tape

    def backward(self, tape: LayerTape, dy: object = None, dh_n: object = None) -> Gradients:
        """Gradients of ``sum(y * dy) + sum(h_n * dh_n)``.

        Parameters
        ----------
        tape : LayerTape
            From this layer's `forward`; it can be used again.
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
        y_given = self._as_given(tape.inner.y, tape.batched)
        if dy is not None:
            dy = self._time_major(check.array("dy", dy, y_given.shape, ("the layer", self.dtype)), tape.batched)
        dh = self._checked_state("dh_n", dh_n, tape.inner.y.shape[1], tape.batched)
        found = functional.backward(tape.inner, dy, dh, num_threads=tape.num_threads)
        by_name = dict(zip(("kernel_l0", "recurrent_kernel_l0", "bias_l0"), found[2:], strict=True))
        return Gradients(
            self._as_given(found.x, tape.batched),
            found.h0[None] if tape.batched else found.h0,
            {name: by_name[name] for name in self._parameters},
        )

    def __repr__(self) -> str:
        defaults = {"bias": True, "batch_first": False, "activation": "tanh", "reproducible": False}
        given = {name: getattr(self, name) for name in defaults}
        options = [f"{name}={value!r}" for name, value in given.items() if value != defaults[name]]
        return f"IndyGRU({', '.join([f'{self.input_size}, {self.hidden_size}', *options, f'dtype={self.dtype}'])})"
