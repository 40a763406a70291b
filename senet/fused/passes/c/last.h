/* The passes over channels last: `samples` of `space` positions of `channels`.

   Each sample's positions are split into `pieces` parts of about equal length, so that one sample can keep several
   threads busy. The sums of a piece go to scratch, (samples * pieces, 2, channels), and are then added in order, so the
   result does not depend on which thread finishes first. WIDE channels at a time are summed in registers: RUN positions
   in ACC, and the runs in double. */

#define PIECE(p) \
    const long n = (p) / pieces, from = ((p) % pieces) * space / pieces, to = ((p) % pieces + 1) * space / pieces

/* The mean and the sum of squared deviations of each map, in one reading: unlike a row, a sample may not fit the cache.
   Deviations are taken from the mean of the sample's first positions, which is close enough to the map's mean to avoid
   cancellation. */
static void F(stats_wide)(const T *v, long samples, long space, long channels, long pieces, ACC *scratch, double *mean,
                          double *m2, int threads)
{
    const long first = space < 8 ? space : 8;
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long p = 0; p < samples * pieces; p++) {
        PIECE(p);
        ACC *s = scratch + p * 2 * channels, *q = s + channels;
        const T *x = v + n * space * channels;
        for (long c0 = 0; c0 < channels; c0 += WIDE) {
            const long w = channels - c0 < WIDE ? channels - c0 : WIDE;
            ACC k[WIDE], a[WIDE], b[WIDE];
            double ta[WIDE], tb[WIDE];
            for (long c = 0; c < w; c++) k[c] = 0, ta[c] = 0, tb[c] = 0;
            for (long i = 0; i < first; i++)
                for (long c = 0; c < w; c++) k[c] += LOAD(x[i * channels + c0 + c]);
            for (long c = 0; c < w; c++) k[c] /= first;
            for (long f = from; f < to; f += RUN) {
                const long t = to - f < RUN ? to : f + RUN;
                for (long c = 0; c < w; c++) a[c] = 0, b[c] = 0;
                if (w == WIDE) {
                    for (long i = f; i < t; i++) {
                        const T *row = x + i * channels + c0;
                        #pragma omp simd
                        for (long c = 0; c < WIDE; c++) {
                            ACC d = LOAD(row[c]) - k[c];
                            a[c] += d;
                            b[c] += d * d;
                        }
                    }
                } else {
                    for (long i = f; i < t; i++) {
                        const T *row = x + i * channels + c0;
                        for (long c = 0; c < w; c++) {
                            ACC d = LOAD(row[c]) - k[c];
                            a[c] += d;
                            b[c] += d * d;
                        }
                    }
                }
                for (long c = 0; c < w; c++) ta[c] += a[c], tb[c] += b[c];
            }
            for (long c = 0; c < w; c++) s[c0 + c] = (ACC)ta[c], q[c0 + c] = (ACC)tb[c];
        }
    }
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long n = 0; n < samples; n++) {
        const T *x = v + n * space * channels;
        for (long c = 0; c < channels; c++) {
            ACC k = 0;
            for (long i = 0; i < first; i++) k += LOAD(x[i * channels + c]);
            k /= first;
            double a = 0, b = 0;
            for (long p = n * pieces; p < (n + 1) * pieces; p++) {
                a += scratch[p * 2 * channels + c];
                b += scratch[p * 2 * channels + channels + c];
            }
            mean[n * channels + c] = k + a / space;
            m2[n * channels + c] = b - a * a / space;
        }
    }
}

static void F(affine_wide)(const T *v, const T *other, T *out, long samples, long space, long channels, long pieces,
                           const ACC *center, const ACC *scale, const ACC *shift, int relu, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long p = 0; p < samples * pieces; p++) {
        PIECE(p);
        const ACC *m = center + n * channels, *a = scale + n * channels, *b = shift + n * channels;
        for (long i = from; i < to; i++) {
            const long at = (n * space + i) * channels;
            const T *x = v + at, *o = other + (other ? at : 0);
            T *y = out + at;
            if (!other && !relu) {
                #pragma omp simd
                for (long c = 0; c < channels; c++) y[c] = STORE((LOAD(x[c]) - m[c]) * a[c] + b[c]);
            } else if (!other) {
                #pragma omp simd
                for (long c = 0; c < channels; c++) y[c] = STORE(RELU((LOAD(x[c]) - m[c]) * a[c] + b[c]));
            } else if (!relu) {
                #pragma omp simd
                for (long c = 0; c < channels; c++) y[c] = STORE((LOAD(x[c]) - m[c]) * a[c] + b[c] + LOAD(o[c]));
            } else {
                #pragma omp simd
                for (long c = 0; c < channels; c++) y[c] = STORE(RELU((LOAD(x[c]) - m[c]) * a[c] + b[c] + LOAD(o[c])));
            }
        }
    }
}

/* The two sums of each map, from those of its pieces, in order. */
static void F(gathered)(long samples, long channels, long pieces, const ACC *scratch, ACC *s0, ACC *s1)
{
    for (long n = 0; n < samples; n++)
        for (long c = 0; c < channels; c++) {
            double a = 0, b = 0;
            for (long p = n * pieces; p < (n + 1) * pieces; p++) {
                a += scratch[p * 2 * channels + c];
                b += scratch[p * 2 * channels + channels + c];
            }
            s0[n * channels + c] = (ACC)a;
            s1[n * channels + c] = (ACC)b;
        }
}

static void F(sums_wide)(const T *dy, const T *v, const T *out, T *kept, long samples, long space, long channels,
                         long pieces, const ACC *mean, ACC *scratch, ACC *s0, ACC *s1, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long p = 0; p < samples * pieces; p++) {
        PIECE(p);
        ACC *s = scratch + p * 2 * channels, *q = s + channels;
        const long base = n * space * channels;
        for (long c0 = 0; c0 < channels; c0 += WIDE) {
            const long w = channels - c0 < WIDE ? channels - c0 : WIDE;
            const ACC *m = mean + n * channels + c0;
            ACC a[WIDE], b[WIDE];
            double ta[WIDE], tb[WIDE];
            for (long c = 0; c < w; c++) ta[c] = 0, tb[c] = 0;
            for (long f = from; f < to; f += RUN) {
                const long t = to - f < RUN ? to : f + RUN;
                for (long c = 0; c < w; c++) a[c] = 0, b[c] = 0;
                for (long i = f; i < t; i++) {
                    const long at = base + i * channels + c0;
                    const T *g = dy + at, *x = v + at, *o = out + (out ? at : 0);
                    T *k = kept + (kept ? at : 0);
                    if (!out) {
                        #pragma omp simd
                        for (long c = 0; c < w; c++) {
                            ACC d = LOAD(g[c]);
                            a[c] += d;
                            b[c] += d * (LOAD(x[c]) - m[c]);
                        }
                    } else if (!kept) {
                        #pragma omp simd
                        for (long c = 0; c < w; c++) {
                            ACC d = LOAD(o[c]) <= 0 ? 0 : LOAD(g[c]);
                            a[c] += d;
                            b[c] += d * (LOAD(x[c]) - m[c]);
                        }
                    } else {
                        #pragma omp simd
                        for (long c = 0; c < w; c++) {
                            ACC d = LOAD(o[c]) <= 0 ? 0 : LOAD(g[c]);
                            k[c] = STORE(d);
                            a[c] += d;
                            b[c] += d * (LOAD(x[c]) - m[c]);
                        }
                    }
                }
                for (long c = 0; c < w; c++) ta[c] += a[c], tb[c] += b[c];
            }
            for (long c = 0; c < w; c++) s[c0 + c] = (ACC)ta[c], q[c0 + c] = (ACC)tb[c];
        }
    }
    F(gathered)(samples, channels, pieces, scratch, s0, s1);
}

static void F(passed_wide)(const T *v, long samples, long space, long channels, long pieces, const ACC *center,
                           const ACC *scale, const ACC *shift, ACC *scratch, ACC *n0, ACC *n1, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long p = 0; p < samples * pieces; p++) {
        PIECE(p);
        ACC *s = scratch + p * 2 * channels, *q = s + channels;
        const T *x = v + n * space * channels;
        for (long c0 = 0; c0 < channels; c0 += WIDE) {
            const long w = channels - c0 < WIDE ? channels - c0 : WIDE, at = n * channels + c0;
            const ACC *m = center + at, *k = scale + at, *e = shift + at;
            ACC a[WIDE], b[WIDE];
            double ta[WIDE], tb[WIDE];
            for (long c = 0; c < w; c++) ta[c] = 0, tb[c] = 0;
            for (long f = from; f < to; f += RUN) {
                const long t = to - f < RUN ? to : f + RUN;
                for (long c = 0; c < w; c++) a[c] = 0, b[c] = 0;
                for (long i = f; i < t; i++) {
                    const T *row = x + i * channels + c0;
                    #pragma omp simd
                    for (long c = 0; c < w; c++) {
                        ACC d = LOAD(row[c]) - m[c];
                        ACC one = d * k[c] + e[c] <= 0 ? 0 : 1;
                        a[c] += one;
                        b[c] += one * d;
                    }
                }
                for (long c = 0; c < w; c++) ta[c] += a[c], tb[c] += b[c];
            }
            for (long c = 0; c < w; c++) s[c0 + c] = (ACC)ta[c], q[c0 + c] = (ACC)tb[c];
        }
    }
    F(gathered)(samples, channels, pieces, scratch, n0, n1);
}

static void F(input_wide)(const T *dy, const T *v, const T *out, T *dv, long samples, long space, long channels,
                          long pieces, const ACC *center, const ACC *scale, const ACC *c1, const ACC *c0,
                          const ACC *extra, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long p = 0; p < samples * pieces; p++) {
        PIECE(p);
        const ACC *m = center + n * channels, *a = scale + n * channels, *b = c1 + n * channels, *e = c0 + n * channels;
        const ACC *h = extra + n * channels;
        for (long i = from; i < to; i++) {
            const long at = (n * space + i) * channels;
            const T *g = dy + at, *x = v + at, *o = out + (out ? at : 0);
            T *y = dv + at;
            if (!out) {
                #pragma omp simd
                for (long c = 0; c < channels; c++) y[c] = STORE(a[c] * LOAD(g[c]) + (b[c] * (LOAD(x[c]) - m[c]) + e[c]));
            } else {
                #pragma omp simd
                for (long c = 0; c < channels; c++) {
                    ACC d = LOAD(o[c]) <= 0 ? 0 : a[c] * LOAD(g[c]) + h[c];
                    y[c] = STORE(d + (b[c] * (LOAD(x[c]) - m[c]) + e[c]));
                }
            }
        }
    }
}

#undef PIECE
