# Which arrays may share memory.
from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t


cdef inline int get_bounds(array, uintptr_t *first, uintptr_t *end) except -1:
    """Of its memory: the first byte, and the one past the last."""
    cdef Py_buffer view
    cdef ptrdiff_t i, reach
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    first[0] = <uintptr_t> view.buf
    end[0] = first[0] + view.itemsize
    for i in range(view.ndim):
        reach = (view.shape[i] - 1) * view.strides[i]
        if reach < 0:
            first[0] += reach
        else:
            end[0] += reach
    PyBuffer_Release(&view)
    return 0
