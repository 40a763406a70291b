/* The passes over channels last: `samples` of `space` positions of `channels`.

   Each sample's positions are split into `pieces` parts of about equal length, so that one sample can keep several
   threads busy. The sums of a piece go to scratch, (samples * pieces, 2, channels), and are then added in order, so the
   result does not depend on which thread finishes first. WIDE channels at a time are summed in registers: RUN positions
   in ACC, and the runs in double. */

#define PIECE(p) \
    const long n = (p) / pieces, from = ((p) % pieces) * space / pieces, to = ((p) % pieces + 1) * space / pieces

/* A vector loop over channels. */
#define CHANNELS(count) _Pragma("omp simd") for (long c = 0; c < (count); c++)

/* Sum over space: `function` adds the sums of a run of positions, for WIDE channels from position `at` of the maps and
   `of` of the values per channel, to ta and tb. It is inlined, so that the constant width keeps its sums in registers. */
#define INLINED static inline __attribute__((always_inline)) void
#define SUMMED(function, ...) \
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)") \
    for (long p = 0; p < samples * pieces; p++) { \
        PIECE(p); \
        ACC *s = scratch + p * 2 * channels, *q = s + channels; \
        for (long c0 = 0; c0 < channels; c0 += WIDE) { \
            const long w = channels - c0 < WIDE ? channels - c0 : WIDE, of = n * channels + c0; \
            double ta[WIDE] = {0}, tb[WIDE] = {0}; \
            for (long f = from; f < to; f += RUN) { \
                const long run = to - f < RUN ? to - f : RUN, at = (n * space + f) * channels + c0; \
                if (w == WIDE) F(function)(WIDE, run, channels, __VA_ARGS__, ta, tb); \
                else F(function)(w, run, channels, __VA_ARGS__, ta, tb); \
            } \
            for (long c = 0; c < w; c++) s[c0 + c] = (ACC)ta[c], q[c0 + c] = (ACC)tb[c]; \
        } \
    }

/* The two sums of a channel over the pieces of sample n, in order. */
#define GATHERED(n, c, a, b) \
    double a = 0, b = 0; \
    for (long p = (n) * pieces; p < ((n) + 1) * pieces; p++) { \
        a += scratch[p * 2 * channels + (c)]; \
        b += scratch[p * 2 * channels + channels + (c)]; \
    }

static void F(gathered)(long samples, long channels, long pieces, const ACC *scratch, ACC *s0, ACC *s1)
{
    for (long n = 0; n < samples; n++)
        for (long c = 0; c < channels; c++) {
            GATHERED(n, c, a, b)
            s0[n * channels + c] = (ACC)a;
            s1[n * channels + c] = (ACC)b;
        }
}

INLINED F(stats_of_run)(long width, long run, long channels, const T *v, const double *near, double *ta, double *tb)
{
    ACC k[WIDE], a[WIDE], b[WIDE];
    for (long c = 0; c < width; c++) k[c] = (ACC)near[c], a[c] = 0, b[c] = 0;
    for (long i = 0; i < run; i++) {
        const T *x = v + i * channels;
        CHANNELS(width) {
            ACC d = LOAD(x[c]) - k[c];
            a[c] += d;
            b[c] += d * d;
        }
    }
    for (long c = 0; c < width; c++) ta[c] += a[c], tb[c] += b[c];
}

/* The mean and the sum of squared deviations of each map, in one reading: unlike a row, a sample may not fit the cache.
   Deviations are taken from the mean of the sample's first positions, which is close enough to the map's mean to avoid
   cancellation; `mean` holds it meanwhile. */
static void F(stats_wide)(const T *v, long samples, long space, long channels, long pieces, ACC *scratch, double *mean,
                          double *m2, int threads)
{
    const long first = space < 8 ? space : 8;
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long n = 0; n < samples; n++)
        for (long c = 0; c < channels; c++) {
            ACC k = 0;
            for (long i = 0; i < first; i++) k += LOAD(v[(n * space + i) * channels + c]);
            mean[n * channels + c] = k / first;
        }
    SUMMED(stats_of_run, v + at, mean + of)
    for (long n = 0; n < samples; n++)
        for (long c = 0; c < channels; c++) {
            GATHERED(n, c, a, b)
            mean[n * channels + c] += a / space;
            m2[n * channels + c] = b - a * a / space;
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
                CHANNELS(channels) y[c] = STORE((LOAD(x[c]) - m[c]) * a[c] + b[c]);
            } else if (!other) {
                CHANNELS(channels) y[c] = STORE(RELU((LOAD(x[c]) - m[c]) * a[c] + b[c]));
            } else if (!relu) {
                CHANNELS(channels) y[c] = STORE((LOAD(x[c]) - m[c]) * a[c] + b[c] + LOAD(o[c]));
            } else {
                CHANNELS(channels) y[c] = STORE(RELU((LOAD(x[c]) - m[c]) * a[c] + b[c] + LOAD(o[c])));
            }
        }
    }
}

/* What `sums_wide` sums: as in `sums_rows` (rows.h). */
#define SUM(value, also) CHANNELS(width) { \
    const ACC d = value; \
    also \
    a[c] += d; \
    b[c] += d * (LOAD(x[c]) - m[c]); \
}
INLINED F(sums_of_run)(long width, long run, long channels, const T *dy, const T *v, const T *out, T *kept, const ACC *mean,
                       const ACC *center, const ACC *scale, const ACC *shift, double *ta, double *tb)
{
    ACC m[WIDE], a[WIDE], b[WIDE];
    for (long c = 0; c < width; c++) m[c] = mean[c], a[c] = 0, b[c] = 0;
    for (long i = 0; i < run; i++) {
        const T *g = dy + i * channels, *x = v + i * channels, *o = out + (out ? i * channels : 0);
        T *k = kept + (kept ? i * channels : 0);
        if (scale) SUM((LOAD(x[c]) - center[c]) * scale[c] + shift[c] <= 0 ? 0 : LOAD(g[c]), )
        else if (!out) SUM(LOAD(g[c]), )
        else if (!kept) SUM(LOAD(o[c]) <= 0 ? 0 : LOAD(g[c]), )
        else SUM(LOAD(o[c]) <= 0 ? 0 : LOAD(g[c]), k[c] = STORE(d);)
    }
    for (long c = 0; c < width; c++) ta[c] += a[c], tb[c] += b[c];
}
#undef SUM

static void F(sums_wide)(const T *dy, const T *v, const T *out, T *kept, long samples, long space, long channels, long pieces,
                         const ACC *mean, const ACC *center, const ACC *scale, const ACC *shift, ACC *scratch, ACC *s0, ACC *s1,
                         int threads)
{
    const long some = scale ? 1 : 0;
    SUMMED(sums_of_run, dy + at, v + at, out + (out ? at : 0), kept + (kept ? at : 0), mean + of, center + some * of,
           scale + some * of, shift + some * of)
    F(gathered)(samples, channels, pieces, scratch, s0, s1);
}

INLINED F(passed_of_run)(long width, long run, long channels, const T *v, const ACC *center, const ACC *scale,
                         const ACC *shift, double *ta, double *tb)
{
    ACC m[WIDE], k[WIDE], e[WIDE], a[WIDE], b[WIDE];
    for (long c = 0; c < width; c++) m[c] = center[c], k[c] = scale[c], e[c] = shift[c], a[c] = 0, b[c] = 0;
    for (long i = 0; i < run; i++) {
        const T *x = v + i * channels;
        CHANNELS(width) {
            ACC d = LOAD(x[c]) - m[c];
            ACC one = d * k[c] + e[c] <= 0 ? 0 : 1;
            a[c] += one;
            b[c] += one * d;
        }
    }
    for (long c = 0; c < width; c++) ta[c] += a[c], tb[c] += b[c];
}

static void F(passed_wide)(const T *v, long samples, long space, long channels, long pieces, const ACC *center,
                           const ACC *scale, const ACC *shift, ACC *scratch, ACC *n0, ACC *n1, int threads)
{
    SUMMED(passed_of_run, v + at, center + of, scale + of, shift + of)
    F(gathered)(samples, channels, pieces, scratch, n0, n1);
}

static void F(input_wide)(const T *dy, const T *v, const T *out, T *dv, long samples, long space, long channels, long pieces,
                          const ACC *center, const ACC *scale, const ACC *c1, const ACC *c0, const ACC *gain,
                          const ACC *shift, const ACC *extra, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long p = 0; p < samples * pieces; p++) {
        PIECE(p);
        const long of = n * channels;
        const ACC *m = center + of, *a = scale + of, *b = c1 + of, *e = c0 + of;
        for (long i = from; i < to; i++) {
            const long at = (n * space + i) * channels;
            const T *g = dy + at, *x = v + at, *o = out + (out ? at : 0);
            T *y = dv + at;
            if (gain) {
                const ACC *k = gain + of, *f = shift + of, *h = extra + of;
                CHANNELS(channels) {
                    const ACC d = LOAD(x[c]) - m[c];
                    y[c] = STORE((d * k[c] + f[c] <= 0 ? 0 : a[c] * LOAD(g[c]) + h[c]) + (b[c] * d + e[c]));
                }
            } else if (!out) {
                CHANNELS(channels) y[c] = STORE(a[c] * LOAD(g[c]) + (b[c] * (LOAD(x[c]) - m[c]) + e[c]));
            } else {
                CHANNELS(channels) {
                    const ACC d = LOAD(o[c]) <= 0 ? 0 : a[c] * LOAD(g[c]);
                    y[c] = STORE(d + (b[c] * (LOAD(x[c]) - m[c]) + e[c]));
                }
            }
        }
    }
}

#undef CHANNELS
#undef INLINED
#undef SUMMED
#undef GATHERED
#undef PIECE
