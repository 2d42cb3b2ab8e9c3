# Part of _core.pyx: arrays of Python, whose memory a call reads and writes.
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

cdef enum:
    MOST_LOANS = 16
    READ = PyBUF_FORMAT | PyBUF_STRIDES
    WRITTEN = READ | PyBUF_WRITABLE


cdef class Loans:
    """The arrays of one call, on loan until this object goes: what typed memoryviews do, for less, as a small call
    notices. They were checked in Python; here only what a mistake of ours would make of memory is."""
    cdef Py_buffer views[MOST_LOANS]
    cdef int count
    cdef Py_ssize_t itemsize  # of all floats, as the first has it

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])

    cdef const Py_buffer *take(self, array, int n_axes, int access) except NULL:
        cdef Py_buffer *view = &self.views[self.count]
        PyObject_GetBuffer(array, view, access)
        self.count += 1
        if view.ndim != n_axes:
            raise ValueError(f"expected an array of {n_axes} axes, got {view.ndim}")
        return view

    cdef const Py_buffer *floats(self, array, int n_axes, int access) except NULL:
        cdef const Py_buffer *view = self.take(array, n_axes, access)
        if self.itemsize == 0:
            self.itemsize = view.itemsize
        if view.format[0] != (c'd' if self.itemsize == sizeof(double) else c'f') or view.format[1] != 0:
            raise ValueError(f"expected floats of {self.itemsize} bytes, got {view.format.decode()}")
        return view

    cdef const ptrdiff_t *integers(self, array) except? NULL:
        """Of numpy.intp; None is NULL."""
        if array is None:
            return NULL
        cdef const Py_buffer *view = self.take(array, 1, READ)
        if view.itemsize != sizeof(ptrdiff_t) or view.format[0] not in (c'l', c'q'):
            raise ValueError(f"expected integers of {sizeof(ptrdiff_t)} bytes, got {view.format.decode()}")
        return <const ptrdiff_t *> view.buf

    cdef Array steps(self, array, int access) except *:
        """(steps, rows, width)."""
        cdef const Py_buffer *view = self.floats(array, 3, access)
        return Array(<char *> view.buf, view.strides[0], view.strides[1])

    cdef char *line(self, array) except? NULL:
        """(width,), written; None is NULL."""
        return NULL if array is None else <char *> self.floats(array, 1, WRITTEN).buf


cdef Array rows_of(const Py_buffer *view) noexcept:
    """(rows, width)."""
    return Array(<char *> view.buf, 0, view.strides[0])


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
