/* Normalisation and Squeeze-and-Excitation in one pass on the CPU: passes.h for each element type.

   library.py compiles it once on the user's machine. Without a compiler, PyTorch's operations do the work. */
#include "numbers.h"

static inline double relu_f64(double y) { return y < 0 ? 0 : y; }

#define ACC float
#define RELU relu_f32

#define T float
#define F(name) name##_float32
#define LOAD(x) (x)
#define STORE(x) (x)
#include "passes.h"
#undef T
#undef F
#undef LOAD
#undef STORE

#define T uint16_t
#define F(name) name##_bfloat16
#define LOAD(x) f32_of_bf16(x)
#define STORE(x) bf16_of_f32(x)
#include "passes.h"
#undef T
#undef F
#undef LOAD
#undef STORE

#ifdef __FLT16_MAX__ /* without this type in the compiler, PyTorch's operations do float16 */
#define T _Float16
#define F(name) name##_float16
#define LOAD(x) ((float)(x))
#define STORE(x) ((_Float16)(x))
#include "passes.h"
#undef T
#undef F
#undef LOAD
#undef STORE
#endif

#undef ACC
#undef RELU
#define ACC double
#define RELU relu_f64
#define T double
#define F(name) name##_float64
#define LOAD(x) (x)
#define STORE(x) (x)
#include "passes.h"
