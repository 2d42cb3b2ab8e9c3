# Bounds of the memory of arrays, by which overlap is detected.
from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t


cdef inline int get_bounds(array, uintptr_t *first, uintptr_t *end) except -1:
    """Addresses of the first byte of an array and of the byte past its last one OUT; the array is not empty."""
    cdef Py_buffer view
    cdef ptrdiff_t i, extent
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    first[0] = <uintptr_t> view.buf
    end[0] = first[0] + view.itemsize
    for i in range(view.ndim):
        extent = (view.shape[i] - 1) * view.strides[i]
        if extent < 0:
            first[0] += extent
        else:
            end[0] += extent
    PyBuffer_Release(&view)
    return 0
