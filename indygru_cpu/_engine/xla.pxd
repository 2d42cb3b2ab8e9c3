# The functions of capi.pxd as handlers of XLA's foreign function interface, for indygru_cpu.jax.
#
# XLA promises a stable binary interface within a major version (xla/ffi/api/c_api.h, which jaxlib ships). These are the
# leading fields, by the same names, of the few structs that a handler reads.
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from indygru_cpu._engine.capi cimport backward_call, forward_call
from indygru_cpu._engine.kernels cimport INDYGRU_MAX_ACTIVE_THREADS, indygru_active_threads
from indygru_cpu.c_api cimport (
    INDYGRU_BAD_ACTIVATION, INDYGRU_BAD_GROUPS, INDYGRU_BAD_THREADS, INDYGRU_DONE, INDYGRU_NO_MEMORY,
    INDYGRU_N_ACTIVATIONS, indygru_call, indygru_message, indygru_new_call,
)

cdef enum:
    XLA_MAJOR = 0
    XLA_FIRST_MINOR = 1
    XLA_METADATA = 1       # the extension that asks for a handler's version
    XLA_INVALID_ARGUMENT = 3
    XLA_BUFFER = 1         # the type of an operand and of a result
    XLA_ARRAY = 1          # a type of attribute
    XLA_S32 = 4
    XLA_S64 = 5
    XLA_F32 = 11
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
cdef enum: AT_X, AT_H0, AT_KERNEL, AT_RECURRENT_KERNEL, AT_BIAS, AT_LENGTHS, AT_Y, AT_TAPE, AT_DY, AT_DH, N_OPERANDS

# Places among the options, the numbers of the only attribute.
cdef enum: OF_ACTIVATION, OF_GROUPS, OF_REPRODUCIBLE, OF_THREADS, OF_DEFAULT_THREADS, N_OPTIONS

cdef enum:
    MAX_AXES = 4           # of a buffer, without the axes of vmap
    MESSAGE_BYTES = 400


cdef inline void *fail(const XlaCallFrame *frame, const char *message) noexcept nogil:
    cdef XlaErrorArgs error = XlaErrorArgs(sizeof(XlaErrorArgs), NULL, message, XLA_INVALID_ARGUMENT)
    return frame.api.create_error(&error)


cdef inline void *tell_version(const XlaCallFrame *frame) noexcept nogil:
    """A minor version only adds fields behind those that are read here, so any will do. The first ones ask before there
    is an api."""
    cdef XlaMetadata *metadata = (<XlaMetadataExtension *> frame.extension_start).metadata
    metadata.api_version.major_version = XLA_MAJOR
    metadata.api_version.minor_version = XLA_FIRST_MINOR
    if frame.api is not NULL:
        metadata.api_version.minor_version = frame.api.api_version.minor_version
    return NULL


# The dtype and shape that a buffer must have. `lengths` is optional, so a dimension of 0 is accepted for it.
cdef struct Expected:
    const char *name
    int dtype
    ptrdiff_t rank
    int64_t dims[MAX_AXES]


cdef inline const int64_t *options_of(const XlaCallFrame *frame) noexcept nogil:
    return <const int64_t *> frame.attributes.attributes[0].data


cdef inline Expected expect(const char *name, int dtype, ptrdiff_t rank, int64_t a, int64_t b, int64_t c,
                     int64_t d) noexcept nogil:
    cdef Expected expected
    expected.name, expected.dtype, expected.rank = name, dtype, rank
    expected.dims[0], expected.dims[1], expected.dims[2], expected.dims[3] = a, b, c, d
    return expected


cdef inline const char *name_of(int dtype) noexcept nogil:
    if dtype == XLA_F32:
        return "float32"
    if dtype == XLA_F64:
        return "float64"
    return "int32" if dtype == XLA_S32 else "another dtype"


cdef inline ptrdiff_t write_shape(char *text, ptrdiff_t room, int dtype, const int64_t *dims, ptrdiff_t rank) noexcept nogil:
    """Returns the bytes written, less than `room`."""
    cdef ptrdiff_t axis, size = min(room - 1, snprintf(text, room, "%s (", name_of(dtype)))
    for axis in range(rank):
        size += snprintf(text + size, room - size, "%lld%s", <long long> dims[axis], ", " if axis < rank - 1 else "")
        if size >= room:
            return room - 1
    return min(room - 1, size + snprintf(text + size, room - size, ")"))


cdef inline void *fail_on(const XlaCallFrame *frame, const Expected *expected, const XlaBuffer *buffer,
                   ptrdiff_t n_axes) noexcept nogil:
    """An error that names the buffer, what was expected, and what was passed."""
    cdef char text[MESSAGE_BYTES]
    cdef ptrdiff_t size = snprintf(text, MESSAGE_BYTES, "indygru_cpu: %s: expected %s", expected.name,
                                   "" if n_axes == 0 else "axes of vmap, then ")
    size += write_shape(text + size, MESSAGE_BYTES // 3, expected.dtype, expected.dims, expected.rank)
    size += snprintf(text + size, MESSAGE_BYTES - size, ", got ")
    write_shape(text + size, MESSAGE_BYTES - size, buffer.dtype, buffer.dims, buffer.rank)
    return fail(frame, text)


cdef inline bint fits(const Expected *expected, const XlaBuffer *buffer, const XlaBuffer *like, ptrdiff_t n_axes,
               bint is_result) noexcept nogil:
    """Whether a buffer has the axes of vmap and then the expected ones. An operand's axes of vmap may have length 1."""
    cdef ptrdiff_t axis
    if buffer.dtype != expected.dtype or buffer.rank != n_axes + expected.rank:
        return False
    for axis in range(n_axes):
        if buffer.dims[axis] != like.dims[axis] and (is_result or buffer.dims[axis] != 1):
            return False
    for axis in range(expected.rank):
        if buffer.dims[n_axes + axis] != expected.dims[axis]:
            return expected.dtype == XLA_S32 and buffer.dims[n_axes + axis] == 0
    return True


cdef inline void *check_frame(const XlaCallFrame *frame, bint is_backward) noexcept nogil:
    """NULL if all operands and results fit one configuration and the options array is valid; otherwise an error.

    Programs can call a handler with any buffers, through jax.ffi.ffi_call.
    """
    cdef ptrdiff_t i, n_axes, n_operands = N_OPERANDS if is_backward else AT_LENGTHS + 1
    cdef ptrdiff_t n_results = frame.results.size
    if frame.operands.size != n_operands:
        return fail(frame, "indygru_cpu: operands: expected 6 of forward, 10 of backward, got another number")
    if n_results != AT_BIAS + 1 if is_backward else n_results != 2 and n_results != 3:
        return fail(frame, "indygru_cpu: results: expected 2 or 3 of forward, 5 of backward, got another number")
    for i in range(n_operands):
        if frame.operands.types[i] != XLA_BUFFER:
            return fail(frame, "indygru_cpu: operands: expected buffers alone, got something else")
    for i in range(n_results):
        if frame.results.types[i] != XLA_BUFFER:
            return fail(frame, "indygru_cpu: results: expected buffers alone, got something else")
    if frame.attributes.size != 1 or frame.attributes.types[0] != XLA_ARRAY:
        return fail(frame, "indygru_cpu: options: expected one array as the only attribute, got something else")
    if frame.attributes.attributes[0].dtype != XLA_S64 or frame.attributes.attributes[0].size != N_OPTIONS:
        return fail(frame, "indygru_cpu: options: expected 5 numbers of int64, got something else")
    cdef const int64_t *options = options_of(frame)
    cdef int64_t n_groups = options[OF_GROUPS]
    if not 0 <= options[OF_ACTIVATION] < INDYGRU_N_ACTIVATIONS:
        return fail(frame, indygru_message(INDYGRU_BAD_ACTIVATION))
    if options[OF_THREADS] < 1:
        return fail(frame, indygru_message(INDYGRU_BAD_THREADS))
    cdef const XlaBuffer *x = frame.operands.buffers[AT_X]
    cdef const XlaBuffer *bias = frame.operands.buffers[AT_BIAS]
    cdef const XlaBuffer *like = frame.results.buffers[0]
    n_axes = x.rank - 3
    if n_axes < 0 or x.dtype != XLA_F32 and x.dtype != XLA_F64:
        return fail(frame, "indygru_cpu: x: expected (T, B, D) of float32 or float64, got another rank or dtype")
    if bias.rank != n_axes + 1 or bias.dims[n_axes] % 3 or bias.dims[n_axes] == 0:
        return fail(frame, "indygru_cpu: bias: expected (3N,), at least (3,), got another shape")
    cdef const int64_t *sizes = x.dims + n_axes
    cdef int64_t n_steps = sizes[0], n_batch = sizes[1], n_inputs = sizes[2], columns = bias.dims[n_axes]
    cdef int64_t n_units = columns // 3
    if n_groups < 1 or n_inputs % n_groups or n_units % n_groups:
        return fail(frame, indygru_message(INDYGRU_BAD_GROUPS))
    cdef int dtype = x.dtype
    cdef Expected operands[N_OPERANDS]
    cdef Expected results[AT_BIAS + 1]
    operands[AT_X] = expect("x", dtype, 3, n_steps, n_batch, n_inputs, 0)
    operands[AT_H0] = expect("h0", dtype, 2, n_batch, n_units, 0, 0)
    operands[AT_KERNEL] = expect("kernel", dtype, 2, n_inputs // n_groups, columns, 0, 0)
    operands[AT_RECURRENT_KERNEL] = expect("recurrent_kernel", dtype, 1, columns, 0, 0, 0)
    operands[AT_BIAS] = expect("bias", dtype, 1, columns, 0, 0, 0)
    operands[AT_LENGTHS] = expect("lengths", XLA_S32, 1, n_batch, 0, 0, 0)
    operands[AT_Y] = expect("y", dtype, 3, n_steps, n_batch, n_units, 0)
    operands[AT_TAPE] = expect("tape", dtype, 4, 3, n_steps, n_batch, n_units)
    operands[AT_DY] = expect("dy", dtype, 3, n_steps, n_batch, n_units, 0)
    operands[AT_DH] = expect("dh_n", dtype, 2, n_batch, n_units, 0, 0)
    if is_backward:
        for i in range(AT_BIAS + 1):
            results[i] = operands[i]
        results[AT_X].name, results[AT_H0].name, results[AT_KERNEL].name = "result dx", "result dh0", "result dkernel"
        results[AT_RECURRENT_KERNEL].name, results[AT_BIAS].name = "result drecurrent_kernel", "result dbias"
    else:
        results[0], results[1], results[2] = operands[AT_Y], operands[AT_H0], operands[AT_TAPE]
        results[0].name, results[1].name, results[2].name = "result y", "result h_n", "result tape"
    for i in range(n_results):
        if not fits(&results[i], frame.results.buffers[i], like, n_axes, True):
            return fail_on(frame, &results[i], frame.results.buffers[i], n_axes)
    for i in range(n_operands):
        if not fits(&operands[i], frame.operands.buffers[i], like, n_axes, False):
            return fail_on(frame, &operands[i], frame.operands.buffers[i], n_axes)
    return NULL


# One of the calls that vmap makes of one: all buffers have its leading axes, of length 1 where they do not vary.
cdef struct Member:
    const XlaBuffer *like  # has them in full
    ptrdiff_t n_axes, index, n_members
    ptrdiff_t itemsize


cdef inline void *data_of(const Member *member, const XlaBuffer *buffer, ptrdiff_t itemsize) noexcept nogil:
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


cdef inline ptrdiff_t member_bytes(const Member *member, const XlaBuffer *buffer) noexcept nogil:
    cdef ptrdiff_t axis, size = member.itemsize
    for axis in range(member.n_axes, buffer.rank):
        size *= buffer.dims[axis]
    return size


cdef inline Member members_of(const XlaCallFrame *frame) noexcept nogil:
    cdef const XlaBuffer *x = frame.operands.buffers[AT_X]
    cdef Member member = Member(frame.results.buffers[0], x.rank - 3, 0, 1,
                                sizeof(double) if x.dtype == XLA_F64 else sizeof(float))
    cdef ptrdiff_t axis
    for axis in range(member.n_axes):
        member.n_members *= member.like.dims[axis]
    return member


cdef inline void *operand(const XlaCallFrame *frame, const Member *member, int place) noexcept nogil:
    return data_of(member, frame.operands.buffers[place], member.itemsize)


cdef inline void *result(const XlaCallFrame *frame, const Member *member, int place) noexcept nogil:
    return data_of(member, frame.results.buffers[place], member.itemsize)


cdef inline indygru_call call_of(const XlaCallFrame *frame, const Member *member, ptrdiff_t *lengths) noexcept nogil:
    """What forward and backward share; lengths (B) is room for those of this member."""
    cdef indygru_call call = indygru_new_call(member.itemsize == sizeof(double))
    cdef const int64_t *sizes = frame.operands.buffers[AT_X].dims + member.n_axes
    cdef const int64_t *options = options_of(frame)
    cdef const XlaBuffer *given = frame.operands.buffers[AT_LENGTHS]
    cdef const int32_t *own = <const int32_t *> data_of(member, given, sizeof(int32_t))
    cdef ptrdiff_t row
    call.activation, call.n_groups = <int> options[OF_ACTIVATION], options[OF_GROUPS]
    call.reproducible = options[OF_REPRODUCIBLE] != 0
    call.n_threads = <int> min(options[OF_THREADS], INDYGRU_MAX_ACTIVE_THREADS)
    if options[OF_DEFAULT_THREADS]:  # nobody asked for a number of threads, so those at work elsewhere are left out
        call.n_threads = max(1, call.n_threads - indygru_active_threads())
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


cdef inline int forward_member(const XlaCallFrame *frame, const Member *member, ptrdiff_t *lengths) noexcept nogil:
    """Results: y, h_n and, if it is wanted, the tape."""
    cdef indygru_call call = call_of(frame, member, lengths)
    call.y, call.h = result(frame, member, 0), result(frame, member, 1)
    if frame.results.size > 2:
        call.tape = result(frame, member, 2)
    memcpy(call.h, operand(frame, member, AT_H0), member_bytes(member, frame.results.buffers[1]))
    return forward_call(&call, options_of(frame)[OF_DEFAULT_THREADS] != 0)


cdef inline int backward_member(const XlaCallFrame *frame, const Member *member, ptrdiff_t *lengths) noexcept nogil:
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
    return backward_call(&call, options_of(frame)[OF_DEFAULT_THREADS] != 0)


ctypedef int (*member_t)(const XlaCallFrame *, const Member *, ptrdiff_t *) noexcept nogil


cdef inline void *run_members(const XlaCallFrame *frame, bint is_backward, member_t run) noexcept nogil:
    """An error of XLA, or NULL."""
    if frame.extension_start is not NULL and frame.extension_start.type == XLA_METADATA:
        return tell_version(frame)
    cdef void *error = check_frame(frame, is_backward)
    if error is not NULL:
        return error
    cdef Member member = members_of(frame)
    cdef ptrdiff_t n_batch = frame.operands.buffers[AT_X].dims[member.n_axes + 1]
    if n_batch == 0 and not is_backward:
        return NULL  # all results are empty, however many members there are
    # Space for the lengths of one member as ptrdiff_t, of which forward_call and backward_call check and use a copy.
    cdef ptrdiff_t n_lengths = frame.operands.buffers[AT_LENGTHS].dims[member.n_axes]
    cdef ptrdiff_t *lengths = <ptrdiff_t *> malloc((n_lengths + 1) * sizeof(ptrdiff_t))
    cdef int status = INDYGRU_NO_MEMORY if lengths is NULL else INDYGRU_DONE
    while status == INDYGRU_DONE and member.index < member.n_members:
        status = run(frame, &member, lengths)
        member.index += 1
    free(lengths)
    return NULL if status == INDYGRU_DONE else fail(frame, indygru_message(status))


cdef inline void *xla_forward(XlaCallFrame *frame) noexcept nogil:
    return run_members(frame, False, forward_member)


cdef inline void *xla_backward(XlaCallFrame *frame) noexcept nogil:
    return run_members(frame, True, backward_member)
