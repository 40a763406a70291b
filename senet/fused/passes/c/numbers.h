/* What every element type needs: sizes of the loops, memory, bfloat16 as float, and ReLU. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* SMALL: the number of operations below which a second thread costs more than it saves. LINE: floats of a cache line,
   which two threads should not share. */
enum { BLOCK = 512, RUN = 256, WIDE = 64, SMALL = 1 << 14, LINE = 16 };

#ifndef ALLOCATE /* a test defines one that always fails */
#define ALLOCATE(bytes) malloc(bytes)
#endif

static inline float f32_of_bf16(uint16_t x) { uint32_t u = (uint32_t)x << 16; float f; memcpy(&f, &u, 4); return f; }
static inline uint16_t bf16_of_f32(float f)
{
    uint32_t u; memcpy(&u, &f, 4);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16; /* to the nearest, ties to even */
    return f != f ? 0x7fc0 : (uint16_t)rounded;
}
static inline float relu_f32(float y) { return y < 0 ? 0 : y; } /* y > 0 ? y : 0 would turn NaN into 0 */
