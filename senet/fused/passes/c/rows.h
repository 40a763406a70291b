/* The passes over contiguous maps: `rows` = N*C of them, of `space` elements each. BLOCK elements at a time are summed
   in ACC, which vectorises, and the blocks in double, which keeps the digits. */

/* The mean and the sum of squared deviations of each row. The row is read twice, the second time from the cache,
   because E[x^2] - E[x]^2 cancels if the mean is many standard deviations. `rest` corrects the rounding of the mean. */
int F(stats_rows)(const T *v, long rows, long space, double *mean, double *m2, int threads)
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
    return 1;
}

/* out = (v - center) * scale + shift [+ other] [ReLU]; other may be null. Each case has a loop of its own, because a
   branch inside the loop would prevent vectorisation. */
int F(affine_rows)(const T *v, const T *other, T *out, long rows, long space, const ACC *center, const ACC *scale,
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
    return 1;
}

/* The sums of dy and of dy * (v - mean) over each row, where dy counts only where a ReLU let the value through: with `out`
   where that is not <= 0, and with `scale` where (v - center) * scale + shift is not; NaN lets it through. With `out` and
   `kept`, that dy is written to `kept`. All of these may be null. */
#define SUM(value, also) { \
    _Pragma("omp simd reduction(+ : p, q)") \
    for (long i = b; i < b + n; i++) { \
        const ACC d = value; \
        also \
        p += d; \
        q += d * (LOAD(x[i]) - m); \
    } \
}
int F(sums_rows)(const T *dy, const T *v, const T *out, T *kept, long rows, long space, const ACC *mean, const ACC *center,
                  const ACC *scale, const ACC *shift, ACC *s0, ACC *s1, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const T *g = dy + r * space, *x = v + r * space, *o = out + (out ? r * space : 0);
        T *k = kept + (kept ? r * space : 0);
        const ACC m = mean[r], near = scale ? center[r] : 0, a = scale ? scale[r] : 0, e = scale ? shift[r] : 0;
        double total = 0, product = 0;
        for (long b = 0; b < space; b += BLOCK) {
            long n = space - b < BLOCK ? space - b : BLOCK;
            ACC p = 0, q = 0;
            if (scale) SUM((LOAD(x[i]) - near) * a + e <= 0 ? 0 : LOAD(g[i]), )
            else if (!out) SUM(LOAD(g[i]), )
            else if (!kept) SUM(LOAD(o[i]) <= 0 ? 0 : LOAD(g[i]), )
            else SUM(LOAD(o[i]) <= 0 ? 0 : LOAD(g[i]), k[i] = STORE(d);)
            total += p;
            product += q;
        }
        s0[r] = (ACC)total;
        s1[r] = (ACC)product;
    }
    return 1;
}
#undef SUM

/* The number of positions of each row that pass a ReLU of (v - center) * scale + shift, and the sum of v - center over
   them. */
int F(passed_rows)(const T *v, long rows, long space, const ACC *center, const ACC *scale, const ACC *shift, ACC *n0,
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
    return 1;
}

/* dv = scale * dy + c1 * (v - center) + c0. The first term is 0 where a ReLU let nothing through: with `out` where that is
   <= 0, and with `gain` where (v - center) * gain + shift is; there, it is scale * dy + extra elsewhere. `out` and the last
   three may be null. */
int F(input_rows)(const T *dy, const T *v, const T *out, T *dv, long rows, long space, const ACC *center, const ACC *scale,
                   const ACC *c1, const ACC *c0, const ACC *gain, const ACC *shift, const ACC *extra, int threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const T *g = dy + r * space, *x = v + r * space, *o = out + (out ? r * space : 0);
        T *y = dv + r * space;
        const ACC m = center[r], a = scale[r], b = c1[r], c = c0[r];
        if (gain) {
            const ACC k = gain[r], e = shift[r], h = extra[r];
            #pragma omp simd
            for (long i = 0; i < space; i++) {
                const ACC d = LOAD(x[i]) - m;
                y[i] = STORE((d * k + e <= 0 ? 0 : a * LOAD(g[i]) + h) + (b * d + c));
            }
        } else if (!out) {
            #pragma omp simd
            for (long i = 0; i < space; i++) y[i] = STORE(a * LOAD(g[i]) + (b * (LOAD(x[i]) - m) + c));
        } else {
            #pragma omp simd
            for (long i = 0; i < space; i++) {
                const ACC d = LOAD(o[i]) <= 0 ? 0 : a * LOAD(g[i]);
                y[i] = STORE(d + (b * (LOAD(x[i]) - m) + c));
            }
        }
    }
    return 1;
}
