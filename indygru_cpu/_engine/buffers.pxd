# Memory of NumPy arrays: addresses, shapes and strides as private copies, and overlap.
from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from indygru_cpu._engine.plan cimport StridedView

cdef enum:
    MAX_NDIM = 3

# An array of floats, aligned and contiguous along its last axis. Strides in bytes. A copy of what the array said once:
# assignments to the attributes of the array do not change it.
cdef struct ArrayView:
    char *data  # NULL: no array
    int ndim
    ptrdiff_t shape[MAX_NDIM]
    ptrdiff_t strides[MAX_NDIM]
    ptrdiff_t size
    ptrdiff_t itemsize


cdef inline void compute_bounds(const void *data, ptrdiff_t itemsize, int ndim, const ptrdiff_t *shape,
                                const ptrdiff_t *strides, uintptr_t *first, uintptr_t *end) noexcept:
    """Addresses of the first byte of an array and of the byte past its last one OUT; the array is not empty."""
    cdef ptrdiff_t i, extent
    first[0] = <uintptr_t> data
    end[0] = first[0] + itemsize
    for i in range(ndim):
        extent = (shape[i] - 1) * strides[i]
        if extent < 0:
            first[0] += extent
        else:
            end[0] += extent


cdef inline int get_bounds(array, uintptr_t *first, uintptr_t *end) except -1:
    """The bounds of the memory of an array that is not empty."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(array, &buffer, PyBUF_STRIDES)
    compute_bounds(buffer.buf, buffer.itemsize, buffer.ndim, <ptrdiff_t *> buffer.shape, <ptrdiff_t *> buffer.strides,
                   first, end)
    PyBuffer_Release(&buffer)
    return 0


cdef inline void bounds_of_view(const ArrayView *array, uintptr_t *first, uintptr_t *end) noexcept:
    """The bounds of the memory of an array; they are equal if it is empty."""
    first[0] = end[0] = <uintptr_t> array.data
    if array.size:
        compute_bounds(array.data, array.itemsize, array.ndim, array.shape, array.strides, first, end)


cdef inline bint may_share_memory(const ArrayView *a, const ArrayView *b) noexcept:
    """Whether the bounds of two arrays overlap; False if one of them is no array."""
    cdef uintptr_t a_first, a_end, b_first, b_end
    if a.data is NULL or b.data is NULL:
        return False
    bounds_of_view(a, &a_first, &a_end)
    bounds_of_view(b, &b_first, &b_end)
    return a_first < b_end and b_first < a_end


cdef inline bint has_shape(const ArrayView *array, int ndim, const ptrdiff_t *shape) noexcept:
    cdef int i
    if array.ndim != ndim:
        return False
    for i in range(ndim):
        if array.shape[i] != shape[i]:
            return False
    return True


cdef inline bint is_c_contiguous(const ArrayView *array) noexcept:
    cdef ptrdiff_t stride = array.itemsize
    cdef int i
    if array.size == 0:
        return True
    for i in range(array.ndim - 1, -1, -1):
        if array.shape[i] > 1 and array.strides[i] != stride:
            return False
        stride *= array.shape[i]
    return True


cdef inline bint overlaps_itself(const ArrayView *array) noexcept:
    """Whether elements may share memory, as in a broadcast array or in overlapping windows."""
    cdef ptrdiff_t extent = array.itemsize, stride, smallest = 0
    cdef int i, axis, _
    if array.size == 0 or is_c_contiguous(array):
        return False
    # Axes in the order of their strides: each stride must reach past the extent of all smaller ones.
    cdef bint is_done[MAX_NDIM]
    for i in range(array.ndim):
        is_done[i] = False
    for _ in range(array.ndim):
        axis = -1
        for i in range(array.ndim):
            stride = abs(array.strides[i])
            if not is_done[i] and (axis < 0 or stride < smallest):
                axis, smallest = i, stride
        is_done[axis] = True
        if array.shape[axis] > 1:
            if smallest < extent:
                return True
            extent += (array.shape[axis] - 1) * smallest
    return False


cdef inline void copy_array(const ArrayView *array, char *rows, bint gather) noexcept nogil:
    """Copies an array of two or three axes to contiguous memory (gather), or back."""
    cdef ptrdiff_t i, j, last = array.ndim - 1, n_rows = array.shape[last - 1]
    cdef ptrdiff_t width = array.shape[last] * array.itemsize
    cdef char *row
    for i in range(array.shape[0] if array.ndim == 3 else 1):
        for j in range(n_rows):
            row = array.data + j * array.strides[last - 1] + (i * array.strides[0] if array.ndim == 3 else 0)
            if gather:
                memcpy(rows, row, width)
            else:
                memcpy(row, rows, width)
            rows += width


cdef inline StridedView as_strided_view(const ArrayView *array, bint batch_first) noexcept nogil:
    """An array (T, B, width), (B, T, width) if batch_first, or (T, width) with one row or of ragged values."""
    if array.data is NULL or array.ndim == 2:
        return StridedView(array.data, array.strides[0] if array.data is not NULL else 0, 0)
    if batch_first:
        return StridedView(array.data, array.strides[1], array.strides[0])
    return StridedView(array.data, array.strides[0], array.strides[1])
