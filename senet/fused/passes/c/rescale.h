/* In inference: u = u * gate + other, in place. This is all that remains to be done to a map once its gate is known.
   `other` may be null, or u itself, but must not overlap u in any other way.
   relu: 0 rectifies nothing, 1 the result, 2 u before it is rescaled. */

#define LOOP(count, value) { _Pragma("omp simd") for (long i = 0; i < (count); i++) y[i] = STORE(value); }
#define EACH(count, a, plus) \
    if (relu == 1) LOOP(count, RELU(LOAD(y[i]) * a plus)) \
    else if (relu) LOOP(count, RELU(LOAD(y[i])) * a plus) \
    else LOOP(count, LOAD(y[i]) * a plus)

int F(rescale_rows)(T *u, const T *other, long rows, long space, const T *gate, int relu, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * space >= SMALL)
    for (long r = 0; r < rows; r++) {
        T *y = u + r * space;
        const ACC a = LOAD(gate[r]);
        if (other) {
            const T *o = other + r * space;
            EACH(space, a, + LOAD(o[i]))
        } else {
            EACH(space, a, )
        }
    }
    return 1;
}

int F(rescale_last)(T *u, const T *other, long samples, long space, long channels, const T *gate, int relu, int threads)
{
    if (samples * space * channels < SMALL) threads = 1;
    const long positions = samples * space, share = (positions + threads - 1) / threads;
    #pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        const long end = (t + 1) * share < positions ? (t + 1) * share : positions;
        for (long p = t * share; p < end;) {
            const T *a = gate + p / space * channels; /* a division takes as long as a short row */
            const long next = (p / space + 1) * space < end ? (p / space + 1) * space : end;
            for (; p < next; p++) {
                T *y = u + p * channels;
                if (other) {
                    const T *o = other + p * channels;
                    EACH(channels, LOAD(a[i]), + LOAD(o[i]))
                } else {
                    EACH(channels, LOAD(a[i]), )
                }
            }
        }
    }
    return 1;
}
#undef EACH
#undef LOOP
