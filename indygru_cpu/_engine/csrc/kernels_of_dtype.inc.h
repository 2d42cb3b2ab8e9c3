/* The kernels of one dtype. The including file defines the macros that are undefined below. */
#include "activations.inc.h"
#include "runs.inc.h"
#include "forward_tile.inc.h"
#include "backward_tile.inc.h"
#include "projection.inc.h"
#if MANTISSA_BITS == 23
#include "compact_weights.inc.h"
#endif

#undef SUFFIX
#undef REAL
#undef BITS
#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef FUSED
#undef ABS
#undef COPYSIGN
#undef LOG2_HIGH
#undef LOG2_LOW
#undef EXPM1_COEFFICIENTS
#undef FOR_ACTIVATION
#undef FOR_RESET_GATE
#undef FOR_CELL
