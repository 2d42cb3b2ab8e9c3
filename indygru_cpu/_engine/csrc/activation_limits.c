/* Arguments beyond which exp and tanh are settled. They are in a file of their own so that the compiler does not know
 * them where they are used: it makes compare and blend of known bounds, and max and min, half as many instructions, of
 * others. */
#include "indygru_kernels.h"

const struct indygru_limits_f32 indygru_limits_f32 = {-88.0f, -88.9f, 88.0f, 10.0f};
const struct indygru_limits_f64 indygru_limits_f64 = {-709.0, -709.9, 709.0, 20.0};
