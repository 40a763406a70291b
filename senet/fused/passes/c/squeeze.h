/* In inference: the squeeze, for each element type. It can rectify what it reads, and then the map need not be rectified
   first: `least` is 0, else -INFINITY. NaN stays NaN. */

#define AT_LEAST(x) ((x) < least ? least : (x))

static float F(mean_of_row)(const T *x, long space, float least)
{
    double total = 0;
    for (long b = 0; b < space; b += BLOCK) {
        const long n = space - b < BLOCK ? space - b : BLOCK;
        float s = 0;
        #pragma omp simd reduction(+ : s)
        for (long i = 0; i < n; i++) s += AT_LEAST(LOAD(x[b + i]));
        total += s;
    }
    return (float)(total / space);
}

/* The sums over `space` positions of `width` adjacent channels of a map of `channels`, channels last. It is inlined, so
   that a constant width becomes a vector loop without a remainder. */
static inline __attribute__((always_inline)) void F(sums_of_columns)(const T *x, long space, long channels, long width,
                                                                     float least, double *total)
{
    for (long c = 0; c < width; c++) total[c] = 0;
    for (long f = 0; f < space; f += RUN) {
        const long t = space - f < RUN ? space : f + RUN;
        float s[WIDE] = {0};
        for (long i = f; i < t; i++) {
            #pragma omp simd
            for (long c = 0; c < width; c++) s[c] += AT_LEAST(LOAD(x[i * channels + c]));
        }
        for (long c = 0; c < width; c++) total[c] += s[c];
    }
}

/* The parts into which the positions of a map are shared among threads, channels last. Threads that shared a few channels
   would each load whole lines, and half of what the other needs. */
static long F(parts_of)(long samples, long channels, long space, int threads)
{
    const long parts = samples * channels < WIDE * threads ? (threads + samples - 1) / samples : 1;
    return parts < space ? parts : space;
}

/* mean (samples, channels) of h, shared among the threads of the region that calls it. `sums` (samples, parts, channels)
   is scratch for channels last. */
static void F(means)(const T *h, long samples, long channels, long space, int last, float least, float *mean, long parts,
                     double *sums)
{
    if (!last) {
        #pragma omp for schedule(static)
        for (long r = 0; r < samples * channels; r++) mean[r] = F(mean_of_row)(h + r * space, space, least);
        return;
    }
    const long pieces = (channels + WIDE - 1) / WIDE;
    #pragma omp for schedule(static)
    for (long p = 0; p < samples * parts * pieces; p++) {
        const long c = p % pieces * WIDE, w = channels - c < WIDE ? channels - c : WIDE, part = p / pieces % parts;
        const long n = p / pieces / parts, from = part * space / parts, many = (part + 1) * space / parts - from;
        const T *x = h + (n * space + from) * channels + c;
        double *s = sums + (n * parts + part) * channels + c;
        if (w == WIDE) F(sums_of_columns)(x, many, channels, WIDE, least, s);
        else if (w == WIDE / 2) F(sums_of_columns)(x, many, channels, WIDE / 2, least, s);
        else if (w == LINE) F(sums_of_columns)(x, many, channels, LINE, least, s);
        else F(sums_of_columns)(x, many, channels, w, least, s);
    }
    #pragma omp for schedule(static)
    for (long n = 0; n < samples; n++)
        for (long c = 0; c < channels; c++) {
            double total = 0;
            for (long part = 0; part < parts; part++) total += sums[(n * parts + part) * channels + c];
            mean[n * channels + c] = (float)(total / space);
        }
}

/* The means (samples, channels) of h (samples, channels, space), or with `last` (samples, space, channels). With `relu`,
   h is rectified before it is averaged. Returns 1, or 0 if it got no memory. */
int F(squeeze)(const T *h, long samples, long channels, long space, int last, int relu, float *mean, int threads)
{
    if (samples * channels * space < SMALL) threads = 1;
    const long parts = F(parts_of)(samples, channels, space, threads);
    double *sums = last ? ALLOCATE(sizeof(double) * samples * parts * channels) : NULL;
    if (last && !sums) return 0;
    #pragma omp parallel num_threads(threads) if (threads > 1)
    F(means)(h, samples, channels, space, last, relu ? 0 : -INFINITY, mean, parts, sums);
    free(sums);
    return 1;
}
#undef AT_LEAST
