/* The entry points of the passes over channels last. A few channels do not fill a vector, so then `k` neighbouring
   positions count as one position with k times the channels. The parameters are copied k times, and the k sums of a
   channel are added at the end. A call allocates all its memory before it writes anything, so it does all its work or
   none. */

/* The number k: 1 if there are many channels, else a power of 2 that divides `space`. */
static long F(fold)(long space, long channels)
{
    long k = 1;
    while (k * channels < WIDE && space % (2 * k) == 0) k *= 2;
    return k;
}

/* Repeat x (samples, channels) k times into y (samples, k, channels) and return y; null stays null. */
static const ACC *F(folded)(const ACC *x, long samples, long channels, long k, ACC *y)
{
    for (long n = 0; x && n < samples; n++)
        for (long j = 0; j < k; j++) memcpy(y + (n * k + j) * channels, x + n * channels, sizeof(ACC) * channels);
    return x ? y : NULL;
}

/* Add up the k sums of each channel: p and q (samples, k, channels) -> s0 and s1 (samples, channels). */
static void F(unfolded)(long samples, long channels, long k, const ACC *p, const ACC *q, ACC *s0, ACC *s1)
{
    for (long n = 0; n < samples; n++)
        for (long c = 0; c < channels; c++) {
            double a = 0, b = 0;
            for (long j = 0; j < k; j++) {
                a += p[(n * k + j) * channels + c];
                b += q[(n * k + j) * channels + c];
            }
            s0[n * channels + c] = (ACC)a;
            s1[n * channels + c] = (ACC)b;
        }
}

int F(stats_last)(const T *v, long samples, long space, long channels, long pieces, double *mean, double *m2, int threads)
{
    const long k = F(fold)(space, channels), wide = channels * k;
    ACC *scratch = ALLOCATE(sizeof(ACC) * samples * pieces * 2 * wide);
    double *means = k > 1 ? ALLOCATE(sizeof(double) * samples * 2 * wide) : NULL, *m2s = means + (means ? samples * wide : 0);
    const int enough = scratch && (means || k == 1);
    if (enough && k == 1) {
        F(stats_wide)(v, samples, space, channels, pieces, scratch, mean, m2, threads);
    } else if (enough) {
        F(stats_wide)(v, samples, space / k, wide, pieces, scratch, means, m2s, threads);
        for (long n = 0; n < samples; n++)
            for (long c = 0; c < channels; c++) {
                const double *m = means + n * wide + c, *q = m2s + n * wide + c;
                double total = 0, squares = 0;
                for (long j = 0; j < k; j++) total += m[j * channels];
                const double centre = total / k;
                for (long j = 0; j < k; j++) {
                    const double d = m[j * channels] - centre;
                    squares += q[j * channels] + d * d * (space / k);
                }
                mean[n * channels + c] = centre;
                m2[n * channels + c] = squares;
            }
    }
    free(means), free(scratch);
    return enough;
}

int F(affine_last)(const T *v, const T *other, T *out, long samples, long space, long channels, long pieces,
                   const ACC *center, const ACC *scale, const ACC *shift, int relu, int threads)
{
    const long k = F(fold)(space, channels), size = samples * channels * k;
    if (k == 1) {
        F(affine_wide)(v, other, out, samples, space, channels, pieces, center, scale, shift, relu, threads);
        return 1;
    }
    ACC *copies = ALLOCATE(sizeof(ACC) * 3 * size);
    if (!copies) return 0;
    F(affine_wide)(v, other, out, samples, space / k, channels * k, pieces, F(folded)(center, samples, channels, k, copies),
                   F(folded)(scale, samples, channels, k, copies + size),
                   F(folded)(shift, samples, channels, k, copies + 2 * size), relu, threads);
    free(copies);
    return 1;
}

int F(sums_last)(const T *dy, const T *v, const T *out, T *kept, long samples, long space, long channels, long pieces,
                 const ACC *mean, const ACC *center, const ACC *scale, const ACC *shift, ACC *s0, ACC *s1, int threads)
{
    const long k = F(fold)(space, channels), wide = channels * k, size = samples * wide;
    ACC *scratch = ALLOCATE(sizeof(ACC) * (pieces * 2 + 6) * size);
    if (!scratch) return 0;
    ACC *copies = scratch + pieces * 2 * size, *p = copies + 4 * size, *q = p + size;
    if (k == 1) {
        F(sums_wide)(dy, v, out, kept, samples, space, channels, pieces, mean, center, scale, shift, scratch, s0, s1, threads);
    } else {
        F(sums_wide)(dy, v, out, kept, samples, space / k, wide, pieces, F(folded)(mean, samples, channels, k, copies),
                     F(folded)(center, samples, channels, k, copies + size),
                     F(folded)(scale, samples, channels, k, copies + 2 * size),
                     F(folded)(shift, samples, channels, k, copies + 3 * size), scratch, p, q, threads);
        F(unfolded)(samples, channels, k, p, q, s0, s1);
    }
    free(scratch);
    return 1;
}

int F(passed_last)(const T *v, long samples, long space, long channels, long pieces, const ACC *center, const ACC *scale,
                   const ACC *shift, ACC *n0, ACC *n1, int threads)
{
    const long k = F(fold)(space, channels), wide = channels * k, size = samples * wide;
    ACC *scratch = ALLOCATE(sizeof(ACC) * (pieces * 2 + 5) * size);
    if (!scratch) return 0;
    ACC *copies = scratch + pieces * 2 * size, *p = copies + 3 * size, *q = p + size;
    if (k == 1) {
        F(passed_wide)(v, samples, space, channels, pieces, center, scale, shift, scratch, n0, n1, threads);
    } else {
        F(passed_wide)(v, samples, space / k, wide, pieces, F(folded)(center, samples, channels, k, copies),
                       F(folded)(scale, samples, channels, k, copies + size),
                       F(folded)(shift, samples, channels, k, copies + 2 * size), scratch, p, q, threads);
        F(unfolded)(samples, channels, k, p, q, n0, n1);
    }
    free(scratch);
    return 1;
}

int F(input_last)(const T *dy, const T *v, const T *out, T *dv, long samples, long space, long channels, long pieces,
                  const ACC *center, const ACC *scale, const ACC *c1, const ACC *c0, const ACC *gain, const ACC *shift,
                  const ACC *extra, int threads)
{
    const long k = F(fold)(space, channels), size = samples * channels * k;
    if (k == 1) {
        F(input_wide)(dy, v, out, dv, samples, space, channels, pieces, center, scale, c1, c0, gain, shift, extra, threads);
        return 1;
    }
    ACC *copies = ALLOCATE(sizeof(ACC) * 7 * size);
    if (!copies) return 0;
    F(input_wide)(dy, v, out, dv, samples, space / k, channels * k, pieces, F(folded)(center, samples, channels, k, copies),
                  F(folded)(scale, samples, channels, k, copies + size),
                  F(folded)(c1, samples, channels, k, copies + 2 * size),
                  F(folded)(c0, samples, channels, k, copies + 3 * size),
                  F(folded)(gain, samples, channels, k, copies + 4 * size),
                  F(folded)(shift, samples, channels, k, copies + 5 * size),
                  F(folded)(extra, samples, channels, k, copies + 6 * size), threads);
    free(copies);
    return 1;
}
