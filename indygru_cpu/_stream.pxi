# Part of _core.pyx: a stack of layers one step at a time, with all that a step needs made beforehand.
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer

from numpy import ndarray

cdef enum:
    LEAST_WORK_UNLOCKED = 100 * 1024  # multiply-adds of a step from which on letting go of the GIL costs little of it


cdef char *address(array) except NULL:
    return <char *> <uintptr_t> array.ctypes.data


cdef class Steps:
    """The base of `stream.Stream`, which checks what it gives, and has `_checked_x` for what `push` cannot read, and
    `_serial_threads` for when a fork takes the threads away.

    state (layers, B, N) IN/OUT and y (B, N) OUT are C-contiguous arrays of one dtype.
    """
    cdef Plan *plans  # one a layer
    cdef char *block  # packed weights of all layers, then scratch
    cdef char *scratch
    cdef char *saved  # the state before a step that a signal may end
    cdef ptrdiff_t n_layers, n_batch, n_inputs, itemsize, state_bytes, work
    cdef int n_threads
    cdef bint busy
    cdef readonly object _stack  # the weights that are packed, and options
    cdef object state, y, y_row
    cdef char *state_data
    cdef char *y_data

    def __init__(self, state, y, stack, int n_threads):
        cdef ptrdiff_t k, bytes = 0, scratch = 0, n_units = state.shape[2]
        cdef int n_groups = stack.groups, activation = stack.activation
        cdef Plan *p
        if self.plans is not NULL:
            raise RuntimeError("stream: it is initialised already")
        self.n_layers, self.n_batch, self.itemsize = state.shape[0], state.shape[1], state.itemsize
        self.state, self.y, self.y_row = state, y, y[0] if len(y) == 1 else None
        self.state_data, self.y_data, self.state_bytes = address(state), address(y), state[0].nbytes
        self.n_inputs, self.n_threads, self.work = stack.weights[0][0][0].shape[0] * n_groups, n_threads, 0
        self.plans = <Plan *> malloc(self.n_layers * sizeof(Plan))
        if self.plans is NULL:
            raise MemoryError("indygru_cpu: no memory for a stream")
        for k in range(self.n_layers):
            p = &self.plans[k]
            p[0] = plan_of_sizes(self.itemsize == sizeof(double), 1, self.n_batch,
                                 n_units if k else self.n_inputs, n_units, n_groups, activation)
            lay_step_grid(p, n_threads)
            p.engine, p.chunk, p.in_python = PANELS, 1, True
            measure_scratch(p)
            bytes += p.unit_tiles * p.weights_bytes
            scratch = max(scratch, n_threads * scratch_bytes(p))
            self.work += self.n_batch * 3 * n_units * (p.group_inputs + UNIT_WORK)
        bytes += aligned(state.nbytes) + scratch
        self.block = self.saved = found(indygru_allocate(bytes), bytes)
        self.scratch = self.saved + aligned(state.nbytes)
        for k in range(self.n_layers):
            self.plans[k].packed = self.scratch
            self.scratch += self.plans[k].unit_tiles * self.plans[k].weights_bytes
        self._take(stack)

    def __dealloc__(self):
        free(self.plans)
        if self.block is not NULL:
            indygru_free(self.block)

    def _take(self, stack):
        """Pack kernels (D / groups, 3N), refer to recurrent kernels and biases (3N,): a stack's contiguous arrays."""
        cdef ptrdiff_t k, i
        cdef uintptr_t kernel, recurrent_kernel, bias
        cdef Plan *p
        cdef Tile tile
        addresses = [tuple(array.ctypes.data for array in weights) for (weights,) in stack.weights]
        self.enter()
        for k, (kernel, recurrent_kernel, bias) in enumerate(addresses):  # nothing here can fail and leave a half
            p = &self.plans[k]
            p.kernel = Lines(<char *> kernel, 3 * p.n_units)
            p.u, p.b = <char *> recurrent_kernel, <char *> bias
            for i in range(p.unit_tiles):
                tile = place_tile(p, 0, i, self.scratch)
                pack_weights(p, &tile, p.packed + i * p.weights_bytes)
        self._stack = stack
        self.busy = False

    cdef int enter(self) except -1:
        """Scratch and state are one thread's at a time."""
        if self.block is NULL:
            raise RuntimeError("stream: it was never initialised; streams are made by IndyGRU.stream")
        if self.busy:
            raise RuntimeError("stream: another thread is using it; give each thread a stream of its own")
        self.busy = True
        return 0

    def _alone(self, work, *arguments):
        """Call it while nobody else may use the stream. Here, because in Python a signal can come before any `try`."""
        self.enter()
        try:
            return work(*arguments)
        finally:
            self.busy = False

    cdef bint can_read(self, const Py_buffer *x) noexcept:
        """Whether x is (B, D), or (D,) if B is 1, of this dtype, aligned, with a contiguous last axis."""
        cdef Py_ssize_t last = x.ndim - 1
        if x.format[0] != (c'f' if self.itemsize == sizeof(float) else c'd') or x.format[1] != 0:
            return False
        if x.ndim == 2:
            if x.shape[0] != self.n_batch or x.strides[0] % self.itemsize:
                return False
        elif x.ndim != 1 or self.n_batch != 1:
            return False
        return (x.shape[last] == self.n_inputs and <uintptr_t> x.buf % self.itemsize == 0
                and (x.strides[last] == self.itemsize or x.shape[last] == 1))

    cdef bint get_buffer(self, x_t, Py_buffer *x) except -1:
        """Whether x_t can be read as it is; then its buffer is held."""
        if type(x_t) is not ndarray:
            return False
        try:
            PyObject_GetBuffer(x_t, x, PyBUF_FORMAT | PyBUF_STRIDES)
        except (BufferError, ValueError):  # a dtype that no buffer can tell
            return False
        if self.can_read(x):
            return True
        PyBuffer_Release(x)
        return False

    def push(self, x_t):
        """Take one step, and return its y: always the same array, overwritten by the next step.

        Parameters
        ----------
        x_t : array, (B, D), or (D,) if the batch size is 1
            Inputs of the step, of the layer's dtype.

        Returns
        -------
        array, (B, N) or (N,)
            The new state of the last layer, until the next push. Copy it to keep it.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape; the stream is then as it was.
        RuntimeError
            Another thread is using the stream.
        """
        cdef Py_buffer x
        self.enter()
        try:
            if not self.get_buffer(x_t, &x) and not self.get_buffer(self._checked_x(x_t), &x):
                raise ValueError("x_t: expected an array that fits the stream")
            try:
                self.run(<char *> x.buf, x.strides[0])
            finally:
                PyBuffer_Release(&x)
        finally:
            self.busy = False
        return self.y if x.ndim == 2 else self.y_row

    cdef int run(self, char *x, ptrdiff_t x_row) except -1:
        if self.work >= INTERRUPTED_WORK or self.n_threads > 1:
            self.run_in_rounds(x, x_row)
        elif self.work >= LEAST_WORK_UNLOCKED:
            with nogil:
                self.run_alone(x, x_row)
        else:
            self.run_alone(x, x_row)
        memcpy(self.y_data, self.state_data + (self.n_layers - 1) * self.state_bytes, self.state_bytes)
        return 0

    cdef Plan *plan_of_layer(self, ptrdiff_t k, char *x, ptrdiff_t x_row) noexcept nogil:
        """The layer's plan, taking x if it is the first, or else the state of the layer below."""
        cdef Plan *p = &self.plans[k]
        p.x = Array(x, 0, x_row)
        p.h = Array(self.state_data + k * self.state_bytes, 0, p.n_units * self.itemsize)
        if k:
            p.x = self.plans[k - 1].h
        return p

    cdef void run_alone(self, char *x, ptrdiff_t x_row) noexcept nogil:
        cdef ptrdiff_t k
        for k in range(self.n_layers):
            forward_alone(self.plan_of_layer(k, x, x_row), self.scratch)

    cdef int run_in_rounds(self, char *x, ptrdiff_t x_row) except -1:
        """With signals between rounds; if one ends the step, the state is as before."""
        cdef ptrdiff_t k, size = self.n_layers * self.state_bytes
        cdef Plan *p
        if self.n_threads > 1 and indygru_is_forked():
            self.n_threads = self._serial_threads()
        memcpy(self.saved, self.state_data, size)
        try:
            for k in range(self.n_layers):
                p = self.plan_of_layer(k, x, x_row)
                begin_round(p)
                with nogil:
                    go_through(p, forward_tile, p.row_tiles * p.unit_tiles, self.n_threads, self.scratch, False)
                look_around(p)
        except BaseException:
            memcpy(self.state_data, self.saved, size)
            raise
        return 0
