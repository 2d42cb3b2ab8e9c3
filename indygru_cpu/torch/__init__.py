"""IndyGRU for PyTorch: a module with the interface of torch.nn.GRU. Kernels use the memory of CPU tensors directly.

This package requires the extra `torch`: ``pip install "indygru_cpu[torch]"``. See ``docs/torch.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError('torch is missing: pip install "indygru_cpu[torch]"') from None

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Proxy
from torch.fx.proxy import TraceError
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shown
from indygru_cpu._layers.options import DEFAULTS, checked_options
from indygru_cpu._layers.parameters import KINDS, SHAPE_OPTIONS, initial_parameters, shapes, suffixes
from indygru_cpu.layer import IndyGRU as NumpyIndyGRU
from indygru_cpu.torch import _ops
from indygru_cpu.torch._onnx import onnx_translation_table
from indygru_cpu.torch._ops import NUMPY_DTYPES, cast_hint, check_storage, not_dense

__all__ = ["IndyGRU", "onnx_translation_table"]


def _checked_batch_sizes(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """A copy of `batch_sizes`, after a check against `data`.

    With wrong sizes, `torch.nn.utils.rnn.pad_packed_sequence` writes outside its result.
    """
    name = "input.batch_sizes"
    if not isinstance(batch_sizes, Tensor) or batch_sizes.dtype is not torch.int64 or not batch_sizes.is_cpu:
        got = f"{batch_sizes.dtype} on {batch_sizes.device}" if isinstance(batch_sizes, Tensor) else type(batch_sizes)
        raise TypeError(f"{name}: expected a tensor of torch.int64 on the CPU, got {got}")
    check.check_shape(name, batch_sizes.shape, ("T",))
    check_storage(name, batch_sizes)
    sizes = batch_sizes.tolist()
    if not sizes:
        raise ValueError(f"{name}: expected at least one step, got none")
    for step, (size, before) in enumerate(zip(sizes, [len(data), *sizes], strict=False)):
        smallest = 1 if step == 0 else 0
        if not smallest <= size <= before:
            raise ValueError(
                f"{name}: expected rows from {smallest} to {before} at step {step}, got {size}: sizes never increase"
            )
    if sum(sizes) != len(data):
        raise ValueError(f"{name}: expected a sum of {len(data)}, the steps in input.data, got {sum(sizes)}")
    return torch.tensor(sizes)


def _check_row_order(sorted_indices: Tensor | None, unsorted_indices: Tensor | None, n_batch: int) -> None:
    """Refuse indices of a PackedSequence that are not permutations, or not inverse to each other.

    None is the order of the data. torch computes missing `unsorted_indices`, but not missing `sorted_indices`.
    """
    orders = {}
    for name, indices in {"input.sorted_indices": sorted_indices, "input.unsorted_indices": unsorted_indices}.items():
        if indices is None:
            continue
        if not isinstance(indices, Tensor) or indices.dtype not in (torch.int32, torch.int64) or not indices.is_cpu:
            got = f"{indices.dtype} on {indices.device}" if isinstance(indices, Tensor) else shown(indices)
            raise TypeError(f"{name}: expected a tensor of torch.int64 on the CPU, got {got}")
        check.check_shape(name, indices.shape, (n_batch,))
        check_storage(name, indices)
        orders[name] = indices.tolist()
        if sorted(orders[name]) != list(range(n_batch)):
            raise ValueError(f"{name}: expected each number from 0 to {n_batch - 1} once, got others")
    if len(orders) == 2:
        rows, inverse = orders.values()
        if [rows[i] for i in inverse] != list(range(n_batch)):
            raise ValueError("input.unsorted_indices: expected the inverse of input.sorted_indices, got other numbers")


def _checked_flag(name: str, value: object) -> bool:
    """A bool, as torch.nn.GRU requires: a number in its place is often an argument in the wrong position."""
    return check.flag(value, name)


def _checked_dropout(value: object) -> float:
    """A probability. torch.nn.GRU allows 1, with which the inner layers pass only zeros on."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"dropout: expected a number, got {shown(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"dropout: expected a number from 0 to 1, got {shown(value)}")
    return float(value)


def _check_tensor(name: str, value: object, dtype: torch.dtype) -> None:
    """Check type, layout, device and dtype. Under autocast the operator casts, and checks dtypes itself."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.is_cpu and value.layout is torch.strided and value.dtype is dtype and dtype in NUMPY_DTYPES:
        return  # the common case; the code below finds the error
    if value.layout != torch.strided or value.device.type not in ("cpu", "meta"):
        raise TypeError(f"{name}: expected {not_dense(value)}")
    if torch.is_autocast_enabled("cpu"):
        return
    if dtype not in NUMPY_DTYPES:
        raise TypeError(
            f"kernel_l0: expected torch.float32 or torch.float64, got {dtype}: convert it with module.float()"
        )
    if value.dtype != dtype:
        is_parameter = isinstance(value, torch.nn.Parameter) and name.startswith(KINDS)
        owner = "module" if is_parameter else name.removesuffix(".data")
        raise TypeError(f"{name}: expected {dtype}, as kernel_l0 has, got {value.dtype}: {cast_hint(owner, dtype)}")


def _copied_lengths(lengths: Any, device: torch.device) -> Tensor:
    """A copy of the lengths as a tensor, because the backward pass reads them again."""
    if isinstance(lengths, Tensor):
        check_storage("lengths", lengths)
        return lengths.clone()
    try:
        return torch.as_tensor(lengths, device=device).clone()
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(f"lengths: expected integers, got {shown(lengths)}: pass a list or a tensor of them") from None


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int | str, ...]) -> None:
    """Check a shape, except in torch.jit.trace, where sizes are tensors and the operator checks the values."""
    if torch._C._get_tracing_state() is None:
        check.check_shape(name, shape, expected)


#: Checks of options that can be set after construction, by name.
_SETTERS: dict[str, Callable[[object], Any]] = {
    "dropout": _checked_dropout,
    **{name: partial(_checked_flag, name) for name in ("batch_first", "reproducible", "recompute")},
}


#: Attributes of a module that a call reads, from its dict: `torch.nn.Module` makes other access slow.
_attributes = itemgetter(
    "_parameters", "_weight_names", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
    "bidirectional", "activation", "reset_gate", "groups", "reproducible", "recompute", "training",
)  # fmt: skip


class IndyGRU(torch.nn.Module):
    """A GRU whose recurrent weights are vectors, with the constructor and the call of torch.nn.GRU [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    num_layers : int
        Number of stacked layers.
    bias : bool
        Whether the layers have biases.
    batch_first : bool
        Whether input and output are (B, T, ...) instead of (T, B, ...). Neither layout is copied.
    dropout : float
        Probability of `torch.nn.functional.dropout` between layers in training mode, from 0 to 1.
    bidirectional : bool
        Whether each layer has a second direction.
    proj_size : int
        Must be 0. torch.nn.GRU has this argument too, and refuses other values.
    device : device
        Device of the parameters. A call requires parameters on the CPU.
    dtype : torch.dtype
        float32 or float64; None is torch's default.
    activation : str
        Activation of the candidate: tanh, relu, sigmoid, identity, elu, softsign or mingru, which is
        x + 1/2 for x >= 0, else sigmoid(x).
    groups : int
        Number of blocks of inputs and units.
    reproducible : bool
        Make the bits of a row independent of the other rows of its batch.
    recompute : bool
        Store only a copy of the output for the backward pass, a quarter of the memory (a third without a reset gate),
        and compute the gates again there.
    reset_gate : bool
        Whether the layers have a reset gate. Without one r is 1, and its third of the weights is neither stored nor
        computed.

    Attributes
    ----------
    input_size, hidden_size, num_layers, bias, bidirectional, groups, reset_gate
        Read-only, because they determine the shapes of the parameters. The other options can be set.
    mode, proj_size : str, int
        "GRU" and 0, for programs that read them of torch's recurrent modules.
    all_weights : list of list of Parameter
        Kernel, recurrent kernel and bias of each layer and direction.
    kernel_l0, recurrent_kernel_l0, bias_l0 : Parameter
        (D / groups, 3N), (3N,) and (3N,), gate order r, z, candidate; without a reset gate 2N columns. Those of the
        second direction end in ``_reverse``; those of the second layer have ``_l1``, and so on. ``state_dict()`` has
        the same names.

    Notes
    -----
    Names and layout of the parameters are those of `indygru_cpu.IndyGRU`, not of torch.nn.GRU: the kernels read the
    tensors' memory without conversion, and a ``weight_hh`` would consist of three diagonal matrices.
    `indygru_cpu.interop` converts to and from torch.nn.GRU. Initial values have the distributions of the NumPy layer,
    and depend on ``torch.manual_seed``.

    A call uses at most ``torch.get_num_threads()`` threads. Results do not depend on their number.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html

    Examples
    --------
    >>> import torch
    >>> from indygru_cpu.torch import IndyGRU
    >>> gru = IndyGRU(3, 5, num_layers=2, batch_first=True)
    >>> output, h_n = gru(torch.randn(4, 9, 3))  # (B, T, D)
    >>> output.shape, h_n.shape
    (torch.Size([4, 9, 5]), torch.Size([2, 4, 5]))
    >>> output.sum().backward()
    >>> gru.kernel_l1.grad.shape
    torch.Size([5, 15])
    """

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    activation: str
    groups: int
    reproducible: bool
    recompute: bool
    reset_gate: bool
    mode = "GRU"
    proj_size = 0
    kernel_l0: torch.nn.Parameter
    _weight_names: list[str]  # the names of all parameters, in that order
    _names: list[list[str | None]]  # of each layer's six parameters in the operator's order; None for a missing one

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "tanh",
        groups: int = 1,
        reproducible: bool = False,
        recompute: bool = False,
        reset_gate: bool = True,
    ) -> None:
        super().__init__()
        if proj_size:
            raise ValueError(f"proj_size: expected 0, because a GRU has no projections, got {shown(proj_size)}")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in NUMPY_DTYPES:
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {shown(dtype)}")
        options = checked_options(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=_checked_flag("bias", bias),
            batch_first=batch_first, dropout=0.0, bidirectional=_checked_flag("bidirectional", bidirectional),
            activation=activation, dtype=NUMPY_DTYPES[dtype], groups=groups, reproducible=reproducible,
            reset_gate=_checked_flag("reset_gate", reset_gate),
        )  # fmt: skip
        settable = {
            "batch_first": batch_first, "dropout": dropout, "reproducible": reproducible, "recompute": recompute,
        }  # fmt: skip
        for name in ("input_size", "hidden_size", *DEFAULTS, "recompute"):
            setattr(self, name, settable[name] if name in settable else options[name])
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout: expected 0 with one layer, got {self.dropout}: dropout acts between layers, and has no "
                "effect here",
                stacklevel=2,
            )
        existing = self._shapes()
        for name, shape in existing.items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        names = [[kind + end for end in ends for kind in KINDS] for ends in suffixes(self.num_layers, True)]
        self._names = [[name if name in existing else None for name in layer_names] for layer_names in names]
        self._weight_names = [name for layer_names in self._names for name in layer_names if name is not None]
        self.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. Options that determine the shapes of parameters are set by the constructor only."""
        if name in SHAPE_OPTIONS and name in self.__dict__:
            if type(value) is type(self.__dict__[name]) and value == self.__dict__[name]:
                return  # a subclass may assign its arguments again
            raise AttributeError(
                f"{name}: expected no new value, got {shown(value)}: make a new module with another {name}"
            )
        super().__setattr__(name, _SETTERS[name](value) if name in _SETTERS else value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the attributes of a copied or unpickled module. Those of an earlier version had no `reset_gate`."""
        super().__setstate__({"reset_gate": True, **state})

    def __delattr__(self, name: str) -> None:
        """Delete an attribute. Options that determine the shapes of parameters cannot be deleted."""
        if name in SHAPE_OPTIONS:
            raise AttributeError(f"{name}: expected no deletion, because it determines the shapes of parameters")
        super().__delattr__(name)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes(**{name: getattr(self, name) for name in SHAPE_OPTIONS})

    def reset_parameters(self) -> None:
        """Draw the initial values of a NumPy layer, with a seed from torch's default generator."""
        if self.kernel_l0.is_meta or isinstance(self.kernel_l0, FakeTensor):  # without values
            return
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        dtype = NUMPY_DTYPES.get(self.kernel_l0.dtype, np.dtype(np.float32))  # a converted module may have float16
        initial = initial_parameters(self._shapes(), self.groups, self.reset_gate, dtype, np.random.default_rng(seed))
        with torch.no_grad():
            for name, array in initial.items():
                getattr(self, name).copy_(torch.from_numpy(array))

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Kernel, recurrent kernel and bias of each layer and direction."""
        by_layer = [names[i : i + 3] for names in self._names for i in range(0, 3 * (1 + self.bidirectional), 3)]
        return [[getattr(self, name) for name in names if name is not None] for names in by_layer]

    def flatten_parameters(self) -> None:
        """Do nothing. torch.nn.GRU has this method for GPUs, and programs call it."""

    @classmethod
    def from_numpy(cls, layer: NumpyIndyGRU, *, recompute: bool = False) -> IndyGRU:
        """Make a module of a NumPy layer. They share memory, as with `torch.from_numpy`: training one trains both.

        Parameters
        ----------
        layer : indygru_cpu.IndyGRU
            The layer whose configuration and live parameters the module uses.
        recompute : bool
            As for the constructor.

        Returns
        -------
        IndyGRU
            The memory stays shared until the module is converted, as by ``module.double()``.

        Raises
        ------
        TypeError
            Not an indygru_cpu.IndyGRU.

        Examples
        --------
        >>> import indygru_cpu, torch
        >>> from indygru_cpu.torch import IndyGRU
        >>> layer = indygru_cpu.IndyGRU(3, 5, seed=0)
        >>> gru = IndyGRU.from_numpy(layer)
        >>> x = torch.randn(9, 4, 3)
        >>> bool((gru(x)[0].detach().numpy() == layer(x.numpy())[0]).all())
        True
        """
        if not isinstance(layer, NumpyIndyGRU):
            raise TypeError(f"layer: expected an indygru_cpu.IndyGRU, got {type(layer).__name__}")
        options = {name: getattr(layer, name) for name in DEFAULTS if name != "dropout"}
        dtype = getattr(torch, layer.dtype.name)
        module = cls(layer.input_size, layer.hidden_size, **options, recompute=recompute, device="meta", dtype=dtype)
        module.dropout = layer.dropout
        for name, shape in module._shapes().items():
            array = layer.parameters[name]
            check.check_shape(name, array.shape, shape)
            module.register_parameter(name, torch.nn.Parameter(torch.from_numpy(array)))
        return module

    def to_numpy(self) -> NumpyIndyGRU:
        """Make a NumPy layer of the module. They share memory, as with `torch.Tensor.numpy`.

        Returns
        -------
        indygru_cpu.IndyGRU
            For saving, for streams, or for programs without PyTorch.

        Raises
        ------
        TypeError, ValueError
            A parameter that is not a dense CPU tensor with the shape and dtype of the module.

        Examples
        --------
        >>> from indygru_cpu.torch import IndyGRU
        >>> IndyGRU(3, 5, bidirectional=True).to_numpy()
        IndyGRU(3, 5, bidirectional=True, dtype=float32)
        """
        if self.dropout == 1:
            raise ValueError("dropout: expected less than 1 for a NumPy layer, got 1.0: set module.dropout")
        arrays, dtype = {}, self.kernel_l0.dtype
        for name, shape in self._shapes().items():
            value = getattr(self, name)
            _check_tensor(name, value, dtype)
            check.check_shape(name, value.shape, shape)
            if value.is_meta:
                raise ValueError(f"{name}: expected a tensor on the CPU, got one on meta, which has no values")
            check_storage(name, value)
            # The tensor's memory, or a copy if the kernels cannot read it.
            arrays[name] = np.require(value.detach().numpy(), requirements=("C", "A", "W"))
        options = {name: getattr(self, name) for name in DEFAULTS}
        sizes = {"input_size": self.input_size, "hidden_size": self.hidden_size, "dtype": arrays["kernel_l0"].dtype}
        return NumpyIndyGRU._with_parameters(sizes | options, arrays)

    def extra_repr(self) -> str:
        """The sizes, and the options whose values are not the defaults."""
        options = [f"{name}={getattr(self, name)!r}" for name in DEFAULTS if getattr(self, name) != DEFAULTS[name]]
        return ", ".join([str(self.input_size), str(self.hidden_size), *options])

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, *, lengths: Any = None
    ) -> tuple[Any, Tensor]:
        """Run the module.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (T, B, D), or (B, T, D) with ``batch_first``, or (T, D) unbatched. A PackedSequence, which stores rows step
            by step, is padded first and its result packed again: two copies that `lengths` avoids.
        hx : Tensor, (layers * directions, B, N), or (layers * directions, N) unbatched, optional
            States before the first step; None is zeros.
        lengths : integers, (B,), optional
            Valid steps of each row of a padded input, from 0 to T, in any order. Past them the output is 0 and the
            state does not change.

        Returns
        -------
        output : Tensor or PackedSequence
            All states of the last layer, in the layout of `input`, with N columns, or 2N with two directions.
        h_n : Tensor, shaped like hx
            States after each row's last valid step; of the reverse direction, after its first.

        Raises
        ------
        TypeError, ValueError
            A tensor that is not on the CPU, not dense, or of another dtype or device than the parameters; a shape, a
            length, a PackedSequence that does not fit.
        NotImplementedError
            Second-order derivatives; forward-mode derivatives.

        Notes
        -----
        The input is not copied if its last axis is contiguous. If the output has a gradient function, it is a copy of
        the one that is saved for the backward pass, so a program may write into it. Under ``torch.autocast`` the module
        runs in float32. For `torch.export`, call the module under ``torch.no_grad()``: then the graph stores no gates.
        """
        if lengths is None and type(input) is Tensor and _ops.can_run_directly():
            results = self._run_directly(input, hx)
            if results is not None:
                return results
        if isinstance(input, Proxy):  # torch.fx.symbolic_trace: a call of this module, as of torch's own
            options = {} if lengths is None else {"lengths": lengths}
            name = input.tracer.path_of_module(self)
            if not name:
                raise TraceError("IndyGRU: expected a module that contains it, got itself: it has no graph of its own")
            return input.tracer.create_proxy("call_module", name, (input, hx), options)
        weights: list[list[Any]] = [
            [None if name is None else getattr(self, name) for name in names] for names in self._names
        ]
        dtype = weights[0][0].dtype
        _check_tensor("kernel_l0", weights[0][0], dtype)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: expected None, because a PackedSequence has its own")
            return self._run_packed(input, hx, weights)
        _check_tensor("input", input, dtype)
        lengths = None if lengths is None else _copied_lengths(lengths, input.device)
        if input.dim() != 2:
            _check_shape("input", input.shape, (*("BT" if self.batch_first else "TB"), self.input_size))
            state = self._state(input, hx, dtype, input.shape[0 if self.batch_first else 1])
            return self._run_layers(input, state, weights, lengths, self.batch_first)
        _check_shape("input", input.shape, ("T", self.input_size))
        state, lengths = self._state(input, hx, dtype).unsqueeze(1), None if lengths is None else lengths.reshape(1)
        output, h_n = self._run_layers(input.unsqueeze(1), state, weights, lengths, False)
        return output.squeeze(1), h_n.squeeze(1)

    def _run_directly(self, input: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Run plain tensors without checks in Python, which the core then makes: inference, or one layer of training.

        Returns None for any other call, and for arguments that are wrong: the other way finds the error.
        """
        has_gradients = torch.is_grad_enabled()
        try:
            (
                parameters, names, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
                activation, reset_gate, groups, reproducible, recompute, training,
            ) = _attributes(self.__dict__)  # fmt: skip
        except KeyError:  # a subclass has a property of that name
            return None
        if num_layers > 1 and (has_gradients or (training and dropout)):
            return None
        weights = [parameters.get(name) for name in names]  # None where a parametrization computes the weight
        bound = _ops.exchange.bind(
            weights, num_layers, 2 if bidirectional else 1, bias, groups, activation, reset_gate,
            reproducible, _ops.choose_call_threads, input_size, hidden_size,
        )  # fmt: skip
        if bound is None:
            return None
        if has_gradients:
            has_state = hx is not None
            tensors = (input, hx, *weights) if has_state else (input, *weights)
            if weights[0].requires_grad or any(getattr(tensor, "requires_grad", False) for tensor in tensors):
                keeps_gates, allows_tape = not recompute, _ops.top_saved_tensors_hooks(True) is None
                results = bound.train_tensors(input, hx, batch_first, keeps_gates, allows_tape)
                if results is None:
                    return None
                options = groups, activation, reset_gate, reproducible
                call = batch_first, has_state, keeps_gates, bias, bidirectional, *options
                return _ops.apply_directly((results, bound, call), *tensors)
        return bound.infer_tensors(input, hx, batch_first)

    def _state(self, input: Tensor, hx: Tensor | None, dtype: torch.dtype, *batch: int) -> Tensor:
        """The checked state before the first step; zeros for None."""
        shape = self.num_layers * (1 + self.bidirectional), *batch, self.hidden_size
        if hx is None:
            return input.new_zeros(shape)
        _check_tensor("hx", hx, dtype)
        _check_shape("hx", hx.shape, shape)
        return hx

    def _run_packed(
        self, input: PackedSequence, hx: Tensor | None, weights: list[list[Any]]
    ) -> tuple[PackedSequence, Tensor]:
        """Run a PackedSequence. Its rows are sorted by length; hx and h_n have the caller's order of rows."""
        data, sizes, sorted_indices, unsorted_indices = input
        dtype = weights[0][0].dtype
        _check_tensor("input.data", data, dtype)
        check_storage("input.data", data)
        check.check_shape("input.data", data.shape, ("sum of lengths", self.input_size))
        checked_sizes = _checked_batch_sizes(data, sizes)
        n_batch = int(checked_sizes[0])
        _check_row_order(sorted_indices, unsorted_indices, n_batch)
        state = self._state(data, hx, dtype, n_batch)
        check_storage("hx", state)
        padded, lengths = pad_packed_sequence(PackedSequence(data, checked_sizes))
        sorted_state = state if sorted_indices is None else state.index_select(1, sorted_indices)
        y, h_n = self._run_layers(padded, sorted_state, weights, lengths, False, is_private=True)
        output = PackedSequence(pack_padded_sequence(y, lengths).data, sizes, sorted_indices, unsorted_indices)
        return output, h_n if unsorted_indices is None else h_n.index_select(1, unsorted_indices)

    def _run_layers(
        self, input: Tensor, hx: Tensor, weights: list[list[Any]], lengths: Tensor | None, batch_first: bool,
        is_private: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Run all layers, one operator call for each, with dropout between them.

        The output of the last layer is a copy of the one that is saved for the backward pass, so that the caller may
        write into it, unless it `is_private`.
        """
        states: list[Tensor] = []
        keep_gates = torch.is_grad_enabled() and not self.recompute  # the cheaper tests first
        if keep_gates and torch._C._get_tracing_state() is not None:
            keep_gates = False  # torch.jit.trace compares the graph with one made without gradients
        by_layer = (hx,) if self.num_layers == 1 else hx.chunk(self.num_layers)
        for k, (state, layer_weights) in enumerate(zip(by_layer, weights, strict=True)):
            if k:
                input = torch.nn.functional.dropout(input, self.dropout, self.training)
            tensors = input, state, *layer_weights
            keeps_gates = keep_gates and any(t is not None and t.requires_grad for t in tensors)
            options = batch_first, self.groups, self.activation, self.reset_gate, self.reproducible, keeps_gates
            is_copied = not is_private and k == self.num_layers - 1
            try:
                input, h_n = _ops.run_layer(*tensors, lengths, *options, is_copied=is_copied)
            except (TypeError, ValueError) as error:
                raise self._named_error(error, k, input, layer_weights) from None
            states.append(h_n)
        return input, states[0] if self.num_layers == 1 else torch.cat(states)

    def _named_error(self, error: Exception, layer: int, input: Tensor, weights: list[Any]) -> Exception:
        """The error of an operator, or one that names a parameter of this module if that is the cause."""
        expected_shapes = self._shapes()
        try:
            for name, weight in zip(self._names[layer], weights, strict=True):
                if name is None:
                    continue
                _check_tensor(name, weight, self.kernel_l0.dtype)
                check.check_shape(name, weight.shape, expected_shapes[name])
                if weight.is_meta != input.is_meta:
                    raise ValueError(
                        f"{name}: expected a tensor on {input.device}, where input is, got one on {weight.device}: "
                        "load all parameters (strict=True), or call module.to_empty(device='cpu') and "
                        "module.reset_parameters()"
                    )
                check_storage(name, weight)
        except (TypeError, ValueError) as named:
            return named
        return error
