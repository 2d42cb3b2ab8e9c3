# Tensors of other libraries by DLPack: the part of its ABI that describes a tensor's memory.
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t, uintptr_t

from indygru_cpu._engine.buffers cimport MAX_NDIM, ArrayView

# https://github.com/dmlc/dlpack/blob/main/include/dlpack/dlpack.h, structures before version 1.0.
cdef struct DLDevice:
    int32_t device_type
    int32_t device_id

cdef struct DLDataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes

cdef struct DLTensor:
    void *data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t *shape
    int64_t *strides  # in elements; NULL: C-contiguous
    uint64_t byte_offset

cdef struct DLManagedTensor:
    DLTensor tensor
    void *manager_ctx
    void (*deleter)(DLManagedTensor *) noexcept

cdef enum: DL_CPU = 1
cdef enum: DL_FLOAT = 2


cdef inline bint is_capsule(tensor) noexcept:
    """Whether an object is a DLPack capsule that no consumer has taken."""
    return PyCapsule_IsValid(tensor, "dltensor")


cdef inline bint read_capsule(tensor, char format, ArrayView *view) except -1:
    """Copies the address, shape and strides of a tensor of floats into `view`. The format is 'f' or 'd'.

    Returns False for a tensor that the kernels cannot access as it is. The capsule keeps the memory alive."""
    cdef const DLTensor *t = &(<DLManagedTensor *> PyCapsule_GetPointer(tensor, "dltensor")).tensor
    cdef ptrdiff_t i, last = t.ndim - 1, stride
    view.ndim, view.data, view.itemsize, view.size = t.ndim, <char *> t.data + t.byte_offset, t.dtype.bits // 8, 1
    if not 0 <= last < MAX_NDIM or t.device.device_type != DL_CPU or t.dtype.code != DL_FLOAT or t.dtype.lanes != 1:
        return False
    if t.dtype.bits != (64 if format == c'd' else 32):
        return False
    for i in range(last, -1, -1):
        stride = view.size if t.strides is NULL else t.strides[i]
        view.shape[i], view.strides[i] = t.shape[i], stride * view.itemsize
        view.size *= t.shape[i]
    if view.size == 0:
        return True
    return (view.data is not NULL and <uintptr_t> view.data % view.itemsize == 0
            and (view.strides[last] == view.itemsize or view.shape[last] == 1))
