"""What a layer is: its configuration, its parameters, and their ways into files. What it does is in `layer`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO, Generic, TypeVar, overload

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import listed, shown
from indygru_cpu._layers.parameters import Parameters, shapes, summary
from indygru_cpu._typing import Array

Self = TypeVar("Self", bound="Weighted")
T = TypeVar("T")

#: Options of a layer, which all change what it computes, and what they are unless given.
DEFAULTS = {
    "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "activation": "tanh",
    "groups": 1, "reproducible": False,
}  # fmt: skip


#: Options that determine the parameters' shapes.
_SIZES = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "groups")


class Option(Generic[T]):
    """A read-only attribute of a layer: its constructor sets it, and everything the layer holds follows from it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, layer: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, layer: Weighted, owner: type) -> T: ...
    def __get__(self, layer: Weighted | None, owner: type) -> Option[T] | T:
        if layer is None:
            return self
        value: T = layer._options[self._name]
        return value

    def __set__(self, layer: Weighted, value: object) -> None:
        own = layer._options[self._name]
        if isinstance(value, type(own)) and value == own:
            return  # as in a child class that repeats its arguments
        raise AttributeError(
            f"{self._name}: expected no assignment, because a layer's configuration is read-only, got {shown(value)}: "
            f"make a new layer, such as {type(layer).__name__}(..., {self._name}={shown(value)})"
        )


def checked_options(
    *, input_size: Any, hidden_size: Any, dtype: Any, num_layers: Any = 1, bias: Any = True, batch_first: Any = False,
    dropout: Any = 0.0, bidirectional: Any = False, activation: Any = "tanh", groups: Any = 1,
    reproducible: Any = False,
) -> dict[str, Any]:  # fmt: skip
    """All options of a layer, after a check of each one and of sizes that must fit each other."""
    input_size = check.size(input_size, "input_size")
    hidden_size = check.integer(hidden_size, "hidden_size", 1, check.MOST_COLUMNS // 3)
    check.countable("input_size and hidden_size", (input_size, 3 * hidden_size))
    check.activation_index(activation)
    return {
        "input_size": input_size,
        "hidden_size": hidden_size,
        "num_layers": check.size(num_layers, "num_layers"),
        "groups": check.groups(groups, {"input_size": input_size, "hidden_size": hidden_size}),
        "dropout": check.fraction(dropout, "dropout"),
        "bias": bool(bias),
        "batch_first": bool(batch_first),
        "reproducible": bool(reproducible),
        "bidirectional": bool(bidirectional),
        "activation": activation,
        "dtype": check.dtype(dtype),
    }


class Weighted:
    """A layer without its calls. Every argument of its constructor but the seed is an attribute of the same name."""

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
    num_threads: Any  # a property
    _options: dict[str, Any]
    _parameters: Parameters
    _stack: Any  # what follows from both, as calls take it

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters."""
        return shapes(**{name: self._options[name] for name in _SIZES})

    @classmethod
    def _with_parameters(
        cls: type[Self], configuration: Mapping[str, Any], arrays: Mapping[str, Any], num_threads: int | None = None
    ) -> Self:
        """A layer with a configuration as `_configuration` gives it, whose parameters are these arrays where possible.

        An array is copied only if it is not C-contiguous, aligned and writable.
        """
        layer = cls.__new__(cls)
        layer._options = checked_options(**configuration)
        expected, like = layer._shapes(), ("the layer", layer.dtype)
        if arrays.keys() != expected.keys():
            raise ValueError(f"parameters: expected {listed(sorted(expected))}, got {listed(sorted(arrays))}")
        found = {name: check.array(name, arrays[name], shape, like) for name, shape in expected.items()}
        layer._finish(Parameters(found).required("C", "A", "W"), np.random.default_rng(), num_threads)
        return layer

    def _finish(self, parameters: Parameters, rng: np.random.Generator, num_threads: int | None) -> None:
        """Set what a layer has beside its options; a child class does the rest."""
        raise NotImplementedError

    @property
    def parameters(self) -> Parameters:
        """The live arrays by name."""
        return self._parameters

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters."""
        return {name: array.copy() for name, array in self._parameters.storage.items()}

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
            raise ValueError(f"state_dict: missing {listed(missing)}, unknown {listed(unknown)}")
        self._parameters.update(state_dict)

    def _configuration(self) -> dict[str, Any]:
        """What a layer that computes the same is constructed with, as a weight file can hold it."""
        return self._options | {"dtype": self.dtype.name}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """Under what name Dask knows results: by what they depend on, so neither by the seed nor by `num_threads`."""
        return type(self).__qualname__, self._configuration(), self._parameters.storage

    def save(self, path: str | os.PathLike[str] | BinaryIO, *, format: str | None = None) -> None:
        """Write the parameters and the configuration to a file, which is replaced as a whole or not at all.

        Parameters
        ----------
        path : str, path or binary file object
            A file that is there keeps its permissions; a symbolic link stays, and the file it points to is replaced.
            A file object gets all bytes at its position, after every check has passed; flushing and closing it is left
            to the caller.
        format : {"npz", "safetensors"}, optional
            Needed where the name of the file or file object does not end in ``.npz`` or ``.safetensors``.

        Raises
        ------
        WeightsError
            Another suffix, and no `format`.
        ValueError
            An unknown `format`, or one that contradicts the suffix.
        TypeError
            Neither a path nor a file object open in binary mode.
        PermissionError
            A file that is there is read-only, as for `numpy.save`; or the folder does not allow new files.
        OSError
            From the file system. The file that was there is as it was; a file object may hold a part of the bytes.
        ImportError
            The package safetensors, from the extra `safetensors`, is missing.

        Notes
        -----
        The same layer gives the same bytes. `numpy.load` reads a ``.npz`` file, any safetensors package the other: the
        parameters are there under their names, and beside them, as JSON, the configuration. Not in it are the seed,
        and `num_threads`, which is a matter of the machine. In a ``.safetensors`` file the JSON has a checksum too,
        ``crc32``: leave it out if you change such a file.

        The bytes are written to a temporary file in the same folder, ``.indygru_cpu-<16 hexadecimal digits>.tmp``,
        which is then renamed. A process that is killed in between leaves it there: such a file can be deleted once no
        process is saving.

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
        from indygru_cpu import _files  # here: most programs need no archives and hashes

        _files.write(path, self._configuration(), self._parameters.storage, format)

    @classmethod
    def load(
        cls: type[Self],
        path: str | os.PathLike[str] | BinaryIO,
        *,
        format: str | None = None,
        num_threads: int | None = None,
    ) -> Self:
        """Read a layer that `save` has written.

        Parameters
        ----------
        path : str, path or binary file object
            Nothing in the file is believed before it has been checked, and no code in it is ever run. A file object is
            read into memory from its position to its end.
        format : {"npz", "safetensors"}, optional
            Needed where the name of a file does not end in ``.npz`` or ``.safetensors``. Without it, a file object
            whose name does not end so either is read as its first bytes say.
        num_threads : int, optional
            As for the constructor.

        Returns
        -------
        IndyGRU
            A new layer with the configuration and the parameters of the one that was saved.

        Raises
        ------
        WeightsError
            A file that is damaged, not a layer's, or written by a newer version: unknown or missing arrays or
            configuration entries, wrong shapes or dtypes, sizes that are not those of the file, arrays compressed
            more than 3 to 1; another suffix, and no `format`. The message says what and where.
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

        A layer in memory, without a file:

        >>> import io
        >>> memory = io.BytesIO()
        >>> IndyGRU(3, 5, batch_first=True).save(memory, format="npz")
        >>> IndyGRU.load(io.BytesIO(memory.getvalue())).batch_first
        True
        """
        from indygru_cpu import _files

        configuration, arrays = _files.read(path, format)
        # The arrays that were read become the layer's own: a copy would be as large as the file once more.
        return cls._with_parameters(configuration, arrays, num_threads)

    def summary(self) -> str:
        """Return a table of the parameters: shapes, counts, bytes, and multiply-adds of a step of one row.

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
