/* Arguments beyond which exp, sigmoid and tanh are constant. They are defined in a file of their own, so that the
 * compiler does not know their values where they are used: it turns a clamp to known bounds into compare and blend, and
 * a clamp to unknown bounds into max and min, which are half as many instructions. */
#include "indygru_kernels.h"

const struct indygru_activation_limits_f32 indygru_activation_limits_f32 = {-88.0f, -88.9f, 88.0f, 10.0f};
const struct indygru_activation_limits_f64 indygru_activation_limits_f64 = {-709.0, -709.9, 709.0, 20.0};
