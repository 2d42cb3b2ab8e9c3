/* All kernels of one tier, compiled for its instruction set.
 *
 * The including file defines TIER (the suffix of the tier's symbol), VECTOR_BYTES, HAS_FMA and, for an
 * instruction set other than the compiler's default, TARGET. */
#include "target_begin.h"
#include "kernel_body.inc.h"
#include "target_end.h"
