# Part of _core.pyx: a stack of layers one step at a time, with all that a step needs made beforehand.
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_GET_BUFFER

from numpy import frombuffer, ndarray

cdef enum:
    LEAST_WORK_UNLOCKED = 100 * 1024  # multiply-adds of a step from which on letting go of the GIL costs little of it


cdef class Steps:
    """The base of `stream.Stream`, which checks what it gives, and has `_checked_x` for what `push` cannot read, and
    `_serial_threads` for when a fork takes the threads away.

    All memory that a step touches belongs to this object: no attribute of an array can move it.
    """
    cdef Plan *plans  # one a layer
    cdef char *block  # weights of all layers, packed kernels first, then scratch
    cdef char *scratch
    cdef char *saved  # the state before a step that a signal or a fork may end
    cdef ptrdiff_t n_layers, n_batch, n_inputs, n_units, itemsize, state_bytes, work
    cdef int n_threads
    cdef bint is_chosen
    cdef bint is_stepping  # whether `saved` is the state to go back to
    cdef ptrdiff_t user    # fork generation of the process in which a thread is using the stream, or 0
    cdef readonly object _stack  # the weights that are packed, and options
    cdef Room state_room, y_room
    cdef object y, y_row
    cdef char *state_data
    cdef char *y_data

    def __init__(self, stack, ptrdiff_t n_batch, int n_threads, bint is_chosen):
        """The stack's weights are arrays of one dtype; n_batch is at least 1. n_threads is the number of threads of a
        step; if is_chosen, it is the upper limit of a choice at each step."""
        cdef ptrdiff_t k, bytes, scratch = 0, weights = 0
        cdef int n_groups = stack.groups, activation = stack.activation
        cdef Plan *p
        if self.plans is not NULL:
            raise RuntimeError("stream: it is initialised already")
        require(len(stack.weights) > 0 and n_batch > 0, "layer")
        kernel, recurrent_kernel, _ = stack.weights[0][0]
        self.n_layers, self.n_batch, self.itemsize = len(stack.weights), n_batch, recurrent_kernel.itemsize
        self.n_inputs, self.n_units = kernel.shape[0] * n_groups, recurrent_kernel.shape[0] // 3
        require(0 <= activation < INDYGRU_N_ACTIVATIONS, "activation")
        require(n_groups >= 1 and self.n_inputs % n_groups == 0 and self.n_units % n_groups == 0, "groups")
        require(self.n_inputs > 0 and self.n_units > 0, "layer")
        require(not has_overflow(self.n_layers, n_batch, max(self.n_inputs, self.n_units), self.n_units), "batch_size")
        self.n_threads, self.is_chosen, self.work = clamp_threads(n_threads), is_chosen, 0
        self.state_bytes = n_batch * self.n_units * self.itemsize
        self.state_room, self.y_room = Room(self.n_layers * self.state_bytes, False), Room(self.state_bytes, False)
        self.state_data, self.y_data = self.state_room.start, self.y_room.start
        memset(self.state_data, 0, self.n_layers * self.state_bytes)
        memset(self.y_data, 0, self.state_bytes)
        self.y = frombuffer(memoryview(self.y_room), recurrent_kernel.dtype).reshape(n_batch, self.n_units)
        self.y_row = self.y[0] if n_batch == 1 else None
        self.plans = <Plan *> malloc(self.n_layers * sizeof(Plan))
        if self.plans is NULL:
            raise MemoryError("indygru_cpu: no memory for a stream")
        for k in range(self.n_layers):
            p = &self.plans[k]
            p[0] = plan_of_sizes(self.itemsize == sizeof(double), 1, self.n_batch,
                                 self.n_units if k else self.n_inputs, self.n_units, n_groups, activation)
            lay_step_grid(p, self.n_threads)
            p.engine, p.chunk, p.in_python = PANELS, 1, True
            measure_scratch(p)
            weights += p.unit_tiles * p.weights_bytes + 2 * self.vector_bytes()
            scratch = max(scratch, self.n_threads * scratch_bytes(p))
            self.work += self.n_batch * 3 * self.n_units * (p.group_inputs + UNIT_WORK)
        bytes = weights + aligned(self.n_layers * self.state_bytes) + scratch
        self.block = found(indygru_pool_allocate(bytes), bytes)
        self.saved = self.block + weights
        self.scratch = self.saved + aligned(self.n_layers * self.state_bytes)
        bytes = 0
        for k in range(self.n_layers):
            p = &self.plans[k]
            p.packed = self.block + bytes
            p.u = p.packed + p.unit_tiles * p.weights_bytes
            p.b = p.u + self.vector_bytes()
            bytes += p.unit_tiles * p.weights_bytes + 2 * self.vector_bytes()
        self._take(stack)

    def __dealloc__(self):
        free(self.plans)
        if self.block is not NULL:
            indygru_pool_free(self.block)

    cdef ptrdiff_t vector_bytes(self):
        """Of a recurrent kernel or a bias."""
        return aligned(3 * self.n_units * self.itemsize)

    @property
    def _states(self):
        """The live states, (layers, B, N)."""
        if self.block is NULL:
            raise RuntimeError("stream: it was never initialised; streams are made by IndyGRU.stream")
        return frombuffer(memoryview(self.state_room), self.y.dtype).reshape(self.n_layers, self.n_batch, self.n_units)

    def _take(self, stack):
        """Pack kernels (D / groups, 3N), and copy recurrent kernels and biases (3N,), of a stack with the layers, sizes
        and dtype of the first."""
        cdef ptrdiff_t k
        # A memoryview keeps shape, strides and address, whatever is assigned to the array.
        views = [[memoryview(array) for array in weights] for (weights,) in stack.weights]
        require(len(views) == self.n_layers and stack.groups == self.plans[0].n_groups, "layer")
        self.enter()
        try:
            for k in range(self.n_layers):
                self.check_weights(k, views[k])
            for k in range(self.n_layers):  # cannot fail, so weights are never half old, half new
                self.pack(k, views[k])
            self._stack = stack
        finally:
            self.leave()

    cdef int check_weights(self, ptrdiff_t k, views) except -1:
        """Check the weights of one layer: kernel (D / groups, 3N), recurrent kernel and bias (3N,)."""
        cdef ptrdiff_t columns = 3 * self.n_units
        shapes = ((self.plans[k].group_inputs, columns), (columns,), (columns,))
        require(len(views) == len(shapes), "layer")
        for view, shape in zip(views, shapes):
            require(view.format == ("d" if self.itemsize == sizeof(double) else "f") and view.shape == shape
                    and view.c_contiguous, "layer")
        return 0

    cdef int pack(self, ptrdiff_t k, views) except -1:
        cdef Plan *p = &self.plans[k]
        cdef ptrdiff_t i
        cdef Tile tile
        kernel, recurrent_kernel, bias = views
        p.kernel = Lines(<char *> PyMemoryView_GET_BUFFER(kernel).buf, 3 * p.n_units)
        memcpy(p.u, PyMemoryView_GET_BUFFER(recurrent_kernel).buf, 3 * p.n_units * p.itemsize)
        memcpy(p.b, PyMemoryView_GET_BUFFER(bias).buf, 3 * p.n_units * p.itemsize)
        for i in range(p.unit_tiles):
            tile = place_tile(p, 0, i, self.scratch)
            pack_weights(p, &tile, p.packed + i * p.weights_bytes)
        p.kernel.data = NULL  # steps read the packed copy; the array may be freed
        return 0

    cdef int enter(self) except -1:
        """Claim scratch and state for one thread. In a forked child, a claim of the parent process does not count."""
        cdef ptrdiff_t user, now = indygru_fork_generation()
        if self.block is NULL:
            raise RuntimeError("stream: it was never initialised; streams are made by IndyGRU.stream")
        while True:
            user = look_at(&self.user)
            if user == now:
                raise RuntimeError("stream: another thread is using it; give each thread a stream of its own")
            if change(&self.user, user, now):
                break
        if user and self.is_stepping:  # the parent's thread was in the middle of a step
            memcpy(self.state_data, self.saved, self.n_layers * self.state_bytes)
        self.is_stepping = False
        return 0

    cdef void leave(self) noexcept:
        put(&self.user, 0)

    def _alone(self, work, *arguments):
        """Call it while nobody else may use the stream. Here, because in Python a signal can come before any `try`."""
        self.enter()
        try:
            return work(*arguments)
        finally:
            self.leave()

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
            self.leave()
        return self.y if x.ndim == 2 else self.y_row

    cdef int run(self, char *x, ptrdiff_t x_row) except -1:
        if self.work >= INTERRUPTED_WORK or self.n_threads > 1:
            self.run_in_rounds(x, x_row)
        elif self.work >= LEAST_WORK_UNLOCKED:
            with nogil:
                indygru_acquire_slots(1, 1)  # so that a fork waits until the step is done
                self.run_alone(x, x_row)
                indygru_release_slots(1)
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
        cdef indygru_choice choice
        cdef int n_threads
        if self.n_threads > 1 and indygru_is_forked():
            self.n_threads = self._serial_threads()
        memcpy(self.saved, self.state_data, size)
        self.is_stepping = True
        choice.n_threads, n_threads = 0, self.n_threads
        if n_threads > 1 and self.is_chosen:
            choice = indygru_choose_threads(INDYGRU_OP_STEP, self.work, 1, n_threads)
            n_threads = choice.n_threads
        try:
            for k in range(self.n_layers):
                p = self.plan_of_layer(k, x, x_row)
                begin_round(p)
                with nogil:
                    go_through(p, forward_tile, p.row_tiles * p.unit_tiles, n_threads, self.scratch, False)
                look_around(p)
            learn(&choice, n_threads)
        except BaseException:
            memcpy(self.state_data, self.saved, size)
            raise
        finally:
            self.is_stepping = False
        return 0
