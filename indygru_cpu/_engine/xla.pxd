# Forward and backward as handlers of XLA's foreign function interface, for indygru_cpu.jax.
#
# XLA guarantees a stable binary interface within a major version (xla/ffi/api/c_api.h, which jaxlib ships). The structs
# below have the leading fields of XLA's structs, under the same names.
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from indygru_cpu._engine.capi cimport backward_call, forward_call
from indygru_cpu._engine.kernels cimport INDYGRU_MAX_ACTIVE_THREADS, indygru_active_threads
from indygru_cpu._engine.plan cimport count_planes
from indygru_cpu.c_api cimport (
    INDYGRU_BAD_ACTIVATION, INDYGRU_BAD_GROUPS, INDYGRU_BAD_THREADS, INDYGRU_DONE, INDYGRU_NO_MEMORY,
    INDYGRU_N_ACTIVATIONS, indygru_call, indygru_message, indygru_new_call,
)

cdef enum:
    XLA_MAJOR = 0
    XLA_FIRST_MINOR = 1
    XLA_METADATA = 1       # type of the extension that queries a handler's version
    XLA_INVALID_ARGUMENT = 3
    XLA_BUFFER = 1         # type of an operand or a result
    XLA_ARRAY = 1          # type of an attribute
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

# Indices of the operands; those from y on are operands of backward only.
cdef enum:
    OPERAND_X, OPERAND_H0, OPERAND_KERNEL, OPERAND_RECURRENT_KERNEL, OPERAND_BIAS, OPERAND_LENGTHS
    OPERAND_Y, OPERAND_TAPE, OPERAND_TAPE_ROWS
    OPERAND_DY, OPERAND_DH, N_OPERANDS

# The results of forward are y and h_n, or y, h_n, the tape and its rows.
#
# JAX may divide a batch over devices, and divide it in another way for backward. It then cuts and joins tapes along
# the batch axis, but the memory of a tape is in the order of the engine. The rows of a tape (B) tell whether it is
# still that of one call of forward: they count down from the number of rows of that call, and the first number is
# negative. backward computes the gates again if they do not.
#
# The results of backward are the gradients of the first five operands, in their order. The gradient of x may be absent,
# and so may the gradients of the three weights together: the number of results tells which are present.
cdef enum: N_GRADIENTS = 5

# Indices of the options: an array of integers is the only attribute.
cdef enum:
    OPTION_ACTIVATION, OPTION_GROUPS, OPTION_REPRODUCIBLE, OPTION_RESET_GATE, OPTION_THREADS, OPTION_AUTOTUNE
    N_OPTIONS

cdef enum:
    MAX_AXES = 4           # of a buffer, vmap axes not counted
    MESSAGE_BYTES = 400


cdef inline void *make_error(const XlaCallFrame *frame, const char *message) noexcept nogil:
    cdef XlaErrorArgs error = XlaErrorArgs(sizeof(XlaErrorArgs), NULL, message, XLA_INVALID_ARGUMENT)
    return frame.api.create_error(&error)


cdef inline void *report_version(const XlaCallFrame *frame) noexcept nogil:
    """Reports XLA's own minor version: minor versions only append fields to those that are read here. The first minor
    versions of XLA query the version without an api."""
    cdef XlaMetadata *metadata = (<XlaMetadataExtension *> frame.extension_start).metadata
    metadata.api_version.major_version = XLA_MAJOR
    metadata.api_version.minor_version = XLA_FIRST_MINOR
    if frame.api is not NULL:
        metadata.api_version.minor_version = frame.api.api_version.minor_version
    return NULL


# The dtype and shape that a buffer must have. An optional buffer, which is `lengths`, may have a last axis of 0.
cdef struct Expected:
    const char *name
    bint is_optional
    int dtype
    ptrdiff_t rank
    int64_t dims[MAX_AXES]


cdef inline Expected make_expected(const char *name, int dtype, ptrdiff_t rank, int64_t a, int64_t b, int64_t c,
                                   int64_t d) noexcept nogil:
    cdef Expected expected
    expected.name, expected.is_optional, expected.dtype, expected.rank = name, False, dtype, rank
    expected.dims[0], expected.dims[1], expected.dims[2], expected.dims[3] = a, b, c, d
    return expected


cdef inline const int64_t *option_array(const XlaCallFrame *frame) noexcept nogil:
    return <const int64_t *> frame.attributes.attributes[0].data


cdef inline const char *dtype_name(int dtype) noexcept nogil:
    if dtype == XLA_F32:
        return "float32"
    if dtype == XLA_F64:
        return "float64"
    return "int32" if dtype == XLA_S32 else "another dtype"


cdef inline ptrdiff_t write_shape(char *text, ptrdiff_t capacity, int dtype, const int64_t *dims,
                                  ptrdiff_t rank) noexcept nogil:
    """Returns the number of bytes written, less than `capacity`."""
    cdef ptrdiff_t axis, size = min(capacity - 1, snprintf(text, capacity, "%s (", dtype_name(dtype)))
    cdef const char *separator
    for axis in range(rank):
        separator = ", " if axis < rank - 1 else ""
        size += snprintf(text + size, capacity - size, "%lld%s", <long long> dims[axis], separator)
        if size >= capacity:
            return capacity - 1
    return min(capacity - 1, size + snprintf(text + size, capacity - size, ")"))


cdef inline void *mismatch_error(const XlaCallFrame *frame, const Expected *expected, const XlaBuffer *buffer,
                                 ptrdiff_t n_axes) noexcept nogil:
    """An error that names the buffer, the expected dtype and shape, and those of the buffer."""
    cdef char text[MESSAGE_BYTES]
    cdef ptrdiff_t size = snprintf(text, MESSAGE_BYTES, "indygru_cpu: %s: expected %s", expected.name,
                                   "" if n_axes == 0 else "axes of vmap, then ")
    size += write_shape(text + size, MESSAGE_BYTES // 3, expected.dtype, expected.dims, expected.rank)
    size += snprintf(text + size, MESSAGE_BYTES - size, ", got ")
    write_shape(text + size, MESSAGE_BYTES - size, buffer.dtype, buffer.dims, buffer.rank)
    return make_error(frame, text)


cdef inline bint is_as_expected(const Expected *expected, const XlaBuffer *buffer, const XlaBuffer *full,
                                ptrdiff_t n_axes, bint is_result) noexcept nogil:
    """Whether a buffer has the vmap axes of `full` and then the expected ones. A vmap axis of an operand may have
    length 1."""
    cdef ptrdiff_t axis
    if buffer.dtype != expected.dtype or buffer.rank != n_axes + expected.rank:
        return False
    for axis in range(n_axes):
        if buffer.dims[axis] != full.dims[axis] and (is_result or buffer.dims[axis] != 1):
            return False
    for axis in range(expected.rank):
        if buffer.dims[n_axes + axis] != expected.dims[axis]:
            return expected.is_optional and buffer.dims[n_axes + axis] == 0
    return True


cdef inline int gradient_position(const XlaCallFrame *frame, int index) noexcept nogil:
    """Position among the results of backward of the gradient of operand `index`; -1 if that gradient is absent."""
    cdef bint has_dx = frame.results.size in (2, N_GRADIENTS), has_weights = frame.results.size > 2
    if index == OPERAND_X and not has_dx or index >= OPERAND_KERNEL and not has_weights:
        return -1
    return index - (not has_dx)


cdef inline const char *gradient_name(int index) noexcept nogil:
    if index == OPERAND_X:
        return "result dx"
    if index == OPERAND_H0:
        return "result dh0"
    if index == OPERAND_KERNEL:
        return "result dkernel"
    return "result drecurrent_kernel" if index == OPERAND_RECURRENT_KERNEL else "result dbias"


cdef inline void *check_frame(const XlaCallFrame *frame, bint is_backward) noexcept nogil:
    """Returns NULL if all operands, results and options fit each other, else an error of XLA.

    The check is complete, because jax.ffi.ffi_call passes any buffers to a handler."""
    cdef ptrdiff_t i, n_axes, n_operands = N_OPERANDS if is_backward else OPERAND_LENGTHS + 1
    cdef ptrdiff_t n_results = frame.results.size
    if frame.operands.size != n_operands:
        return make_error(frame, "indygru_cpu: operands: expected 6 of forward, 11 of backward, got another number")
    if n_results not in (1, 2, 4, 5) if is_backward else n_results not in (2, 4):
        return make_error(
            frame, "indygru_cpu: results: expected 2 or 4 of forward, 1, 2, 4 or 5 of backward, got another number")
    for i in range(n_operands):
        if frame.operands.types[i] != XLA_BUFFER:
            return make_error(frame, "indygru_cpu: operands: expected buffers alone, got something else")
    for i in range(n_results):
        if frame.results.types[i] != XLA_BUFFER:
            return make_error(frame, "indygru_cpu: results: expected buffers alone, got something else")
    if frame.attributes.size != 1 or frame.attributes.types[0] != XLA_ARRAY:
        return make_error(frame, "indygru_cpu: options: expected one array as the only attribute, got something else")
    if frame.attributes.attributes[0].dtype != XLA_S64 or frame.attributes.attributes[0].size != N_OPTIONS:
        return make_error(frame, "indygru_cpu: options: expected 6 numbers of int64, got something else: export a "
                          "program of an earlier version again")
    cdef const int64_t *options = option_array(frame)
    cdef int64_t n_groups = options[OPTION_GROUPS], n_planes = count_planes(options[OPTION_RESET_GATE])
    if not 0 <= options[OPTION_ACTIVATION] < INDYGRU_N_ACTIVATIONS:
        return make_error(frame, indygru_message(INDYGRU_BAD_ACTIVATION))
    if options[OPTION_THREADS] < 1:
        return make_error(frame, indygru_message(INDYGRU_BAD_THREADS))
    cdef const XlaBuffer *x = frame.operands.buffers[OPERAND_X]
    cdef const XlaBuffer *bias = frame.operands.buffers[OPERAND_BIAS]
    cdef const XlaBuffer *full = frame.results.buffers[0]
    n_axes = x.rank - 3
    if n_axes < 0 or x.dtype != XLA_F32 and x.dtype != XLA_F64:
        return make_error(frame, "indygru_cpu: x: expected (T, B, D) of float32 or float64, got another rank or dtype")
    if bias.rank != n_axes + 1 or bias.dims[n_axes] % n_planes or bias.dims[n_axes] == 0:
        return make_error(frame, "indygru_cpu: bias: expected (3N,), at least (3,), or (2N,) without a reset gate, got "
                          "another shape")
    cdef const int64_t *sizes = x.dims + n_axes
    cdef int64_t n_steps = sizes[0], n_batch = sizes[1], n_inputs = sizes[2], columns = bias.dims[n_axes]
    cdef int64_t n_units = columns // n_planes
    if n_groups < 1 or n_inputs % n_groups or n_units % n_groups:
        return make_error(frame, indygru_message(INDYGRU_BAD_GROUPS))
    cdef int dtype = x.dtype
    cdef Expected operands[N_OPERANDS]
    cdef Expected results[N_GRADIENTS]
    cdef int position
    operands[OPERAND_X] = make_expected("x", dtype, 3, n_steps, n_batch, n_inputs, 0)
    operands[OPERAND_H0] = make_expected("h0", dtype, 2, n_batch, n_units, 0, 0)
    operands[OPERAND_KERNEL] = make_expected("kernel", dtype, 2, n_inputs // n_groups, columns, 0, 0)
    operands[OPERAND_RECURRENT_KERNEL] = make_expected("recurrent_kernel", dtype, 1, columns, 0, 0, 0)
    operands[OPERAND_BIAS] = make_expected("bias", dtype, 1, columns, 0, 0, 0)
    operands[OPERAND_LENGTHS] = make_expected("lengths", XLA_S32, 1, n_batch, 0, 0, 0)
    operands[OPERAND_LENGTHS].is_optional = True
    operands[OPERAND_TAPE_ROWS] = make_expected("tape_rows", XLA_S32, 1, n_batch, 0, 0, 0)
    operands[OPERAND_Y] = make_expected("y", dtype, 3, n_steps, n_batch, n_units, 0)
    operands[OPERAND_TAPE] = make_expected("tape", dtype, 4, n_planes, n_steps, n_batch, n_units)
    operands[OPERAND_DY] = make_expected("dy", dtype, 3, n_steps, n_batch, n_units, 0)
    operands[OPERAND_DH] = make_expected("dh_n", dtype, 2, n_batch, n_units, 0, 0)
    if is_backward:
        for i in range(N_GRADIENTS):
            position = gradient_position(frame, <int> i)
            if position >= 0:
                results[position] = operands[i]
                results[position].name = gradient_name(<int> i)
    else:
        results[0], results[1], results[2] = operands[OPERAND_Y], operands[OPERAND_H0], operands[OPERAND_TAPE]
        results[3] = operands[OPERAND_TAPE_ROWS]
        results[0].name, results[1].name, results[2].name = "result y", "result h_n", "result tape"
        results[3].name = "result tape_rows"
    for i in range(n_results):
        if not is_as_expected(&results[i], frame.results.buffers[i], full, n_axes, True):
            return mismatch_error(frame, &results[i], frame.results.buffers[i], n_axes)
    for i in range(n_operands):
        if not is_as_expected(&operands[i], frame.operands.buffers[i], full, n_axes, False):
            return mismatch_error(frame, &operands[i], frame.operands.buffers[i], n_axes)
    return NULL


# One element of the vmap axes. All buffers have these axes in front, of length 1 where they do not vary.
cdef struct VmapElement:
    const XlaBuffer *full  # a buffer whose vmap axes have their full lengths
    ptrdiff_t n_axes, index, n_elements
    ptrdiff_t itemsize


cdef inline void *element_address(const VmapElement *element, const XlaBuffer *buffer,
                                  ptrdiff_t itemsize) noexcept nogil:
    """Address of the element's part of a buffer."""
    cdef ptrdiff_t axis, index = element.index, offset = 0, size = 1
    for axis in range(element.n_axes - 1, -1, -1):
        if buffer.dims[axis] > 1:
            offset += index % element.full.dims[axis] * size
        size *= buffer.dims[axis]
        index //= element.full.dims[axis]
    for axis in range(element.n_axes, buffer.rank):
        offset *= buffer.dims[axis]
    return <char *> buffer.data + offset * itemsize


cdef inline ptrdiff_t element_bytes(const VmapElement *element, const XlaBuffer *buffer) noexcept nogil:
    cdef ptrdiff_t axis, size = element.itemsize
    for axis in range(element.n_axes, buffer.rank):
        size *= buffer.dims[axis]
    return size


cdef inline VmapElement first_element(const XlaCallFrame *frame) noexcept nogil:
    cdef const XlaBuffer *x = frame.operands.buffers[OPERAND_X]
    cdef VmapElement element = VmapElement(frame.results.buffers[0], x.rank - 3, 0, 1,
                                           sizeof(double) if x.dtype == XLA_F64 else sizeof(float))
    cdef ptrdiff_t axis
    for axis in range(element.n_axes):
        element.n_elements *= element.full.dims[axis]
    return element


cdef inline void *operand(const XlaCallFrame *frame, const VmapElement *element, int index) noexcept nogil:
    return element_address(element, frame.operands.buffers[index], element.itemsize)


cdef inline void *result(const XlaCallFrame *frame, const VmapElement *element, int index) noexcept nogil:
    return element_address(element, frame.results.buffers[index], element.itemsize)


cdef inline indygru_call make_call(const XlaCallFrame *frame, const VmapElement *element,
                                   ptrdiff_t *lengths) noexcept nogil:
    """The fields that forward and backward read. lengths (B) OUT: the element's lengths, if there are any."""
    cdef indygru_call call = indygru_new_call(element.itemsize == sizeof(double))
    cdef const int64_t *sizes = frame.operands.buffers[OPERAND_X].dims + element.n_axes
    cdef const int64_t *options = option_array(frame)
    cdef const XlaBuffer *buffer = frame.operands.buffers[OPERAND_LENGTHS]
    cdef const int32_t *element_lengths = <const int32_t *> element_address(element, buffer, sizeof(int32_t))
    cdef ptrdiff_t row
    call.activation, call.n_groups = <int> options[OPTION_ACTIVATION], options[OPTION_GROUPS]
    call.reproducible, call.without_reset_gate = options[OPTION_REPRODUCIBLE] != 0, options[OPTION_RESET_GATE] == 0
    call.n_threads = <int> min(options[OPTION_THREADS], INDYGRU_MAX_ACTIVE_THREADS)
    if options[OPTION_AUTOTUNE]:  # the threads that other calls use are subtracted from the limit
        call.n_threads = max(1, call.n_threads - indygru_active_threads())
    call.n_steps, call.n_batch, call.n_inputs = sizes[0], sizes[1], sizes[2]
    call.n_units = frame.operands.buffers[OPERAND_BIAS].dims[element.n_axes] // count_planes(options[OPTION_RESET_GATE])
    call.x, call.kernel = operand(frame, element, OPERAND_X), operand(frame, element, OPERAND_KERNEL)
    call.recurrent_kernel = operand(frame, element, OPERAND_RECURRENT_KERNEL)
    call.bias = operand(frame, element, OPERAND_BIAS)
    if buffer.dims[element.n_axes] > 0:
        call.lengths = lengths
        for row in range(call.n_batch):
            lengths[row] = element_lengths[row]
    return call


cdef inline void clear_unused_tape(const XlaCallFrame *frame, const VmapElement *element,
                                   const indygru_call *call) noexcept nogil:
    """Sets the end of the tape to 0, because JAX may check all numbers of an array (jax_debug_nans).

    A tape begins with the gates of the valid steps. call.lengths is a private array that forward_call has checked."""
    cdef ptrdiff_t row, used = 0, n_planes = count_planes(not call.without_reset_gate)
    for row in range(call.n_batch):
        used += n_planes * call.n_units * element.itemsize * call.lengths[row]
    memset(<char *> call.tape + used, 0, element_bytes(element, frame.results.buffers[2]) - used)


cdef inline int32_t tape_row(ptrdiff_t row, ptrdiff_t n_batch) noexcept nogil:
    return <int32_t> (n_batch - row if row > 0 else -n_batch)


cdef inline int32_t *tape_rows(const VmapElement *element, const XlaBuffer *buffer) noexcept nogil:
    return <int32_t *> element_address(element, buffer, sizeof(int32_t))


cdef inline bint is_whole_tape(const int32_t *rows, ptrdiff_t n_batch) noexcept nogil:
    """Whether a tape is that of one call of forward with `n_batch` rows."""
    cdef ptrdiff_t row
    for row in range(n_batch):
        if rows[row] != tape_row(row, n_batch):
            return False
    return True


cdef inline int forward_element(const XlaCallFrame *frame, const VmapElement *element,
                                ptrdiff_t *lengths) noexcept nogil:
    """Results: y, h_n and, optionally, the tape and its rows."""
    cdef indygru_call call = make_call(frame, element, lengths)
    cdef ptrdiff_t row
    cdef int32_t *rows
    call.y, call.h = result(frame, element, 0), result(frame, element, 1)
    if frame.results.size > 2:
        call.tape = result(frame, element, 2)
        rows = tape_rows(element, frame.results.buffers[3])
        for row in range(call.n_batch):
            rows[row] = tape_row(row, call.n_batch)
    memcpy(call.h, operand(frame, element, OPERAND_H0), element_bytes(element, frame.results.buffers[1]))
    cdef int status = forward_call(&call, option_array(frame)[OPTION_AUTOTUNE] != 0)
    if status == INDYGRU_DONE and call.tape is not NULL and call.lengths is not NULL:
        clear_unused_tape(frame, element, &call)
    return status


cdef inline ptrdiff_t gradient_bytes(const XlaCallFrame *frame, const VmapElement *element, int index) noexcept nogil:
    return element_bytes(element, frame.operands.buffers[index])


cdef inline int backward_element(const XlaCallFrame *frame, const VmapElement *element,
                                 ptrdiff_t *lengths) noexcept nogil:
    """Results: the requested gradients of the first five operands."""
    cdef indygru_call call = make_call(frame, element, lengths)
    cdef void *gradients[N_GRADIENTS]  # NULL: not requested
    cdef int i, position
    for i in range(N_GRADIENTS):
        position = gradient_position(frame, i)
        gradients[i] = result(frame, element, position) if position >= 0 else NULL
    call.h0, call.y = operand(frame, element, OPERAND_H0), operand(frame, element, OPERAND_Y)
    call.dy = operand(frame, element, OPERAND_DY)
    if is_whole_tape(tape_rows(element, frame.operands.buffers[OPERAND_TAPE_ROWS]), call.n_batch):
        call.tape = operand(frame, element, OPERAND_TAPE)
    call.dx, call.dh, call.dkernel = gradients[OPERAND_X], gradients[OPERAND_H0], gradients[OPERAND_KERNEL]
    call.drecurrent_kernel, call.dbias = gradients[OPERAND_RECURRENT_KERNEL], gradients[OPERAND_BIAS]
    memcpy(call.dh, operand(frame, element, OPERAND_DH), gradient_bytes(frame, element, OPERAND_H0))
    if call.lengths is not NULL and call.dx is not NULL:
        memset(call.dx, 0, gradient_bytes(frame, element, OPERAND_X))
    for i in range(OPERAND_KERNEL, N_GRADIENTS):  # backward adds to the gradients of the weights
        if gradients[i] is not NULL:
            memset(gradients[i], 0, gradient_bytes(frame, element, i))
    return backward_call(&call, option_array(frame)[OPTION_AUTOTUNE] != 0)


ctypedef int (*run_element_t)(const XlaCallFrame *, const VmapElement *, ptrdiff_t *) noexcept nogil


cdef inline void *run_frame(const XlaCallFrame *frame, bint is_backward, run_element_t run_element) noexcept nogil:
    """Returns an error of XLA, or NULL."""
    if frame.extension_start is not NULL and frame.extension_start.type == XLA_METADATA:
        return report_version(frame)
    cdef void *error = check_frame(frame, is_backward)
    if error is not NULL:
        return error
    cdef VmapElement element = first_element(frame)
    cdef ptrdiff_t n_batch = frame.operands.buffers[OPERAND_X].dims[element.n_axes + 1]
    if n_batch == 0 and not is_backward:
        return NULL  # all results are empty, however many elements there are
    # The lengths of one element as ptrdiff_t; forward_call and backward_call check and use a copy of them.
    cdef ptrdiff_t n_lengths = frame.operands.buffers[OPERAND_LENGTHS].dims[element.n_axes]
    cdef ptrdiff_t *lengths = <ptrdiff_t *> malloc((n_lengths + 1) * sizeof(ptrdiff_t))
    cdef int status = INDYGRU_NO_MEMORY if lengths is NULL else INDYGRU_DONE
    while status == INDYGRU_DONE and element.index < element.n_elements:
        status = run_element(frame, &element, lengths)
        element.index += 1
    free(lengths)
    return NULL if status == INDYGRU_DONE else make_error(frame, indygru_message(status))


cdef inline void *xla_forward(XlaCallFrame *frame) noexcept nogil:
    return run_frame(frame, False, forward_element)


cdef inline void *xla_backward(XlaCallFrame *frame) noexcept nogil:
    return run_frame(frame, True, backward_element)
