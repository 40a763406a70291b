/* In inference: squeeze and excitation of a few samples in one call, in float32. PyTorch needs eight operations, whose
   calls take longer than their arithmetic: 5 % of SE-ResNet-50's time for one image. */
#include <math.h>
#include <stdlib.h>

#ifndef ALLOCATE /* a test defines one that always fails */
#define ALLOCATE(bytes) malloc(bytes)
#endif

enum { NONE, RELU, SIGMOID, HARD_SIGMOID, SILU, HARD_SWISH, TANH };
/* SMALL: the number of operations below which a second thread costs more than it saves. */
enum { BLOCK = 512, RUN = 256, WIDE = 64, SMALL = 1 << 14 };

static float activated(float x, int kind)
{
    const float inner = x + 3 < 0 ? 0 : x + 3 > 6 ? 6 : x + 3; /* NaN stays NaN */
    switch (kind) {
    case RELU: return x < 0 ? 0 : x;
    case SIGMOID: return 1 / (1 + expf(-x));
    case HARD_SIGMOID: return inner / 6;
    case SILU: return x / (1 + expf(-x));
    case HARD_SWISH: return x * inner / 6;
    case TANH: return tanhf(x);
    default: return x;
    }
}

#define T float
#define F(name) name##_float32
#define LOAD(x) (x)
#include "squeeze.h"
#undef T
#undef F
#undef LOAD

/* out[n, r] = activation(weight[r] · x[n] + bias[r]) for from <= r < to; bias may be null. Four rows at a time share
   one reading of x. If fewer remain, the first stands in for the missing ones, whose results are dropped. */
static void linear(const float *x, long samples, long inputs, const float *weight, const float *bias, long outputs,
                   int kind, float *out, long from, long to)
{
    for (long r = from; r < to; r += 4) {
        const long rows = to - r < 4 ? to - r : 4;
        const float *w0 = weight + r * inputs, *w1 = w0 + (rows > 1 ? inputs : 0), *w2 = w0 + (rows > 2 ? 2 * inputs : 0);
        const float *w3 = w0 + (rows > 3 ? 3 * inputs : 0);
        for (long n = 0; n < samples; n++) {
            const float *v = x + n * inputs;
            float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
            #pragma omp simd reduction(+ : s0, s1, s2, s3)
            for (long i = 0; i < inputs; i++) {
                s0 += w0[i] * v[i];
                s1 += w1[i] * v[i];
                s2 += w2[i] * v[i];
                s3 += w3[i] * v[i];
            }
            const float s[4] = {s0, s1, s2, s3};
            for (long k = 0; k < rows; k++)
                out[n * outputs + r + k] = activated(s[k] + (bias ? bias[r + k] : 0), kind);
        }
    }
}

/* The gates (samples, outputs) of h, which is as for `squeeze` (squeeze.h). The weights are (width, channels) and
   (outputs, width); the biases may be null. Returns 1, or 0 if it got no memory. */
int gates(const float *h, long samples, long channels, long space, int last, int relu, const float *w1, const float *b1,
          long width, int inner, const float *w2, const float *b2, long outputs, int outer, float *gate, int threads)
{
    float *mean = ALLOCATE(sizeof(float) * samples * (channels + width));
    if (!mean) return 0;
    float *hidden = mean + samples * channels;
    if (samples * (channels * space + width * (channels + outputs)) < SMALL) threads = 1;
    const long piece = piece_of_float32(samples, channels, threads);
    const int averaged = space == 1 && !relu;
    const float *pooled = averaged ? h : mean;
    #pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (!averaged) means_float32(h, samples, channels, space, last, relu ? 0 : -INFINITY, mean, piece);
        #pragma omp for schedule(static)
        for (long r = 0; r < (width + 3) / 4; r++)
            linear(pooled, samples, channels, w1, b1, width, inner, hidden, 4 * r, 4 * r + 4 < width ? 4 * r + 4 : width);
        #pragma omp for schedule(static)
        for (long r = 0; r < (outputs + 15) / 16; r++)
            linear(hidden, samples, width, w2, b2, outputs, outer, gate, 16 * r, 16 * r + 16 < outputs ? 16 * r + 16 : outputs);
    }
    free(mean);
    return 1;
}
