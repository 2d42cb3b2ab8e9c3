/* What the kernel files include before they open their target region. */
#include "indygru_kernels.h"

#include <stdint.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "fast-math changes results and deletes the handling of NaN: build without it"
#endif
