/* Squeeze, excitation and scale in inference: squeeze.h, rescale.h and gates.h for each element type. */
#include "numbers.h"

enum { NONE, RELU, SIGMOID, HARD_SIGMOID, SILU, HARD_SWISH, TANH };

static float activated(float x, int kind)
{
    const float inner = x + 3 < 0 ? 0 : x + 3 > 6 ? 6 : x + 3; /* NaN stays NaN */
    switch (kind) {
    case RELU: return relu_f32(x);
    case SIGMOID: return 1 / (1 + expf(-x));
    case HARD_SIGMOID: return inner / 6;
    case SILU: return x / (1 + expf(-x));
    case HARD_SWISH: return x * inner / 6;
    case TANH: return tanhf(x);
    default: return x;
    }
}

#define ACC float
#define RELU relu_f32 /* no longer the number above */

#define T float
#define F(name) name##_float32
#define LOAD(x) (x)
#define STORE(x) (x)
#include "squeeze.h"
#include "rescale.h"
#include "gates.h"
#undef T
#undef F
#undef LOAD
#undef STORE

#define T uint16_t
#define F(name) name##_bfloat16
#define LOAD(x) f32_of_bf16(x)
#define STORE(x) bf16_of_f32(x)
#include "squeeze.h"
#include "rescale.h"
#include "gates.h"
