"""The same numbers in other memory, and objects other than arrays that NumPy converts to them."""

from __future__ import annotations

import tempfile

import numpy as np


def reversed_axes(array, axes):
    """The same numbers with negative strides."""
    return np.flip(np.flip(array, axes).copy(), axes)


def spread(array):
    """The same numbers with gaps between them along every axis."""
    buffer = np.full([2 * size + 1 for size in array.shape], np.nan, array.dtype)
    view = buffer[tuple(slice(1, 2 * size, 2) for size in array.shape)]
    view[...] = array
    return view


def misaligned(array):
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    view = buffer[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def axes_in_order(array, order):
    """The same numbers with the axes in another order in memory."""
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "reversed in time": lambda array: reversed_axes(array, 0),
    "reversed everywhere": lambda array: reversed_axes(array, tuple(range(array.ndim))),
    "spread": spread,
    "spread in rows": lambda array: np.repeat(array, 3, axis=0)[1::3],
    "misaligned": misaligned,
    "Fortran": np.asfortranarray,
    "batch-major": lambda array: axes_in_order(array, [*range(array.ndim - 2, -1, -1), array.ndim - 1]),
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder("S")),
    "read-only": read_only,
    "part of wider rows": lambda array: np.concatenate([array, array], axis=-1)[..., : array.shape[-1]],
    "subclass": lambda array: array.view(type("Sub", (np.ndarray,), {})),
}


def memory_map(array):
    """A memory map of a file without a name."""
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, array.dtype, "w+", shape=array.shape) if array.size else array.copy()
    mapped[...] = array
    return mapped


def field(array):
    """A field of records, whose strides are no multiples of the item size."""
    records = np.zeros(array.shape, [("before", np.uint8), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


class Exporter:
    """An object that exports the memory of an array by one protocol."""

    def __init__(self, array):
        self.array = array.copy()


class ArrayInterface(Exporter):
    @property
    def __array_interface__(self):
        return self.array.__array_interface__


class ArrayStruct(Exporter):
    @property
    def __array_struct__(self):
        return self.array.__array_struct__


class ArrayMethod(Exporter):
    def __array__(self, dtype=None, copy=None):
        return self.array


class DLPack(Exporter):
    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


EXPORTERS = {
    "array interface": ArrayInterface,
    "array struct": ArrayStruct,
    "array method": ArrayMethod,
    "DLPack": DLPack,
}
ACCEPTED = LAYOUTS | EXPORTERS | {
    "memory map": memory_map,
    "field of a record": field,
    "dtype with metadata": lambda array: array.astype(np.dtype(array.dtype, metadata={"unit": "dB"})),
}  # fmt: skip


class Refusing(Exporter):
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("refused by the test")


class RefusingDLPack(DLPack):
    def __dlpack__(self, **options):
        raise BufferError("on another device")


class MaskedArrayMethod(Exporter):
    def __array__(self, dtype=None, copy=None):
        return np.ma.masked_array(self.array)


#: Kinds of objects that every argument refuses.
REFUSED = {
    "masked": np.ma.masked_array,
    "masked by a method": MaskedArrayMethod,
    "refusing": Refusing,
    "refusing as DLPack": RefusingDLPack,
    "objects": lambda array: array.astype(object),
    "halves": lambda array: np.full_like(array, 0.5, np.float16),
    "integers": lambda array: np.full_like(array, 3, np.int32),
    "complex": lambda array: array.astype(complex),
    "text": lambda array: np.full(array.shape, "0.5"),
    "records": lambda array: np.zeros(array.shape, [("value", array.dtype)]),
    "one axis more": lambda array: array[None],
    "one column more": lambda array: np.full((*array.shape[:-1], array.shape[-1] + 1), 0.5, array.dtype),
    "list of lists of different lengths": lambda array: [[0.5], [0.25, 0.125]],
    "a set": lambda array: {0.5, 0.25},
}
