/* In inference: u = u * gate + other, rectified if asked, in u's own memory. That is all that is left to do with a map
   once its gate is known. `other` may be u itself, element for element, but may not overlap it otherwise. */

int F(rescale_rows)(T *u, const T *other, long rows, long space, const T *gate, int relu, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * space >= SMALL)
    for (long r = 0; r < rows; r++) {
        T *y = u + r * space;
        const T *o = other + r * space;
        const ACC a = LOAD(gate[r]);
        if (relu) {
            #pragma omp simd
            for (long i = 0; i < space; i++) y[i] = STORE(RELU(LOAD(y[i]) * a + LOAD(o[i])));
        } else {
            #pragma omp simd
            for (long i = 0; i < space; i++) y[i] = STORE(LOAD(y[i]) * a + LOAD(o[i]));
        }
    }
    return 1;
}

int F(rescale_last)(T *u, const T *other, long samples, long space, long channels, const T *gate, int relu, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && samples * space * channels >= SMALL)
    for (long p = 0; p < samples * space; p++) {
        T *y = u + p * channels;
        const T *o = other + p * channels, *a = gate + p / space * channels;
        if (relu) {
            #pragma omp simd
            for (long c = 0; c < channels; c++) y[c] = STORE(RELU(LOAD(y[c]) * LOAD(a[c]) + LOAD(o[c])));
        } else {
            #pragma omp simd
            for (long c = 0; c < channels; c++) y[c] = STORE(LOAD(y[c]) * LOAD(a[c]) + LOAD(o[c]));
        }
    }
    return 1;
}
