# Tensors of other libraries by DLPack: the part of its ABI that describes and makes tensors.
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, PyObject
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from indygru_cpu._engine.buffers cimport MAX_NDIM, ArrayView
from indygru_cpu._engine.kernels cimport indygru_pool_allocate, indygru_pool_release
from indygru_cpu._engine.plan cimport align_up, check_alloc

# https://github.com/dmlc/dlpack/blob/main/include/dlpack/dlpack.h, version 1.3. Later versions
# of the same major number add to the ends of these structures.
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

cdef struct DLPackVersion:
    uint32_t major
    uint32_t minor

cdef struct DLManagedTensorVersioned:
    DLPackVersion version
    void *manager_ctx
    void (*deleter)(DLManagedTensorVersioned *) noexcept nogil
    uint64_t flags
    DLTensor tensor

cdef struct DLPackExchangeAPIHeader:
    DLPackVersion version
    DLPackExchangeAPIHeader *prev_api

cdef struct DLPackExchangeAPI:
    DLPackExchangeAPIHeader header
    void *managed_tensor_allocator
    void *managed_tensor_from_py_object_no_sync
    # Makes a tensor of Python OUT, and takes the ownership of the managed tensor.
    int (*managed_tensor_to_py_object_no_sync)(DLManagedTensorVersioned *, void **) except -1
    # Describes a tensor of Python, which stays the owner of data, shape and strides. May be NULL.
    int (*dltensor_from_py_object_no_sync)(void *, DLTensor *) except -1

cdef enum: DL_CPU = 1
cdef enum: DL_FLOAT = 2
cdef enum: DLPACK_MAJOR = 1


cdef inline const DLPackExchangeAPI *find_exchange_api(capsule) except? NULL:
    """The functions of a library, from the attribute __dlpack_c_exchange_api__ of its tensors, which may be None.

    NULL: the library lacks the function that is used here."""
    cdef const DLPackExchangeAPI *api
    if capsule is None:
        return NULL
    api = <const DLPackExchangeAPI *> PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
    if api.header.version.major != DLPACK_MAJOR or api.dltensor_from_py_object_no_sync is NULL:
        return NULL
    return api


# A tensor that owns its memory, which follows this structure.
cdef struct OwnedTensor:
    DLManagedTensorVersioned managed
    int64_t shape[MAX_NDIM]
    int64_t strides[MAX_NDIM]


cdef inline void free_owned_tensor(DLManagedTensorVersioned *managed) noexcept nogil:
    indygru_pool_release(<char *> managed)


cdef inline new_owned_tensor(const DLPackExchangeAPI *api, ArrayView *layout):
    """A new tensor of Python with the shape of a C-contiguous `layout`, whose data becomes the address of its
    memory."""
    cdef ptrdiff_t header = align_up(sizeof(OwnedTensor)), size = header + layout.size * layout.itemsize, i
    cdef OwnedTensor *owned = <OwnedTensor *> check_alloc(indygru_pool_allocate(size), size)
    cdef DLTensor *t = &owned.managed.tensor
    cdef void *tensor = NULL
    memset(owned, 0, sizeof(OwnedTensor))
    layout.data = <char *> owned + header
    owned.managed.version.major, owned.managed.deleter = DLPACK_MAJOR, free_owned_tensor
    for i in range(layout.ndim):
        owned.shape[i], owned.strides[i] = layout.shape[i], layout.strides[i] // layout.itemsize
    t.data, t.device.device_type, t.ndim = layout.data, DL_CPU, layout.ndim
    t.shape, t.strides = owned.shape, owned.strides
    t.dtype.code, t.dtype.bits, t.dtype.lanes = DL_FLOAT, 8 * layout.itemsize, 1
    api.managed_tensor_to_py_object_no_sync(&owned.managed, &tensor)
    result = <object> <PyObject *> tensor
    Py_DECREF(result)  # the reference that the function returned
    return result


cdef inline bint read_tensor(const DLTensor *t, ArrayView *view) noexcept:
    """Copies the address, shape and strides of a tensor of floats into `view`.

    Returns False for a tensor that the kernels cannot access as it is."""
    cdef ptrdiff_t i, last = t.ndim - 1, stride
    view.ndim, view.data, view.itemsize, view.size = t.ndim, <char *> t.data + t.byte_offset, t.dtype.bits // 8, 1
    if not 0 <= last < MAX_NDIM or t.device.device_type != DL_CPU or t.dtype.code != DL_FLOAT or t.dtype.lanes != 1:
        return False
    if t.dtype.bits != 32 and t.dtype.bits != 64:
        return False
    for i in range(last, -1, -1):
        stride = view.size if t.strides is NULL or t.shape[i] == 1 else t.strides[i]  # that of one element may be any
        view.shape[i], view.strides[i] = t.shape[i], stride * view.itemsize
        view.size *= t.shape[i]
    if view.size == 0:
        return True
    return (view.data is not NULL and <uintptr_t> view.data % view.itemsize == 0
            and (view.strides[last] == view.itemsize or view.shape[last] == 1))
