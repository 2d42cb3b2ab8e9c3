# Numbers that several threads read and write, and the claim of an object by the thread that initialises it.
from libc.stddef cimport ptrdiff_t

# The C names have a suffix, because <stdatomic.h> defines the plain ones as macros.
cdef extern from * nogil:
    """
    static ptrdiff_t fetch_add_atomically(ptrdiff_t *number, ptrdiff_t summand)
    {
        return __atomic_fetch_add(number, summand, __ATOMIC_RELAXED);
    }
    static ptrdiff_t load_atomically(const ptrdiff_t *number) { return __atomic_load_n(number, __ATOMIC_RELAXED); }
    static ptrdiff_t acquire_atomically(const ptrdiff_t *number) { return __atomic_load_n(number, __ATOMIC_ACQUIRE); }
    static void store_atomically(ptrdiff_t *number, ptrdiff_t value)
    {
        __atomic_store_n(number, value, __ATOMIC_RELEASE);
    }
    static int compare_exchange_atomically(ptrdiff_t *number, ptrdiff_t expected, ptrdiff_t value)
    {
        return __atomic_compare_exchange_n(number, &expected, value, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    }
    """
    ptrdiff_t atomic_fetch_add "fetch_add_atomically"(ptrdiff_t *number, ptrdiff_t summand)
    ptrdiff_t atomic_load "load_atomically"(const ptrdiff_t *number)
    # What another thread wrote before its atomic_store of the value that this returns is visible afterwards.
    ptrdiff_t atomic_acquire "acquire_atomically"(const ptrdiff_t *number)
    void atomic_store "store_atomically"(ptrdiff_t *number, ptrdiff_t value)
    bint atomic_compare_exchange "compare_exchange_atomically"(ptrdiff_t *number, ptrdiff_t expected, ptrdiff_t value)

# States of an object's initialisation. A new object is zeroed. `gc.get_objects` finds it at once, so other threads may
# call its methods, or its __init__, at any time, even before Cython has set its table of methods: what runs before the
# check of the state is in functions or in methods that are `cython.final`, which are called without that table. The
# attributes do not change any more once the state is COMPLETE.
cdef enum:
    NEW
    CLAIMED   # by the thread that initialises the object
    COMPLETE


cdef inline bint claim_init(ptrdiff_t *state) noexcept nogil:
    """Claims the initialisation of an object for the calling thread; False: it is claimed or complete."""
    return atomic_compare_exchange(state, NEW, CLAIMED)


cdef inline void end_init(ptrdiff_t *state, bint is_complete) noexcept nogil:
    """Ends a claim. Without success the object is as new."""
    atomic_store(state, COMPLETE if is_complete else NEW)


cdef inline bint is_initialised(const ptrdiff_t *state) noexcept nogil:
    """Whether the attributes of an object can be read."""
    return atomic_acquire(state) == COMPLETE
