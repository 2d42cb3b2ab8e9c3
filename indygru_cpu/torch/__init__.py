"""IndyGRU for PyTorch: a module in the place of torch.nn.GRU, on CPU tensors, whose memory the kernels read and write.

Needs the extra `torch`: ``pip install "indygru_cpu[torch]"``. ``docs/torch.md`` is its page.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError('torch is missing: pip install "indygru_cpu[torch]"') from None

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shown
from indygru_cpu._layers.parameters import initial_parameters, shapes
from indygru_cpu._layers.weighted import DEFAULTS
from indygru_cpu.layer import IndyGRU as NumpyIndyGRU
from indygru_cpu.torch._ops import DTYPES, check_storage
from indygru_cpu.torch._passes import Passes

__all__ = ["IndyGRU"]

#: Attributes that determine the parameters' shapes.
_FIXED = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "groups")


def _operands(layer: int, there: Container[str]) -> list[str | None]:
    """Names of the six parameters that the operator takes for a layer; None for those that are not there."""
    kinds, ends = ("kernel", "recurrent_kernel", "bias"), (f"_l{layer}", f"_l{layer}_reverse")
    return [kind + end if kind + end in there else None for end in ends for kind in kinds]


class IndyGRU(Passes):
    """A GRU whose recurrent weights are vectors, with the constructor and the call of torch.nn.GRU [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
        D and N.
    num_layers : int
        Layers on top of each other.
    bias : bool
        Whether there is a bias.
    batch_first : bool
        Whether input and output are (B, T, ...) instead of (T, B, ...). No copy is made for it.
    dropout : float
        Probability of `torch.nn.functional.dropout` between layers, in training mode.
    bidirectional : bool
        Whether each layer has a second direction.
    proj_size : int
        0: it is here because torch.nn.GRU has it, and means LSTMs there too.
    device : device
        Of the parameters. A call needs them on the CPU.
    dtype : torch.dtype
        float32 or float64; None is torch's default.
    activation : str
        Of the candidate: tanh, relu, sigmoid, identity, elu or softsign.
    groups : int
        Blocks that inputs and units split into.
    reproducible : bool
        Make the bits of a row depend on that row alone, not on the others in its batch.
    recompute : bool
        Keep only the output for the backward pass, a quarter of the memory, and compute the gates anew there.

    Attributes
    ----------
    input_size, hidden_size, num_layers, bias, bidirectional, groups
        Read-only, because the shapes of the parameters follow from them. The other options can be set.
    kernel_l0, recurrent_kernel_l0, bias_l0 : Parameter
        (D / groups, 3N), (3N,) and (3N,), gate order r, z, candidate; with ``_reverse`` appended, those of the second
        direction; and so on with ``_l1``. These are also the names in ``state_dict()``.

    Notes
    -----
    Names and layout of the parameters are those of `indygru_cpu.IndyGRU`, not of torch.nn.GRU: the kernels read the
    tensors' memory as it lies, and ``weight_hh`` would be a matrix of zeros around three diagonals. To and from
    torch.nn.GRU, `indygru_cpu.interop` converts. Initial values are those of the NumPy layer too, drawn after
    ``torch.manual_seed``.

    There are no more threads than ``torch.get_num_threads()``, and results do not depend on their number.

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
        self.input_size = check.integer(input_size, "input_size", 1)
        self.hidden_size = check.integer(hidden_size, "hidden_size", 1)
        self.num_layers = check.integer(num_layers, "num_layers", 1)
        self.groups = check.groups(groups, {"input_size": self.input_size, "hidden_size": self.hidden_size})
        self.dropout = check.fraction(dropout, "dropout")
        self.bias, self.batch_first, self.bidirectional = bool(bias), bool(batch_first), bool(bidirectional)
        self.reproducible, self.recompute = bool(reproducible), bool(recompute)
        check.activation_index(activation)
        self.activation = activation
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in DTYPES:
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {shown(dtype)}")
        for name, shape in self._shapes().items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._names = [_operands(k, self._shapes()) for k in range(self.num_layers)]
        self.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. Those that decide shapes of parameters are set once, by the constructor."""
        if name in _FIXED and name in self.__dict__:
            if type(value) is type(self.__dict__[name]) and value == self.__dict__[name]:
                return  # a subclass may repeat what it gave to this constructor
            raise AttributeError(
                f"{name}: expected no new value, got {shown(value)}: make a new module with another {name}"
            )
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Delete an attribute, but none that decides shapes of parameters."""
        if name in _FIXED:
            raise AttributeError(f"{name}: expected no deletion, because parameters' shapes follow from it")
        super().__delattr__(name)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        sizes = self.input_size, self.hidden_size, self.num_layers, self.bias, self.bidirectional, self.groups
        return shapes(*sizes)

    def reset_parameters(self) -> None:
        """Draw initial values, as a NumPy layer does, with a seed from torch's own generator."""
        if self.kernel_l0.is_meta:
            return
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        dtype = np.dtype(np.float64 if self.kernel_l0.dtype == torch.float64 else np.float32)
        drawn = initial_parameters(self._shapes(), self.groups, dtype, np.random.default_rng(seed))
        with torch.no_grad():
            for name, array in drawn.items():
                getattr(self, name).copy_(torch.from_numpy(array))

    def flatten_parameters(self) -> None:
        """Do nothing: torch.nn.GRU has this for GPUs, and programs call it."""

    @classmethod
    def from_numpy(cls, layer: NumpyIndyGRU, *, recompute: bool = False) -> IndyGRU:
        """Make a module of a NumPy layer. As with `torch.from_numpy`, both have one memory: training one trains both.

        Parameters
        ----------
        layer : indygru_cpu.IndyGRU
            Its configuration and its live parameters are taken.
        recompute : bool
            As for the constructor.

        Returns
        -------
        IndyGRU
            The memory stays shared until the module is converted, as by ``module.double()``.

        Raises
        ------
        TypeError
            Something else than a layer.

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
        """Make a NumPy layer of the module. As with `torch.Tensor.numpy`, both have one memory.

        Returns
        -------
        indygru_cpu.IndyGRU
            To save, to stream, or to run without PyTorch.

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
            # The tensor's own memory, or a copy where the kernels cannot read it.
            arrays[name] = np.require(value.detach().numpy(), requirements=("C", "A", "W"))
        options = {name: getattr(self, name) for name in DEFAULTS}
        sizes = {"input_size": self.input_size, "hidden_size": self.hidden_size, "dtype": arrays["kernel_l0"].dtype}
        return NumpyIndyGRU._with_parameters(sizes | options, arrays)

    def extra_repr(self) -> str:
        """Sizes, and the options that are not the defaults."""
        options = [f"{name}={getattr(self, name)!r}" for name in DEFAULTS if getattr(self, name) != DEFAULTS[name]]
        return ", ".join([str(self.input_size), str(self.hidden_size), *options])

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, *, lengths: Any = None
    ) -> tuple[Any, Tensor]:
        """Run the module.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (T, B, D), or (B, T, D) with ``batch_first``, or (T, D) unbatched. A PackedSequence is padded first and its
            result packed again, because in it rows lie step by step: two copies that `lengths` does not need.
        hx : Tensor, (layers * directions, B, N), or (layers * directions, N) unbatched, optional
            States before the first step; None is zeros.
        lengths : integers, (B,), optional
            Valid steps of each row of a padded input, from 0 to T, in any order. Past them the output is 0, and the
            state stays as it is.

        Returns
        -------
        output : Tensor or PackedSequence
            All states of the last layer: like `input`, with N columns, or 2N with two directions.
        h_n : Tensor, shaped like hx
            States after each row's last valid step; of the reverse direction, after its first.

        Raises
        ------
        TypeError, ValueError
            A tensor that is not on the CPU, not dense, or of another dtype or device than the parameters; a shape, a
            length, a PackedSequence that does not fit.
        NotImplementedError
            Second derivatives, in the backward pass of a backward pass.

        Notes
        -----
        Where the last axis is contiguous, the input is read where it lies. Under ``torch.autocast`` the module runs in
        float32. In a `torch.export`, which knows no gradients, wrap the call in ``torch.no_grad()``: then the graph
        keeps no gates.
        """
        self._check_tensor("kernel_l0", self.kernel_l0)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: expected None, because a PackedSequence brings its own")
            return self._packed(input, hx)
        self._check_tensor("input", input)
        if lengths is not None:  # a copy, because the backward pass reads them too
            if isinstance(lengths, Tensor):
                check_storage("lengths", lengths)
            on = lengths.device if isinstance(lengths, Tensor) else input.device
            lengths = torch.as_tensor(lengths, device=on).clone()
        if input.dim() != 2:
            check.check_shape("input", input.shape, (*("BT" if self.batch_first else "TB"), self.input_size))
            state = self._state(input, hx, input.shape[0 if self.batch_first else 1])
            return self._stack(input, state, lengths, self.batch_first)
        check.check_shape("input", input.shape, ("T", self.input_size))
        state, lengths = self._state(input, hx).unsqueeze(1), None if lengths is None else lengths.reshape(1)
        output, h_n = self._stack(input.unsqueeze(1), state, lengths, False)
        return output.squeeze(1), h_n.squeeze(1)
