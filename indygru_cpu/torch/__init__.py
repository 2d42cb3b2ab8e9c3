"""IndyGRU for PyTorch: a module with the interface of torch.nn.GRU. Kernels use the memory of CPU tensors directly.

This package requires the extra `torch`: ``pip install "indygru_cpu[torch]"``. See ``docs/torch.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError('torch is missing: pip install "indygru_cpu[torch]"') from None

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shown
from indygru_cpu._layers.options import DEFAULTS, checked_options
from indygru_cpu._layers.parameters import KINDS, SHAPE_OPTIONS, initial_parameters, shapes, suffixes
from indygru_cpu.layer import IndyGRU as NumpyIndyGRU
from indygru_cpu.torch import _ops
from indygru_cpu.torch._ops import NUMPY_DTYPES, check_storage

__all__ = ["IndyGRU"]


def _checked_batch_sizes(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """A copy of `batch_sizes`, after a check against `data`.

    With wrong sizes, `torch.nn.utils.rnn.pad_packed_sequence` writes outside its result.
    """
    name = "input.batch_sizes"
    if not isinstance(batch_sizes, Tensor) or batch_sizes.dtype is not torch.int64 or not batch_sizes.is_cpu:
        got = f"{batch_sizes.dtype} on {batch_sizes.device}" if isinstance(batch_sizes, Tensor) else type(batch_sizes)
        raise TypeError(f"{name}: expected a tensor of torch.int64 on the CPU, got {got}")
    check.check_shape(name, batch_sizes.shape, ("T",))
    sizes = batch_sizes.tolist()
    if not sizes:
        raise ValueError(f"{name}: expected at least one step, got none")
    for step, (size, before) in enumerate(zip(sizes, [len(data), *sizes], strict=False)):
        if not 1 <= size <= before:
            raise ValueError(
                f"{name}: expected rows from 1 to {before} at step {step}, got {size}: sizes never increase"
            )
    if sum(sizes) != len(data):
        raise ValueError(f"{name}: expected a sum of {len(data)}, the steps in input.data, got {sum(sizes)}")
    return torch.tensor(sizes)


def _check_row_order(sorted_indices: Tensor | None, unsorted_indices: Tensor | None, n_batch: int) -> None:
    """Refuse indices of a PackedSequence that are not permutations, or not inverse to each other."""
    if sorted_indices is None and unsorted_indices is None:
        return
    for name, indices in {"input.sorted_indices": sorted_indices, "input.unsorted_indices": unsorted_indices}.items():
        if not isinstance(indices, Tensor) or indices.dtype not in (torch.int32, torch.int64) or not indices.is_cpu:
            got = f"{indices.dtype} on {indices.device}" if isinstance(indices, Tensor) else shown(indices)
            raise TypeError(f"{name}: expected a tensor of torch.int64 on the CPU, got {got}")
        check.check_shape(name, indices.shape, (n_batch,))
        if sorted(indices.tolist()) != list(range(n_batch)):
            raise ValueError(f"{name}: expected each number from 0 to {n_batch - 1} once, got others")
    assert sorted_indices is not None
    assert unsorted_indices is not None
    if sorted_indices[unsorted_indices].tolist() != list(range(n_batch)):
        raise ValueError("input.unsorted_indices: expected the inverse of input.sorted_indices, got other numbers")


def _check_devices(input: Tensor, names: list[str | None], weights: list[Tensor | None]) -> None:
    """Refuse parameters on the meta device with an input on the CPU, and the reverse."""
    for name, weight in zip(names, weights, strict=True):
        if weight is not None and weight.is_meta != input.is_meta:
            raise ValueError(
                f"{name}: expected a tensor on {input.device}, where input is, got one on {weight.device}: load "
                "all parameters (strict=True), or call module.to_empty(device='cpu') and module.reset_parameters()"
            )


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
        Probability of `torch.nn.functional.dropout` between layers in training mode.
    bidirectional : bool
        Whether each layer has a second direction.
    proj_size : int
        Must be 0. torch.nn.GRU has this argument too, and refuses other values.
    device : device
        Device of the parameters. A call requires parameters on the CPU.
    dtype : torch.dtype
        float32 or float64; None is torch's default.
    activation : str
        Activation of the candidate: tanh, relu, sigmoid, identity, elu or softsign.
    groups : int
        Number of blocks of inputs and units.
    reproducible : bool
        Make the bits of a row independent of the other rows of its batch.
    recompute : bool
        Store only the output for the backward pass, a quarter of the memory, and compute the gates again there.

    Attributes
    ----------
    input_size, hidden_size, num_layers, bias, bidirectional, groups
        Read-only, because they determine the shapes of the parameters. The other options can be set.
    kernel_l0, recurrent_kernel_l0, bias_l0 : Parameter
        (D / groups, 3N), (3N,) and (3N,), gate order r, z, candidate; those of the second direction end in
        ``_reverse``; those of the second layer have ``_l1``, and so on. ``state_dict()`` has the same names.

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
    kernel_l0: torch.nn.Parameter
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
    ) -> None:
        super().__init__()
        if proj_size:
            raise ValueError(f"proj_size: expected 0, because a GRU has no projections, got {shown(proj_size)}")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in NUMPY_DTYPES:
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {shown(dtype)}")
        options = checked_options(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=bias, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, activation=activation, dtype=NUMPY_DTYPES[dtype],
            groups=groups, reproducible=reproducible,
        )  # fmt: skip
        for name in ("input_size", "hidden_size", *DEFAULTS):
            setattr(self, name, options[name])
        self.recompute = bool(recompute)
        existing = self._shapes()
        for name, shape in existing.items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        names = [[kind + end for end in ends for kind in KINDS] for ends in suffixes(self.num_layers, True)]
        self._names = [[name if name in existing else None for name in layer_names] for layer_names in names]
        self.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. Options that determine the shapes of parameters are set by the constructor only."""
        if name in SHAPE_OPTIONS and name in self.__dict__:
            if type(value) is type(self.__dict__[name]) and value == self.__dict__[name]:
                return  # a subclass may assign its arguments again
            raise AttributeError(
                f"{name}: expected no new value, got {shown(value)}: make a new module with another {name}"
            )
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Delete an attribute. Options that determine the shapes of parameters cannot be deleted."""
        if name in SHAPE_OPTIONS:
            raise AttributeError(f"{name}: expected no deletion, because it determines the shapes of parameters")
        super().__delattr__(name)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes(**{name: getattr(self, name) for name in SHAPE_OPTIONS})

    def reset_parameters(self) -> None:
        """Draw the initial values of a NumPy layer, with a seed from torch's default generator."""
        if self.kernel_l0.is_meta:
            return
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        dtype = NUMPY_DTYPES.get(self.kernel_l0.dtype, np.dtype(np.float32))  # a converted module may have float16
        initial = initial_parameters(self._shapes(), self.groups, dtype, np.random.default_rng(seed))
        with torch.no_grad():
            for name, array in initial.items():
                getattr(self, name).copy_(torch.from_numpy(array))

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
        options = {name: getattr(layer, name) for name in DEFAULTS}
        dtype = getattr(torch, layer.dtype.name)
        module = cls(layer.input_size, layer.hidden_size, **options, recompute=recompute, device="meta", dtype=dtype)
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
        arrays = {}
        for name, shape in self._shapes().items():
            value = getattr(self, name)
            self._check_tensor(name, value)
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
            Second-order derivatives.

        Notes
        -----
        The input is not copied if its last axis is contiguous. Under ``torch.autocast`` the module runs in float32. For
        `torch.export`, call the module under ``torch.no_grad()``: then the graph stores no gates.
        """
        self._check_tensor("kernel_l0", self.kernel_l0)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: expected None, because a PackedSequence has its own")
            return self._run_packed(input, hx)
        self._check_tensor("input", input)
        if lengths is not None:  # a copy, because the backward pass reads the lengths again
            if isinstance(lengths, Tensor):
                check_storage("lengths", lengths)
            device = lengths.device if isinstance(lengths, Tensor) else input.device
            lengths = torch.as_tensor(lengths, device=device).clone()
        if input.dim() != 2:
            check.check_shape("input", input.shape, (*("BT" if self.batch_first else "TB"), self.input_size))
            state = self._state(input, hx, input.shape[0 if self.batch_first else 1])
            return self._run_layers(input, state, lengths, self.batch_first)
        check.check_shape("input", input.shape, ("T", self.input_size))
        state, lengths = self._state(input, hx).unsqueeze(1), None if lengths is None else lengths.reshape(1)
        output, h_n = self._run_layers(input.unsqueeze(1), state, lengths, False)
        return output.squeeze(1), h_n.squeeze(1)

    def _check_tensor(self, name: str, value: object) -> None:
        """Check type, layout, device and dtype. Under autocast the operator casts, and checks dtypes itself."""
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
        dtype = self.kernel_l0.dtype
        if value.is_cpu and value.layout is torch.strided and value.dtype is dtype and dtype in NUMPY_DTYPES:
            return  # the common case; the code below finds the error
        if value.layout != torch.strided or value.device.type not in ("cpu", "meta"):
            raise TypeError(f"{name}: expected a dense tensor on the CPU, got {value.layout} on {value.device}")
        if dtype not in NUMPY_DTYPES:
            raise TypeError(f"kernel_l0: expected torch.float32 or torch.float64, got {dtype}")
        if value.dtype != dtype and not torch.is_autocast_enabled("cpu"):
            raise TypeError(f"{name}: expected {dtype}, as the parameters have, got {value.dtype}: cast one of them")

    def _state(self, input: Tensor, hx: Tensor | None, *batch: int) -> Tensor:
        """The checked state before the first step; zeros for None."""
        shape = self.num_layers * (1 + self.bidirectional), *batch, self.hidden_size
        if hx is None:
            return input.new_zeros(shape)
        self._check_tensor("hx", hx)
        check.check_shape("hx", hx.shape, shape)
        return hx

    def _run_packed(self, input: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        """Run a PackedSequence. Its rows are sorted by length; hx and h_n have the caller's order of rows."""
        data, sizes, sorted_indices, unsorted_indices = input
        self._check_tensor("input", data)
        check_storage("input.data", data)
        check.check_shape("input.data", data.shape, ("sum of lengths", self.input_size))
        checked_sizes = _checked_batch_sizes(data, sizes)
        n_batch = int(checked_sizes[0])
        _check_row_order(sorted_indices, unsorted_indices, n_batch)
        state = self._state(data, hx, n_batch)
        check_storage("hx", state)
        padded, lengths = pad_packed_sequence(PackedSequence(data, checked_sizes))
        sorted_state = state if sorted_indices is None else state.index_select(1, sorted_indices)
        y, h_n = self._run_layers(padded, sorted_state, lengths, False)
        output = PackedSequence(pack_padded_sequence(y, lengths).data, sizes, sorted_indices, unsorted_indices)
        return output, h_n if unsorted_indices is None else h_n.index_select(1, unsorted_indices)

    def _run_layers(
        self, input: Tensor, hx: Tensor, lengths: Tensor | None, batch_first: bool
    ) -> tuple[Tensor, Tensor]:
        """Run all layers, one operator call for each, with dropout between them."""
        states: list[Tensor] = []
        for names, state in zip(self._names, (hx,) if self.num_layers == 1 else hx.chunk(self.num_layers), strict=True):
            if states:
                input = torch.nn.functional.dropout(input, self.dropout, self.training)
            weights = [None if name is None else getattr(self, name) for name in names]
            _check_devices(input, names, weights)
            keep_gates = torch.is_grad_enabled() and not self.recompute  # the cheaper tests first
            keep_gates = keep_gates and any(t is not None and t.requires_grad for t in (input, state, *weights))
            options = batch_first, self.groups, self.activation, self.reproducible, keep_gates
            input, h_n, _ = _ops.run_layer(input, state, *weights, lengths, *options)
            states.append(h_n)
        return input, states[0] if self.num_layers == 1 else torch.cat(states)
