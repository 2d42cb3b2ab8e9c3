"""What a layer is: its configuration, its parameters, and their ways into files. What it does is in `layer`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from indygru_cpu._messages import listed
from indygru_cpu._parameters import Parameters, summary

Array = np.ndarray[Any, Any]
Self = TypeVar("Self", bound="Weighted")

#: Options of a layer, which all change what it computes, and what they are unless given.
DEFAULTS = {
    "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "activation": "tanh",
    "groups": 1, "reproducible": False,
}  # fmt: skip


class Weighted:
    """A layer without its calls. Every argument of its constructor but the seed is an attribute of the same name."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    activation: str
    dtype: np.dtype[Any]
    groups: int
    num_threads: int | None
    reproducible: bool
    _parameters: Parameters
    _weights: list[list[Any]]  # the same arrays, as calls take them

    def _sizes(self) -> dict[str, Any]:
        """What the parameters' shapes follow from."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "groups")
        return {name: getattr(self, name) for name in names}

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
            raise ValueError(f"state_dict: missing {listed(missing)}, unknown {listed(unknown)}")
        self._parameters.update(state_dict)

    def _configuration(self) -> dict[str, Any]:
        """What a layer that computes the same is constructed with, as a weight file can hold it."""
        others = ("batch_first", "dropout", "activation", "reproducible")
        return self._sizes() | {name: getattr(self, name) for name in others} | {"dtype": self.dtype.name}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """Under what name Dask knows results: by what they depend on, so neither by the seed nor by `num_threads`."""
        return type(self).__qualname__, self._configuration(), dict(self._parameters)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters and the configuration to a file, which is replaced as a whole or not at all.

        Parameters
        ----------
        path : str or path
            Ends in ``.npz`` or in ``.safetensors``. A file that is there keeps its permissions; a symbolic link stays,
            and the file it points to is replaced.

        Raises
        ------
        WeightsError
            Another suffix.
        OSError
            From the file system. The file that was there is as it was.
        ImportError
            The package safetensors, from the extra `safetensors`, is missing.

        Notes
        -----
        The same layer gives the same bytes. `numpy.load` reads a ``.npz`` file, any safetensors package the other: the
        parameters are there under their names, and beside them, as JSON, the configuration. Not in it are the seed,
        and `num_threads`, which is a matter of the machine. In a ``.safetensors`` file the JSON has a checksum too,
        ``crc32``: leave it out if you change such a file.

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

        _files.write(path, self._configuration(), self._parameters)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str], *, num_threads: int | None = None) -> Self:
        """Read a layer that `save` has written.

        Parameters
        ----------
        path : str or path
            Ends in ``.npz`` or in ``.safetensors``. Nothing in the file is believed before it has been checked, and
            no code in it is ever run.
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
            more than 3 to 1. The message says what and where.
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
        """
        from indygru_cpu import _files

        configuration, arrays = _files.read(path)
        # What was read, and checked, becomes the layer's own: a copy would be as large as the file once more.
        new: Any = cls
        layer: Self = new(**configuration, num_threads=num_threads, seed=Parameters(arrays).required("C", "A", "W"))
        return layer

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
        return f"{self!r}\n{summary(self._parameters)}"

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in DEFAULTS}
        options = [f"{name}={value!r}" for name, value in given.items() if value != DEFAULTS[name]]
        arguments = [str(self.input_size), str(self.hidden_size), *options, f"dtype={self.dtype}"]
        return f"{type(self).__name__}({', '.join(arguments)})"
