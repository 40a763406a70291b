/* The passes over an activation, for one element type: T is how it lies in memory, ACC what is computed in,
   LOAD and STORE go from one to the other, F(name) names the function. Included once for each type by passes.c.

   rows: the map of a sample's channel is contiguous ("NCHW"): `rows` = N*C maps of `space` elements.
   last: channels lie side by side ("channels last"): N samples of `space` positions of `channels` elements.

   center, scale, shift, c1, c0 are (N, C); so are the sums. Means and squared deviations come in double: where the mean
   is many standard deviations, its own rounding would be seen. A pointer that may be null is said to be. */

/* ---- rows ---- */

/* mean and sum of squared deviations of every row; the second reading comes from the cache */
void F(stats_rows)(const T *v, long rows, long space, double *mean, double *m2, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const T *x = v + r * space;
        double total = 0;
        for (long b = 0; b < space; b += BLOCK) {
            long n = space - b < BLOCK ? space - b : BLOCK;
            ACC s = 0;
            #pragma omp simd reduction(+ : s)
            for (long i = 0; i < n; i++) s += LOAD(x[b + i]);
            total += s;
        }
        ACC m = (ACC)(total / space);
        double squares = 0, rest = 0;
        for (long b = 0; b < space; b += BLOCK) {
            long n = space - b < BLOCK ? space - b : BLOCK;
            ACC s = 0, d1 = 0;
            #pragma omp simd reduction(+ : s, d1)
            for (long i = 0; i < n; i++) {
                ACC d = LOAD(x[b + i]) - m;
                s += d * d;
                d1 += d;
            }
            squares += s;
            rest += d1;
        }
        mean[r] = m + rest / space;
        m2[r] = squares - rest * rest / space;
    }
}

/* out = (v - center) * scale + shift, then + other (may be null), then ReLU where asked */
void F(affine_rows)(const T *v, const T *other, T *out, long rows, long space, const ACC *center, const ACC *scale,
                    const ACC *shift, int relu, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const T *x = v + r * space;
        const T *o = other + (other ? r * space : 0);
        T *y = out + r * space;
        const ACC m = center[r], a = scale[r], b = shift[r];
        if (!other && !relu) {
            #pragma omp simd
            for (long i = 0; i < space; i++) y[i] = STORE((LOAD(x[i]) - m) * a + b);
        } else if (!other) {
            #pragma omp simd
            for (long i = 0; i < space; i++) y[i] = STORE(RELU((LOAD(x[i]) - m) * a + b));
        } else if (!relu) {
            #pragma omp simd
            for (long i = 0; i < space; i++) y[i] = STORE((LOAD(x[i]) - m) * a + b + LOAD(o[i]));
        } else {
            #pragma omp simd
            for (long i = 0; i < space; i++) y[i] = STORE(RELU((LOAD(x[i]) - m) * a + b + LOAD(o[i])));
        }
    }
}

/* u = u * gate + other, rectified where asked: what is left to do with a map when its gate is known */
void F(rescale_rows)(T *u, const T *other, long rows, long space, const T *gate, int relu, int threads)
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
}

/* sum of dy, and of dy * (v - mean), of every row. Where `out` is given, dy counts where out is not <= 0 (the ReLU's
   backward pass); where `kept` is given as well, that dy is written there */
void F(sums_rows)(const T *dy, const T *v, const T *out, T *kept, long rows, long space, const ACC *mean, ACC *s0,
                  ACC *s1, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const T *g = dy + r * space, *x = v + r * space, *o = out + (out ? r * space : 0);
        T *k = kept + (kept ? r * space : 0);
        const ACC m = mean[r];
        double total = 0, product = 0;
        for (long b = 0; b < space; b += BLOCK) {
            long n = space - b < BLOCK ? space - b : BLOCK;
            ACC p = 0, q = 0;
            if (!out) {
                #pragma omp simd reduction(+ : p, q)
                for (long i = b; i < b + n; i++) {
                    ACC d = LOAD(g[i]);
                    p += d;
                    q += d * (LOAD(x[i]) - m);
                }
            } else if (!kept) {
                #pragma omp simd reduction(+ : p, q)
                for (long i = b; i < b + n; i++) {
                    ACC d = LOAD(o[i]) <= 0 ? 0 : LOAD(g[i]);
                    p += d;
                    q += d * (LOAD(x[i]) - m);
                }
            } else {
                #pragma omp simd reduction(+ : p, q)
                for (long i = b; i < b + n; i++) {
                    ACC d = LOAD(o[i]) <= 0 ? 0 : LOAD(g[i]);
                    k[i] = STORE(d);
                    p += d;
                    q += d * (LOAD(x[i]) - m);
                }
            }
            total += p;
            product += q;
        }
        s0[r] = (ACC)total;
        s1[r] = (ACC)product;
    }
}

/* how many positions of every row a ReLU of (v - center) * scale + shift passes, and the sum of v - center over them */
void F(passed_rows)(const T *v, long rows, long space, const ACC *center, const ACC *scale, const ACC *shift, ACC *n0,
                    ACC *n1, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const T *x = v + r * space;
        const ACC m = center[r], a = scale[r], b = shift[r];
        double count = 0, total = 0;
        for (long s = 0; s < space; s += BLOCK) {
            long n = space - s < BLOCK ? space - s : BLOCK;
            ACC p = 0, q = 0;
            #pragma omp simd reduction(+ : p, q)
            for (long i = s; i < s + n; i++) {
                ACC d = LOAD(x[i]) - m;
                ACC one = d * a + b <= 0 ? 0 : 1;
                p += one;
                q += one * d;
            }
            count += p;
            total += q;
        }
        n0[r] = (ACC)count;
        n1[r] = (ACC)total;
    }
}

/* dv = scale * dy + c1 * (v - center) + c0, dy counting where `out` (may be null) is not <= 0, and `extra` added there */
void F(input_rows)(const T *dy, const T *v, const T *out, T *dv, long rows, long space, const ACC *center,
                   const ACC *scale, const ACC *c1, const ACC *c0, const ACC *extra, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const T *g = dy + r * space, *x = v + r * space, *o = out + (out ? r * space : 0);
        T *y = dv + r * space;
        const ACC m = center[r], a = scale[r], b = c1[r], c = c0[r], e = extra[r];
        if (!out) {
            #pragma omp simd
            for (long i = 0; i < space; i++) y[i] = STORE(a * LOAD(g[i]) + (b * (LOAD(x[i]) - m) + c));
        } else {
            #pragma omp simd
            for (long i = 0; i < space; i++) {
                ACC d = LOAD(o[i]) <= 0 ? 0 : a * LOAD(g[i]) + e;
                y[i] = STORE(d + (b * (LOAD(x[i]) - m) + c));
            }
        }
    }
}

/* ---- last: a piece is one of `pieces` equal runs of positions of a sample; its sums go to scratch and are added in order ---- */

#define PIECE(p) \
    const long n = (p) / pieces, from = ((p) % pieces) * space / pieces, to = ((p) % pieces + 1) * space / pieces

static void F(stats_wide)(const T *v, long samples, long space, long channels, long pieces, ACC *scratch, double *mean, double *m2,
                          int threads)
{
    /* scratch: (samples * pieces, 2, channels) sums of deviations from the mean of a sample's first positions */
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

void F(rescale_last)(T *u, const T *other, long samples, long space, long channels, const T *gate, int relu, int threads)
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
}

/* two sums of every map, from those of its pieces, in order */
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

static void F(sums_wide)(const T *dy, const T *v, const T *out, T *kept, long samples, long space, long channels, long pieces,
                  const ACC *mean, ACC *scratch, ACC *s0, ACC *s1, int threads)
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

/* Few channels fill no vector: `fold` positions side by side then count as channels, each with a copy of the
   parameters, and their sums are added at the end. */

static long F(fold)(long space, long channels)
{
    long k = 1;
    while (k * channels < WIDE && space % (2 * k) == 0) k *= 2;
    return k;
}

static ACC *F(folded)(const ACC *x, long samples, long channels, long k)
{
    ACC *y = calloc(samples * channels * k, sizeof(ACC));
    for (long n = 0; n < samples; n++)
        for (long j = 0; j < k; j++) memcpy(y + (n * k + j) * channels, x + n * channels, sizeof(ACC) * channels);
    return y;
}

/* two sums of every channel, from those of its copies */
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

void F(stats_last)(const T *v, long samples, long space, long channels, long pieces, double *mean, double *m2,
                   int threads)
{
    const long k = F(fold)(space, channels), wide = channels * k;
    ACC *scratch = malloc(sizeof(ACC) * samples * pieces * 2 * wide);
    if (k == 1) {
        F(stats_wide)(v, samples, space, channels, pieces, scratch, mean, m2, threads);
    } else {
        double *means = malloc(sizeof(double) * samples * 2 * wide), *m2s = means + samples * wide;
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
        free(means);
    }
    free(scratch);
}

void F(affine_last)(const T *v, const T *other, T *out, long samples, long space, long channels, long pieces,
                    const ACC *center, const ACC *scale, const ACC *shift, int relu, int threads)
{
    const long k = F(fold)(space, channels);
    if (k == 1) {
        F(affine_wide)(v, other, out, samples, space, channels, pieces, center, scale, shift, relu, threads);
        return;
    }
    ACC *m = F(folded)(center, samples, channels, k), *a = F(folded)(scale, samples, channels, k);
    ACC *b = F(folded)(shift, samples, channels, k);
    F(affine_wide)(v, other, out, samples, space / k, channels * k, pieces, m, a, b, relu, threads);
    free(m), free(a), free(b);
}

void F(sums_last)(const T *dy, const T *v, const T *out, T *kept, long samples, long space, long channels, long pieces,
                  const ACC *mean, ACC *s0, ACC *s1, int threads)
{
    const long k = F(fold)(space, channels), wide = channels * k;
    ACC *scratch = malloc(sizeof(ACC) * samples * pieces * 2 * wide);
    if (k == 1) {
        F(sums_wide)(dy, v, out, kept, samples, space, channels, pieces, mean, scratch, s0, s1, threads);
    } else {
        ACC *m = F(folded)(mean, samples, channels, k), *p = malloc(sizeof(ACC) * samples * 2 * wide);
        ACC *q = p + samples * wide;
        F(sums_wide)(dy, v, out, kept, samples, space / k, wide, pieces, m, scratch, p, q, threads);
        F(unfolded)(samples, channels, k, p, q, s0, s1);
        free(m), free(p);
    }
    free(scratch);
}

void F(passed_last)(const T *v, long samples, long space, long channels, long pieces, const ACC *center,
                    const ACC *scale, const ACC *shift, ACC *n0, ACC *n1, int threads)
{
    const long k = F(fold)(space, channels), wide = channels * k;
    ACC *scratch = malloc(sizeof(ACC) * samples * pieces * 2 * wide);
    if (k == 1) {
        F(passed_wide)(v, samples, space, channels, pieces, center, scale, shift, scratch, n0, n1, threads);
    } else {
        ACC *m = F(folded)(center, samples, channels, k), *a = F(folded)(scale, samples, channels, k);
        ACC *b = F(folded)(shift, samples, channels, k), *p = malloc(sizeof(ACC) * samples * 2 * wide);
        F(passed_wide)(v, samples, space / k, wide, pieces, m, a, b, scratch, p, p + samples * wide, threads);
        F(unfolded)(samples, channels, k, p, p + samples * wide, n0, n1);
        free(m), free(a), free(b), free(p);
    }
    free(scratch);
}

void F(input_last)(const T *dy, const T *v, const T *out, T *dv, long samples, long space, long channels, long pieces,
                   const ACC *center, const ACC *scale, const ACC *c1, const ACC *c0, const ACC *extra, int threads)
{
    const long k = F(fold)(space, channels);
    if (k == 1) {
        F(input_wide)(dy, v, out, dv, samples, space, channels, pieces, center, scale, c1, c0, extra, threads);
        return;
    }
    ACC *m = F(folded)(center, samples, channels, k), *a = F(folded)(scale, samples, channels, k);
    ACC *b = F(folded)(c1, samples, channels, k), *e = F(folded)(c0, samples, channels, k);
    ACC *h = F(folded)(extra, samples, channels, k);
    F(input_wide)(dy, v, out, dv, samples, space / k, channels * k, pieces, m, a, b, e, h, threads);
    free(m), free(a), free(b), free(e), free(h);
}
