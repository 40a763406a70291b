/* In inference: squeeze and excitation of a few samples in one call, for each element type. PyTorch needs eight
   operations, whose calls take longer than their arithmetic: 5 % of SE-ResNet-50's time for one image. All is computed
   in float32 and rounded once, at the end. */

/* out[n, r] = activation(weight[r] · x[n] + bias[r]) for from <= r < to, or the same to `rounded`; one of the two is
   null, and bias may be. Four rows at a time share one reading of x. If fewer remain, the first stands in for the
   missing ones, whose results are dropped. */
static void F(linear)(const float *x, long samples, long inputs, const T *weight, const T *bias, long outputs, int kind,
                      float *out, T *rounded, long from, long to)
{
    for (long r = from; r < to; r += 4) {
        const long rows = to - r < 4 ? to - r : 4;
        const T *w0 = weight + r * inputs, *w1 = w0 + (rows > 1 ? inputs : 0), *w2 = w0 + (rows > 2 ? 2 * inputs : 0);
        const T *w3 = w0 + (rows > 3 ? 3 * inputs : 0);
        for (long n = 0; n < samples; n++) {
            const float *v = x + n * inputs;
            float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
            #pragma omp simd reduction(+ : s0, s1, s2, s3)
            for (long i = 0; i < inputs; i++) {
                s0 += LOAD(w0[i]) * v[i];
                s1 += LOAD(w1[i]) * v[i];
                s2 += LOAD(w2[i]) * v[i];
                s3 += LOAD(w3[i]) * v[i];
            }
            const float s[4] = {s0, s1, s2, s3};
            for (long k = 0; k < rows; k++) {
                const float y = activated(s[k] + (bias ? LOAD(bias[r + k]) : 0), kind);
                if (out) out[n * outputs + r + k] = y;
                else rounded[n * outputs + r + k] = STORE(y);
            }
        }
    }
}

/* The gates (samples, outputs) of h, which is as for `squeeze` (squeeze.h). The weights are (width, channels) and
   (outputs, width); the biases may be null. Returns 1, or 0 if it got no memory. */
int F(gates)(const T *h, long samples, long channels, long space, int last, int relu, const T *w1, const T *b1, long width,
             int inner, const T *w2, const T *b2, long outputs, int outer, T *gate, int threads)
{
    if (samples * (channels * space + width * (channels + outputs)) < SMALL) threads = 1;
    const long parts = F(parts_of)(samples, channels, space, threads);
    double *sums = ALLOCATE(sizeof(double) * samples * parts * channels + sizeof(float) * samples * (channels + width));
    if (!sums) return 0;
    float *mean = (float *)(sums + samples * parts * channels), *hidden = mean + samples * channels;
    const int averaged = space == 1 && !relu && sizeof(T) == sizeof(float);
    const float *pooled = averaged ? (const float *)h : mean;
    #pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (!averaged) F(means)(h, samples, channels, space, last, relu ? 0 : -INFINITY, mean, parts, sums);
        #pragma omp for schedule(static)
        for (long r = 0; r < (width + 3) / 4; r++)
            F(linear)(pooled, samples, channels, w1, b1, width, inner, hidden, NULL, 4 * r, 4 * r + 4 < width ? 4 * r + 4 : width);
        #pragma omp for schedule(static)
        for (long r = 0; r < (outputs + 15) / 16; r++)
            F(linear)(hidden, samples, width, w2, b2, outputs, outer, NULL, gate, 16 * r,
                      16 * r + 16 < outputs ? 16 * r + 16 : outputs);
    }
    free(sums);
    return 1;
}

/* u = u * factor * gates + other, in place: `gates`, and then `rescale_rows` or with `u_last` `rescale_last` (rescale.h)
   of u (samples, outputs, u_space). `relu` is theirs; with 2, where h is u, h is rectified too. Returns 1, or 0 without
   any effect if it got no memory. */
int F(excited)(const T *h, long samples, long channels, long space, int last, const T *w1, const T *b1, long width, int inner,
               const T *w2, const T *b2, long outputs, int outer, double factor, T *u, const T *other, long u_space, int u_last,
               int relu, int threads)
{
    const long maps = samples * outputs;
    T *gate = ALLOCATE(sizeof(T) * maps);
    const int done =
        gate && F(gates)(h, samples, channels, space, last, relu == 2, w1, b1, width, inner, w2, b2, outputs, outer, gate, threads);
    if (done) {
        for (long i = 0; i < maps; i++) gate[i] = STORE(LOAD(gate[i]) * (float)factor);
        if (u_last) F(rescale_last)(u, other, samples, u_space, outputs, gate, relu, threads);
        else F(rescale_rows)(u, other, maps, u_space, gate, relu, threads);
    }
    free(gate);
    return done;
}
