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

/* The means of `width` adjacent channels of a map of `channels`, channels last. It is inlined, so that a constant width
   becomes a vector loop without a remainder. */
static inline __attribute__((always_inline)) void F(means_of_columns)(const T *x, long space, long channels, long width,
                                                                      float least, float *mean)
{
    double total[WIDE] = {0};
    for (long f = 0; f < space; f += RUN) {
        const long t = space - f < RUN ? space : f + RUN;
        float s[WIDE] = {0};
        for (long i = f; i < t; i++) {
            #pragma omp simd
            for (long c = 0; c < width; c++) s[c] += AT_LEAST(LOAD(x[i * channels + c]));
        }
        for (long c = 0; c < width; c++) total[c] += s[c];
    }
    for (long c = 0; c < width; c++) mean[c] = (float)(total[c] / space);
}

/* The share of channels that a thread averages at a time where they lie side by side. */
static long F(piece_of)(long samples, long channels, int threads)
{
    const long piece = (samples * channels + threads - 1) / threads;
    return piece < LINE ? LINE : piece > WIDE ? WIDE : (piece + LINE - 1) / LINE * LINE;
}

/* mean (samples, channels) of h, shared among the threads of the region that calls it. */
static void F(means)(const T *h, long samples, long channels, long space, int last, float least, float *mean, long piece)
{
    if (!last) {
        #pragma omp for schedule(static)
        for (long r = 0; r < samples * channels; r++) mean[r] = F(mean_of_row)(h + r * space, space, least);
        return;
    }
    const long pieces = (channels + piece - 1) / piece;
    #pragma omp for schedule(static)
    for (long p = 0; p < samples * pieces; p++) {
        const long n = p / pieces, c = p % pieces * piece, w = channels - c < piece ? channels - c : piece;
        const T *x = h + n * space * channels + c;
        float *m = mean + n * channels + c;
        if (w == WIDE) F(means_of_columns)(x, space, channels, WIDE, least, m);
        else if (w == WIDE / 2) F(means_of_columns)(x, space, channels, WIDE / 2, least, m);
        else if (w == LINE) F(means_of_columns)(x, space, channels, LINE, least, m);
        else F(means_of_columns)(x, space, channels, w, least, m);
    }
}

/* The means (samples, channels) of h (samples, channels, space), or with `last` (samples, space, channels). With `relu`,
   h is rectified before it is averaged. */
int F(squeeze)(const T *h, long samples, long channels, long space, int last, int relu, float *mean, int threads)
{
    if (samples * channels * space < SMALL) threads = 1;
    const long piece = F(piece_of)(samples, channels, threads);
    #pragma omp parallel num_threads(threads) if (threads > 1)
    F(means)(h, samples, channels, space, last, relu ? 0 : -INFINITY, mean, piece);
    return 1;
}
#undef AT_LEAST
