# Part of _core.pyx: the functions of _capi.pxi as handlers of XLA's foreign function interface, for indygru_cpu.jax.
#
# XLA promises a stable binary interface within a major version (xla/ffi/api/c_api.h, which jaxlib ships). These are the
# leading fields, by the same names, of the few structs that a handler reads.
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t

cdef enum:
    XLA_MAJOR = 0
    XLA_FIRST_MINOR = 1
    XLA_METADATA = 1       # the extension that asks for a handler's version
    XLA_INVALID_ARGUMENT = 3
    XLA_F64 = 12

cdef struct XlaExtension:
    size_t struct_size
    int type
    void *next

cdef struct XlaVersion:
    size_t struct_size
    void *extension_start
    int major_version, minor_version

cdef struct XlaMetadata:
    size_t struct_size
    XlaVersion api_version

cdef struct XlaMetadataExtension:
    XlaExtension base
    XlaMetadata *metadata

cdef struct XlaErrorArgs:
    size_t struct_size
    void *extension_start
    const char *message
    int errc

cdef struct XlaApi:
    size_t struct_size
    void *extension_start
    XlaVersion api_version
    void *internal_api
    void *(*create_error)(XlaErrorArgs *) noexcept nogil

cdef struct XlaBuffer:
    size_t struct_size
    void *extension_start
    int dtype
    void *data
    int64_t rank
    int64_t *dims

cdef struct XlaArray:      # an attribute
    int dtype
    size_t size
    void *data

cdef struct XlaList:       # of operands, or of results
    size_t struct_size
    void *extension_start
    int64_t size
    int *types
    XlaBuffer **buffers

cdef struct XlaAttributes:
    size_t struct_size
    void *extension_start
    int64_t size
    int *types
    void **names
    XlaArray **attributes

cdef struct XlaCallFrame:
    size_t struct_size
    XlaExtension *extension_start
    const XlaApi *api
    void *ctx
    int stage
    XlaList operands
    XlaList results
    XlaAttributes attributes

# Places among the operands; the last four are backward's.
cdef enum: AT_X, AT_H0, AT_KERNEL, AT_RECURRENT_KERNEL, AT_BIAS, AT_LENGTHS, AT_Y, AT_TAPE, AT_DY, AT_DH


cdef void *fail(const XlaCallFrame *frame, const char *message) noexcept nogil:
    cdef XlaErrorArgs error = XlaErrorArgs(sizeof(XlaErrorArgs), NULL, message, XLA_INVALID_ARGUMENT)
    return frame.api.create_error(&error)


cdef void *tell_version(const XlaCallFrame *frame) noexcept nogil:
    """A minor version only adds fields behind those that are read here, so any will do. The first ones ask before there
    is an api."""
    cdef XlaMetadata *metadata = (<XlaMetadataExtension *> frame.extension_start).metadata
    metadata.api_version.major_version = XLA_MAJOR
    metadata.api_version.minor_version = XLA_FIRST_MINOR
    if frame.api is not NULL:
        metadata.api_version.minor_version = frame.api.api_version.minor_version
    return NULL


# One of the calls that vmap makes of one: all buffers have its leading axes, of length 1 where they do not vary.
cdef struct Member:
    const XlaBuffer *like  # has them in full
    ptrdiff_t n_axes, index, n_members
    ptrdiff_t itemsize


cdef void *data_of(const Member *member, const XlaBuffer *buffer, ptrdiff_t itemsize) noexcept nogil:
    """Where the member's part of a buffer lies."""
    cdef ptrdiff_t axis, index = member.index, place = 0, size = 1
    for axis in range(member.n_axes - 1, -1, -1):
        if buffer.dims[axis] > 1:
            place += index % member.like.dims[axis] * size
        size *= buffer.dims[axis]
        index //= member.like.dims[axis]
    for axis in range(member.n_axes, buffer.rank):
        place *= buffer.dims[axis]
    return <char *> buffer.data + place * itemsize


cdef ptrdiff_t member_bytes(const Member *member, const XlaBuffer *buffer) noexcept nogil:
    cdef ptrdiff_t axis, size = member.itemsize
    for axis in range(member.n_axes, buffer.rank):
        size *= buffer.dims[axis]
    return size


cdef Member members_of(const XlaCallFrame *frame) noexcept nogil:
    cdef const XlaBuffer *x = frame.operands.buffers[AT_X]
    cdef Member member = Member(frame.results.buffers[0], x.rank - 3, 0, 1,
                                sizeof(double) if x.dtype == XLA_F64 else sizeof(float))
    cdef ptrdiff_t axis
    for axis in range(member.n_axes):
        member.n_members *= member.like.dims[axis]
    return member


cdef void *operand(const XlaCallFrame *frame, const Member *member, int place) noexcept nogil:
    return data_of(member, frame.operands.buffers[place], member.itemsize)


cdef void *result(const XlaCallFrame *frame, const Member *member, int place) noexcept nogil:
    return data_of(member, frame.results.buffers[place], member.itemsize)


cdef indygru_call call_of(const XlaCallFrame *frame, const Member *member, ptrdiff_t *lengths) noexcept nogil:
    """What forward and backward share; lengths (B) is room for those of this member."""
    cdef indygru_call call = indygru_new_call(member.itemsize == sizeof(double))
    cdef const int64_t *sizes = frame.operands.buffers[AT_X].dims + member.n_axes
    cdef const int64_t *options = <const int64_t *> frame.attributes.attributes[0].data
    cdef const XlaBuffer *given = frame.operands.buffers[AT_LENGTHS]
    cdef const int32_t *own = <const int32_t *> data_of(member, given, sizeof(int32_t))
    cdef ptrdiff_t row
    call.activation, call.n_groups = <int> options[0], options[1]
    call.reproducible, call.n_threads = <int> options[2], <int> options[3]
    if options[4]:  # nobody asked for a number of threads, so those at work elsewhere are left out
        call.n_threads = max(1, call.n_threads - indygru_seats_taken())
    call.n_steps, call.n_batch, call.n_inputs = sizes[0], sizes[1], sizes[2]
    call.n_units = frame.operands.buffers[AT_BIAS].dims[member.n_axes] // 3
    call.x, call.kernel = operand(frame, member, AT_X), operand(frame, member, AT_KERNEL)
    call.recurrent_kernel = operand(frame, member, AT_RECURRENT_KERNEL)
    call.bias = operand(frame, member, AT_BIAS)
    if given.dims[member.n_axes] > 0:
        call.lengths = lengths
        for row in range(call.n_batch):
            lengths[row] = own[row]
    return call


cdef int forward_member(const XlaCallFrame *frame, const Member *member, ptrdiff_t *lengths) noexcept nogil:
    """Results: y, h_n and, if it is wanted, the tape."""
    cdef indygru_call call = call_of(frame, member, lengths)
    call.y, call.h = result(frame, member, 0), result(frame, member, 1)
    if frame.results.size > 2:
        call.tape = result(frame, member, 2)
    memcpy(call.h, operand(frame, member, AT_H0), member_bytes(member, frame.results.buffers[1]))
    return indygru_forward(&call)


cdef int backward_member(const XlaCallFrame *frame, const Member *member, ptrdiff_t *lengths) noexcept nogil:
    """Results: the gradients of the first five operands."""
    cdef indygru_call call = call_of(frame, member, lengths)
    cdef ptrdiff_t i
    call.h0, call.y = operand(frame, member, AT_H0), operand(frame, member, AT_Y)
    call.tape, call.dy = operand(frame, member, AT_TAPE), operand(frame, member, AT_DY)
    call.dx, call.dh = result(frame, member, AT_X), result(frame, member, AT_H0)
    call.dkernel, call.drecurrent_kernel = result(frame, member, AT_KERNEL), result(frame, member, AT_RECURRENT_KERNEL)
    call.dbias = result(frame, member, AT_BIAS)
    memcpy(call.dh, operand(frame, member, AT_DH), member_bytes(member, frame.results.buffers[AT_H0]))
    if call.lengths is not NULL:
        memset(call.dx, 0, member_bytes(member, frame.results.buffers[AT_X]))
    for i in range(AT_KERNEL, AT_BIAS + 1):
        memset(result(frame, member, <int> i), 0, member_bytes(member, frame.results.buffers[i]))
    return indygru_backward(&call)


ctypedef int (*member_t)(const XlaCallFrame *, const Member *, ptrdiff_t *) noexcept nogil


cdef void *run_members(const XlaCallFrame *frame, member_t run) noexcept nogil:
    """An error of XLA, or NULL."""
    if frame.extension_start is not NULL and frame.extension_start.type == XLA_METADATA:
        return tell_version(frame)
    cdef Member member = members_of(frame)
    cdef ptrdiff_t n_batch = frame.operands.buffers[AT_X].dims[member.n_axes + 1]
    cdef ptrdiff_t *lengths = <ptrdiff_t *> malloc((n_batch + 1) * sizeof(ptrdiff_t))
    cdef int status = INDYGRU_NO_MEMORY if lengths is NULL else INDYGRU_DONE
    while status == INDYGRU_DONE and member.index < member.n_members:
        status = run(frame, &member, lengths)
        member.index += 1
    free(lengths)
    return NULL if status == INDYGRU_DONE else fail(frame, indygru_message(status))


cdef void *xla_forward(XlaCallFrame *frame) noexcept nogil:
    return run_members(frame, forward_member)


cdef void *xla_backward(XlaCallFrame *frame) noexcept nogil:
    return run_members(frame, backward_member)


def xla_handlers():
    """Capsules of the two handlers, by name."""
    return {"indygru_forward": PyCapsule_New(<void *> xla_forward, NULL, NULL),
            "indygru_backward": PyCapsule_New(<void *> xla_backward, NULL, NULL)}
