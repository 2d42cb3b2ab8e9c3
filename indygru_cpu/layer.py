"""IndyGRU: a GRU layer with diagonal recurrent weights, with the interface of torch.nn.GRU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from indygru_cpu._engine import _core
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.arguments import (
    BATCH_FIRST,
    TIME_MAJOR,
    BoundArguments,
    Layout,
    Sizes,
    check_call,
    check_gradients,
    choose_threads,
)
from indygru_cpu._engine.messages import listed
from indygru_cpu._layers import generators
from indygru_cpu._layers.options import DEFAULTS, Option, checked_options
from indygru_cpu._layers.parameters import (
    SHAPE_OPTIONS,
    Parameters,
    initial_parameters,
    shapes,
    stacked_weights,
    summary,
)
from indygru_cpu._layers.progress import Progress
from indygru_cpu._typing import Array
from indygru_cpu.stream import Stream

Self = TypeVar("Self", bound="IndyGRU")


class LayerGradients(NamedTuple):
    """Gradients of a scalar with respect to the arguments of `IndyGRU.forward`.

    Attributes
    ----------
    x : array
        With the shape of x; None if it was not requested.
    h0 : array
        With the shape of h0.
    parameters : dict of str to array
        With the names and shapes of the layer's parameters; empty if they were not requested.
    """

    x: Any
    h0: Array
    parameters: dict[str, Array]


#: The name in the public interface.
Gradients = LayerGradients


class LayerTape(_core.Tape):
    """The data that `IndyGRU.backward` needs from a call of `IndyGRU.forward`.

    It refers to x and to the parameters, without copies: do not change them before `backward`.

    Attributes
    ----------
    x, y : arrays
        Inputs and states of the call.
    """


class IndyGRU:
    """A GRU whose recurrent weights are vectors: each unit reads the input and its own previous state only.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    num_layers : int
        Number of stacked layers. Each layer after the first takes the y of the layer below as its input.
    bias : bool
        Whether the layers have biases.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...). Neither layout is copied.
    dropout : float
        Probability with which `forward` sets an element of an inner layer's y to 0; the other elements are divided by
        ``1 - dropout``. Inference does not apply dropout.
    bidirectional : bool
        Whether each layer has a second direction, which runs each row from its last valid step to its first.
    activation : str
        Activation of the candidate: tanh, relu, sigmoid, identity, elu, softsign or mingru, which is
        x + 1/2 for x >= 0, else sigmoid(x).
    dtype : dtype
        float32 or float64, for weights, inputs and outputs.
    groups : int
        Number of blocks of inputs and units. Units of a block read the inputs of that block only, and only these
        weights are stored and multiplied. It must divide `input_size` and `hidden_size`.
    seed : int, sequence, Generator or None
        Argument of `numpy.random.default_rng`, which draws the initial weights and the masks of dropout.
    num_threads : int, optional
        Threads of a call that names no number. None: each call chooses by measured costs, see `thread_statistics`.
        Results do not depend on it. It is the only argument that can be changed later, as an attribute; the others are
        read-only.
    reproducible : bool
        Make the bits of a row independent of the other rows of its batch.
    reset_gate : bool
        Whether the layer has a reset gate. Without one r is 1, and the layer neither stores nor computes its third of
        the weights.

    Attributes
    ----------
    parameters : mapping of str to array
        The live arrays by name. Writing to an array changes the layer immediately.

    Notes
    -----
    The equations are those of ``tf.contrib.rnn.IndyGRUCell`` (TensorFlow 1.14), and so are the initial values:
    kernels Glorot uniform (of gates with fans D and 2N, of the candidate with D and N), recurrent vectors uniform on
    [-1, 1), biases 1 for the gates and 0 for the candidate. A single gate has fans D and N.

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

    input_size = Option[int]()
    hidden_size = Option[int]()
    num_layers = Option[int]()
    bias = Option[bool]()
    batch_first = Option[bool]()
    dropout = Option[float]()
    bidirectional = Option[bool]()
    activation = Option[str]()
    dtype = Option["np.dtype[Any]"]()
    groups = Option[int]()
    reproducible = Option[bool]()
    reset_gate = Option[bool]()

    _options: dict[str, Any]
    _parameters: Parameters
    _rng: np.random.Generator | None  # of dropout
    # Computed from the attributes above by `_set_state`:
    _bound: _core.BoundLayer
    _sizes: Sizes
    _layout: Layout
    _batch_first: bool
    _num_threads: int | None

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
        reset_gate: bool = True,
    ) -> None:
        self._options = checked_options(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=bias, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, activation=activation, dtype=dtype, groups=groups,
            reproducible=reproducible, reset_gate=reset_gate,
        )  # fmt: skip
        num_threads, rng = check.num_threads(num_threads), check.generator(seed)
        parameters = initial_parameters(self._parameter_shapes(), self.groups, self.reset_gate, self.dtype, rng)
        self._set_state(parameters, generators.spawn(rng) if self.dropout else None, num_threads)

    @classmethod
    def _with_parameters(
        cls: type[Self], configuration: Mapping[str, Any], arrays: Mapping[str, Any], num_threads: int | None = None
    ) -> Self:
        """A layer with the options of `configuration`, whose parameters are `arrays`.

        An array is copied only if it is not C-contiguous, aligned and writable.
        """
        layer = cls.__new__(cls)
        layer._options = checked_options(**configuration)
        expected = layer._parameter_shapes()
        if arrays.keys() != expected.keys():
            raise ValueError(f"parameters: expected {listed(sorted(expected))}, got {listed(sorted(arrays))}")
        checked = {
            name: check.array(name, arrays[name], shape, "the layer", layer.dtype) for name, shape in expected.items()
        }
        rng = np.random.default_rng() if layer.dropout else None
        layer._set_state(Parameters(checked).required("C", "A", "W"), rng, check.num_threads(num_threads))
        return layer

    def _parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes(**{name: self._options[name] for name in SHAPE_OPTIONS})

    def _set_state(self, parameters: Parameters, rng: np.random.Generator | None, num_threads: int | None) -> None:
        """Set all attributes except the options."""
        self._parameters, self._rng, self._num_threads = parameters, rng, num_threads
        options, n_directions = self._options, 1 + self.bidirectional
        weights = stacked_weights(options["num_layers"], options["bidirectional"], parameters.storage)
        activation = check.activation_index(options["activation"])
        self._bound = _core.BoundLayer(
            weights, options["groups"], activation, options["reproducible"], choose_threads, LayerTape,
            has_reset_gate=options["reset_gate"],
        )  # fmt: skip
        self._sizes = Sizes(self.input_size, self.hidden_size, n_directions, (self.num_layers * n_directions,))
        self._batch_first = self.batch_first
        self._layout = BATCH_FIRST if self.batch_first else TIME_MAJOR

    def __getstate__(self) -> dict[str, Any]:
        """All attributes except those that follow from the others. The generator is replaced by its state.

        A pickled generator could be loaded by the same major version of NumPy only.
        """
        state = self.__dict__ | {
            "num_threads": self.num_threads,
            "_rng": None if self._rng is None else generators.to_state(self._rng),
        }
        computed = ("_bound", "_sizes", "_layout", "_batch_first", "_num_threads")
        return {name: value for name, value in state.items() if name not in computed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        num_threads, rng, parameters = (state.pop(name) for name in ("num_threads", "_rng", "_parameters"))
        state["_options"] = {**state["_options"]}
        state["_options"].setdefault("reset_gate", True)  # an earlier version had no such option
        self.__dict__.update(state)
        # Arrays in another process's message may be unaligned.
        aligned = parameters.required("A")
        self._set_state(aligned, None if rng is None else generators.from_state(rng), num_threads)

    @property
    def num_threads(self) -> int | None:
        """Threads of a call that names no number. None: each call chooses by measured costs."""
        return self._num_threads

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._num_threads = check.num_threads(value)

    @property
    def parameters(self) -> Parameters:
        """The live arrays by name. Writing to an array changes the layer immediately.

        ``kernel_l0`` (D / groups, 3N), ``recurrent_kernel_l0`` (3N,) and ``bias_l0`` (3N,) have the gate order r, z,
        candidate; without a reset gate they have 2N columns in the order z, candidate. Names of the second direction
        end in ``_reverse``; those of the second layer have ``_l1``, and so on.
        """
        return self._parameters

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
        """Inference: the y and h_n of `forward` without dropout and without a tape.

        Parameters
        ----------
        x, h0, lengths, num_threads, progress
            As in `forward`.
        out, h_out : arrays with the shapes of y and h_n, optional
            Arrays for the results. They must not share memory with the arguments or with each other, except that
            `h_out` may be `h0`.

        Returns
        -------
        y, h_n : arrays
            As in `forward`; y is writable.

        Raises
        ------
        TypeError, ValueError
            As in `forward`, and for `out` and `h_out`.

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
        return self._infer(x, h0, lengths, None, out, h_out, True, num_threads, progress)

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
        """The h_n of `__call__`. The last layer's y is not stored.

        Parameters
        ----------
        x, h0, lengths, h_out, num_threads, progress
            As in `__call__`.

        Returns
        -------
        array
            h_n.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, seed=0)
        >>> x = np.random.default_rng(0).standard_normal((9, 4, 3), dtype=np.float32)
        >>> bool((layer.last(x) == layer(x)[1]).all())
        True
        """
        return self._infer(x, h0, lengths, None, None, h_out, False, num_threads, progress)[1]

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
        """Run concatenated sequences of different lengths, as in Arrow and CSR: without padding.

        Parameters
        ----------
        values : array, (S, D)
            The steps of all sequences.
        offsets : integers, (B + 1,)
            Sequence b is ``values[offsets[b]:offsets[b + 1]]``; it may be empty.
        tape : bool
            Whether to run as `forward`: with dropout, and with a tape for `backward`, whose dy and gradient of x are
            (S, width) too.
        h0, recompute, out, h_out, num_threads, progress
            As in `__call__` and `forward`. With a tape, `out` and `h_out` must be None.

        Returns
        -------
        y : array, (S, N), or (S, 2N) with two directions
            All states, in the layout of `values`; 0 for values that belong to no sequence.
        h_n : array, (layers * directions, B, N)
            States after each sequence's last step.
        tape : LayerTape
            Only with ``tape=True``.

        Raises
        ------
        TypeError, ValueError
            As in `__call__`; `offsets` that are not integers from 0 to S in non-decreasing order.

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
        if offsets is None:
            raise TypeError("offsets: expected B + 1 integers, got None")
        if not tape:
            return self._infer(values, h0, None, offsets, out, h_out, True, num_threads, progress)
        if out is not None or h_out is not None:
            raise ValueError("out, h_out: expected None with tape=True, because the tape refers to the results")
        return self._train(values, h0, None, offsets, recompute, num_threads, progress)

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
        """Run the layer with dropout and return a tape for `backward`.

        Parameters
        ----------
        x : array, (T, B, D), or (B, T, D) with ``batch_first``, or (T, D) unbatched
            Inputs of the layer's dtype. This and every other argument that is read may also be an object with NumPy's
            array protocols or with DLPack, such as a CPU tensor of another library. Masked arrays are refused.
        h0 : array, (layers * directions, B, N), or (layers * directions, N) unbatched, or None
            States before the first step, in the order of torch.nn.GRU: layer by layer, forward before reverse. None is
            zeros.
        lengths : integers, (B,), optional
            Valid steps of each row, from 0 to T, in any order. Past them y is 0 and the state does not change.
        recompute : bool
            Store only y on the tape and compute the gates again in `backward`: a quarter of the memory.
        num_threads : int, optional
            Threads of this call and its backward pass.
        progress : callable or tqdm bar, optional
            Called as ``progress(steps done, total steps)`` every few hundredths of a second, where each layer and
            direction counts its own steps. An exception that it raises ends the call.

        Returns
        -------
        y : array, (T, B, N), or (B, T, N), or (T, N); with two directions (..., 2N), forward before reverse
            All states of the last layer. Read-only, because the tape refers to it.
        h_n : array, shaped like h0
            States after each row's last valid step; of the reverse direction, after its first.
        tape : LayerTape
            For `backward`. It refers to x and to the parameters: do not change them before `backward`.

        Raises
        ------
        TypeError, ValueError
            A dtype, shape or length that does not fit. The message names the argument and the expected value.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, seed=0)
        >>> x = np.random.default_rng(0).standard_normal((9, 4, 3), dtype=np.float32)
        >>> y, h_n, tape = layer.forward(x)
        >>> grads = layer.backward(tape, dy=2 * y)  # gradients of (y ** 2).sum()
        >>> layer.parameters["kernel_l0"][...] -= 0.01 * grads.parameters["kernel_l0"]  # a step of gradient descent
        """
        return self._train(x, h0, lengths, None, recompute, num_threads, progress)

    def backward(
        self, tape: LayerTape, dy: object = None, dh_n: object = None, *, x: bool = True, parameters: bool = True
    ) -> LayerGradients:
        """Gradients of ``sum(y * dy) + sum(h_n * dh_n)``.

        Parameters
        ----------
        tape : LayerTape
            From `forward` or `ragged` of this layer. It can be used more than once.
        dy, dh_n : arrays with the shapes of y and h_n, or None
            Gradients of a scalar with respect to y and h_n; None is zeros.
        x, parameters : bool
            Whether to compute the gradient of x, which the first layer of a network does not need, and the gradients of
            the parameters, which frozen weights do not need. Each of the two takes a quarter to a third of the time of
            `forward` and `backward` together, where the matrix products take most of it.

        Returns
        -------
        LayerGradients
            ``x`` and ``h0`` with the shapes of these arguments, and ``parameters``, a dict by parameter name. ``x`` is
            None and ``parameters`` is empty if they were not requested.

        Raises
        ------
        TypeError, ValueError
            A tape of another layer; a gradient of another dtype or shape.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, seed=0)
        >>> y, h_n, tape = layer.forward(np.ones((9, 4, 3), np.float32))
        >>> grads = layer.backward(tape, dh_n=np.ones_like(h_n))  # gradients of h_n.sum()
        >>> grads.x.shape, grads.h0.shape, sorted(grads.parameters)
        ((9, 4, 3), (1, 4, 5), ['bias_l0', 'kernel_l0', 'recurrent_kernel_l0'])
        """
        if not isinstance(tape, LayerTape) or tape.layer is not self._bound:
            got = "a tape of another layer" if isinstance(tape, LayerTape) else type(tape).__name__
            raise TypeError(f"tape: expected what this layer's forward returned, got {got}")
        gradients = self._bound.backward(tape, dy, dh_n, x, parameters, tape.num_threads)
        if gradients is None:
            checked = check_gradients(tape, dy, dh_n, "the layer")
            gradients = self._bound.backward(tape, *checked, x, parameters, tape.num_threads, True)
        dx, dh0, dweights = gradients
        n_kinds = 2 + self._options["bias"]
        flat = [array for direction in dweights or () for array in direction[:n_kinds]]
        return LayerGradients(dx, dh0, dict(zip(self._parameters, flat, strict=parameters)))

    def stream(
        self, batch_size: int = 1, *, num_threads: int | None = None, weights: str | None = None
    ) -> Stream:  # fmt: skip
        """Make a stream, which runs single steps as they arrive, with little overhead a step.

        Parameters
        ----------
        batch_size : int
            Rows of each step.
        num_threads : int, optional
            Threads of a step with enough work for more than one; None is the layer's number.
        weights : {"bfloat16", "int8"}, optional
            A smaller format of the kernels of a float32 layer, with which the steps of large layers are faster.
            bfloat16 rounds each weight to nearest, int8 has one scale a column. States, biases and recurrent kernels
            stay float32. None is the layer's dtype.

        Returns
        -------
        Stream
            With states of zeros and a snapshot of the layer's weights.

        Raises
        ------
        ValueError
            The layer is bidirectional; the format is unknown, is for float32 only, or cannot represent the weights.

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
        return Stream(self, batch_size, num_threads, weights=weights)

    def _infer(
        self, x: object, h0: object, lengths: object, offsets: object, out: Array | None, h_out: Array | None,
        needs_y: bool, num_threads: int | None, progress: Any,
    ) -> tuple[Any, Array]:  # fmt: skip
        bound, batch_first = self._bound, self._batch_first
        if num_threads is None:
            num_threads = self._num_threads
        if progress is None:
            results = bound.infer(x, h0, lengths, offsets, out, h_out, batch_first, needs_y, num_threads)
            if results is not None:
                return results
        arguments, plain_out, plain_h_out, num_threads = self._checked(x, h0, lengths, offsets, out, h_out, num_threads)
        y, h = bound.infer(
            *arguments[:4], plain_out, plain_h_out, batch_first, needs_y, num_threads,
            self._progress(progress, arguments), True,
        )  # fmt: skip
        return y if out is None else out, h if h_out is None else h_out

    def _train(
        self, x: object, h0: object, lengths: object, offsets: object, recompute: bool, num_threads: int | None,
        progress: Any,
    ) -> tuple[Array, Array, LayerTape]:  # fmt: skip
        bound, batch_first = self._bound, self._batch_first
        new_mask = None if self._rng is None else self._new_mask
        if num_threads is None:
            num_threads = self._num_threads
        results = None
        if progress is None:
            results = bound.train(
                x, h0, lengths, offsets, None, None, batch_first, recompute, num_threads, None, new_mask
            )
        if results is None:
            arguments, _, _, num_threads = self._checked(x, h0, lengths, offsets, None, None, num_threads)
            results = bound.train(
                *arguments[:4], None, None, batch_first, recompute, num_threads,
                self._progress(progress, arguments), new_mask, None, True,
            )  # fmt: skip
        results[0].flags.writeable = False
        return results

    def _new_mask(self, shape: tuple[int, ...]) -> Array:
        """The factors of dropout for the y of an inner layer."""
        assert self._rng is not None
        dtype, dropout = self.dtype.type, self.dropout
        mask: Array = (self._rng.random(shape, dtype) >= dropout) / dtype(1 - dropout)
        return mask

    def _checked(
        self, x: object, h0: object, lengths: object, offsets: object, out: Any, h_out: Any, num_threads: int | None
    ) -> tuple[BoundArguments, Array | None, Array | None, int | None]:
        """`check_call` with the configuration of this layer."""
        return check_call(
            x, h0, lengths, offsets, out, h_out, num_threads, weights=self._parameters.storage, layout=self._layout,
            sizes=self._sizes, owner="the layer", dtype=self._options["dtype"],
            x_name="x" if offsets is None else "values",
        )  # fmt: skip

    def _progress(self, progress: Any, arguments: BoundArguments) -> Progress | None:
        """The callback of a checked call. It is made last, because it changes the total of a tqdm bar."""
        return None if progress is None else Progress(progress, arguments.n_steps * self._sizes.state_axes[0])

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters by name.

        Returns
        -------
        dict of str to array
            In the order of `parameters`.
        """
        return {name: array.copy() for name, array in self._parameters.storage.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy values into the parameters. Every name, shape and dtype is checked first; an error changes nothing.

        Parameters
        ----------
        state_dict : mapping of str to array
            Exactly the names of `parameters`, with their shapes and dtype.

        Raises
        ------
        ValueError
            Missing or unknown names, or a wrong shape.
        TypeError
            A dtype other than the layer's.

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
            hint = ""
            if "weight_ih_l0" in unknown:
                hint = ": for the weights of a torch.nn.GRU, use indygru_cpu.interop.from_torch"
            raise ValueError(f"state_dict: missing {listed(missing)}, unknown {listed(unknown)}{hint}")
        self._parameters.update(state_dict)

    def _configuration(self) -> dict[str, Any]:
        """The arguments of a layer that computes the same results, in types that a weight file can store."""
        return self._options | {"dtype": self.dtype.name}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """A key for Dask, made of everything that results depend on: not of the seed and `num_threads`."""
        return type(self).__qualname__, self._configuration(), self._parameters.storage

    def save(
        self, path: str | os.PathLike[str] | BinaryIO, *, format: str | None = None, weights: str | None = None
    ) -> None:  # fmt: skip
        """Write the parameters and the configuration to a file, which is replaced atomically.

        Parameters
        ----------
        path : str, path or binary file object
            An existing file keeps its permissions. A symbolic link is followed: the file that it points to is replaced.
            To a file object, all bytes are written at its current position after all checks; it is neither flushed nor
            closed.
        format : {"npz", "safetensors"}, optional
            Required if the name of the file or file object does not end in ``.npz`` or ``.safetensors``.
        weights : {"bfloat16", "int8"}, optional
            A smaller format of the kernels of a float32 layer in a ``.safetensors`` file: arrays of BF16, or of I8 and
            their scales, the rounded weights of `stream`. `load` returns float32. None is the layer's dtype.

        Raises
        ------
        WeightsError
            Another suffix without `format`.
        ValueError
            An unknown `format`, or one that contradicts the suffix; `weights` that are unknown, for another file or
            for float64, or that cannot represent a kernel.
        TypeError
            Neither a path nor a file object open in binary mode.
        PermissionError
            The existing file is read-only, as for `numpy.save`; or the folder does not allow new files.
        OSError
            From the file system. An existing file is unchanged; a file object may have received some of the bytes.
        ImportError
            The package safetensors, from the extra `safetensors`, is missing.

        Notes
        -----
        Equal layers give equal bytes. `numpy.load` reads a ``.npz`` file, and any safetensors package reads a
        ``.safetensors`` file: they contain the parameters by name, and the configuration as JSON. The seed and
        `num_threads`, which depends on the machine, are not stored. In a ``.safetensors`` file the JSON also contains a
        checksum, ``crc32``: remove it if you edit such a file.

        The bytes are written to a temporary file in the same folder, ``.indygru_cpu-<16 hexadecimal digits>.tmp``,
        which is then renamed. A process that is killed in between leaves the temporary file behind. It can be deleted
        when no process is saving.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU
        >>> layer = IndyGRU(3, 5, seed=0)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = os.path.join(directory, "layer.npz")
        ...     layer.save(path)
        ...     same = IndyGRU.load(path)
        ...     with np.load(path) as file:
        ...         file["kernel_l0"].shape
        (3, 15)
        >>> bool((same.parameters["kernel_l0"] == layer.parameters["kernel_l0"]).all())
        True
        """
        from indygru_cpu import _files  # deferred: most programs do not need it

        _files.write(path, self._configuration(), self._parameters.storage, format, weights)

    @classmethod
    def load(
        cls: type[Self],
        path: str | os.PathLike[str] | BinaryIO,
        *,
        format: str | None = None,
        num_threads: int | None = None,
    ) -> Self:
        """Read a layer that `save` wrote.

        Parameters
        ----------
        path : str, path or binary file object
            The contents are treated as untrusted: everything is checked before it is used, and no code in the file is
            run. A file object is read into memory from its current position to its end.
        format : {"npz", "safetensors"}, optional
            Required if the name of a file does not end in ``.npz`` or ``.safetensors``. For a file object with another
            name the default is determined by its first bytes.
        num_threads : int, optional
            As for the constructor.

        Returns
        -------
        IndyGRU
            A new layer with the saved configuration and parameters.

        Raises
        ------
        WeightsError
            A file that is damaged, not a layer's, or written by a newer version: unknown or missing arrays or
            configuration entries, wrong shapes or dtypes, sizes other than those of the file, arrays compressed more
            than 3 to 1; another suffix without `format`. The message names the file and the entry.
        ValueError
            An unknown `format`, or one that contradicts the suffix.
        TypeError
            Neither a path nor a file object open in binary mode.
        FileNotFoundError, OSError
            From the file system.
        ImportError
            The package safetensors, from the extra `safetensors`, is missing.

        Examples
        --------
        >>> import os, tempfile
        >>> from indygru_cpu import IndyGRU
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = os.path.join(directory, "layer.npz")
        ...     IndyGRU(3, 5, batch_first=True).save(path)
        ...     IndyGRU.load(path, num_threads=1).batch_first
        True

        A layer in memory instead of a file:

        >>> import io
        >>> memory = io.BytesIO()
        >>> IndyGRU(3, 5, batch_first=True).save(memory, format="npz")
        >>> IndyGRU.load(io.BytesIO(memory.getvalue())).batch_first
        True
        """
        from indygru_cpu import _files  # deferred, as in `save`

        configuration, arrays = _files.read(path, format)
        # The arrays become the layer's parameters without another copy.
        return cls._with_parameters(configuration, arrays, num_threads)

    def to_c(self, path: str | os.PathLike[str] | BinaryIO, *, name: str = "model", weights: str | None = None) -> None:
        """Write the layer as one C header, which runs its steps without Python or any library.

        Parameters
        ----------
        path : str, path or binary file object
            As in `save`: an existing file is replaced atomically. The name of the file does not change the names in it.
        name : str
            A C identifier with which all names in the file begin; macros have its capital letters.
        weights : {"float32", "bfloat16", "int8", "float64"}, optional
            Format of the kernels. None is the layer's dtype. A layer of float32 can also have "bfloat16" kernels, of
            half the size, and "int8" kernels with one scale a column, of a quarter of the size. Recurrent vectors,
            biases, states and sums have the layer's dtype.

        Raises
        ------
        ValueError
            A bidirectional layer; a `name` that is no identifier, is reserved, or has more than 31 characters; a
            format that layers of this dtype do not have; weights that are not finite or, for bfloat16, too large.
        TypeError
            Neither a path nor a file object open in binary mode; a `name` that is not a str.
        PermissionError, OSError
            As in `save`.

        Notes
        -----
        The file is C99 and C++11. It defines ``MODEL_INPUT_SIZE``, ``MODEL_OUTPUT_SIZE`` (N), ``MODEL_STATE_SIZE``
        (layers * N), ``model_step(x, h)``, which runs one step and replaces the states h of all layers, and
        ``model_output(h)``, the state of the last layer. ``docs/c_file.md`` describes compilers, sizes and accuracy.
        Dropout is left out, as in inference. Equal layers give equal bytes.

        Examples
        --------
        >>> import os, tempfile
        >>> from indygru_cpu import IndyGRU
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = os.path.join(directory, "model.h")
        ...     IndyGRU(3, 5, seed=0).to_c(path, weights="int8")
        ...     with open(path) as file:
        ...         [line.strip() for line in file if "int8_t model" in line]
        ['static const int8_t model_kernel_l0[3 * 15] = {']
        """
        from indygru_cpu import _files  # deferred, as in `save`

        _files.write_c(path, self._configuration(), self._parameters.storage, name, weights)

    def summary(self) -> str:
        """Return a table of the parameters: shapes, counts, bytes, and multiply-adds of one step of one row.

        Examples
        --------
        >>> from indygru_cpu import IndyGRU
        >>> print(IndyGRU(3, 5, seed=0).summary())
        IndyGRU(3, 5, dtype=float32)
        name                 shape    parameters  bytes  multiply-adds
        kernel_l0            (3, 15)          45    180             45
        recurrent_kernel_l0  (15,)            15     60             15
        bias_l0              (15,)            15     60              0
        total                                 75    300             60
        """
        return f"{self!r}\n{summary(self._parameters.storage)}"

    def __repr__(self) -> str:
        options = [f"{name}={self._options[name]!r}" for name in DEFAULTS if self._options[name] != DEFAULTS[name]]
        arguments = [str(self.input_size), str(self.hidden_size), *options, f"dtype={self.dtype}"]
        return f"{type(self).__name__}({', '.join(arguments)})"


def checked_layer(layer: object) -> IndyGRU:
    """Return `layer`, or raise TypeError if it is not an IndyGRU."""
    if not isinstance(layer, IndyGRU):
        raise TypeError(f"layer: expected an IndyGRU, got {type(layer).__name__}")
    return layer
