/* Vectors of LANES numbers of one type, and sums of products over many rows at once. */

typedef REAL NAME(vec) __attribute__((vector_size(BYTES)));
typedef WHOLE NAME(flags) __attribute__((vector_size(BYTES)));
#define vec NAME(vec)
#define flags NAME(flags)

INLINE vec *NAME(vectors)(int64_t count) { return aligned_alloc(BYTES, count * BYTES); }

/* x where the flag is set (all bits), else 0 */
INLINE vec NAME(only)(flags where, vec x) { return (vec)(where & (flags)x); }
INLINE vec NAME(pick)(flags where, vec x, vec y) { return (vec)((where & (flags)x) | (~where & (flags)y)); }
INLINE vec NAME(all)(REAL x) { return x - (vec){0}; }

INLINE flags NAME(lanes)(void)
{
    flags x;
    for (int i = 0; i < LANES; i++) x[i] = i;
    return x;
}

/* The numbers of x (0, 1, ...) and y (LANES, ...) at these places. */
INLINE vec NAME(shuffled)(vec x, vec y, flags places)
{
#ifdef __clang__
    vec out;
    for (int i = 0; i < LANES; i++) out[i] = places[i] < LANES ? x[places[i]] : y[places[i] - LANES];
    return out;
#else
    return __builtin_shuffle(x, y, places);
#endif
}

#define EACH_HALF(what) what(8) what(4) what(2) what(1)

INLINE REAL NAME(total)(vec x)
{
    const flags lane = NAME(lanes)();
#define ADD_HALF(d) if (d < LANES) x += NAME(shuffled)(x, x, lane ^ d);
    EACH_HALF(ADD_HALF)
    return x[0];
}

/* e^x, in floats up to x = 87; 0 below LEAST, which is nothing beside 1: products with it could be denormal numbers, and these take a
   CPU very long */
#define LEAST (sizeof(REAL) == 4 ? -40 : -80)
INLINE vec NAME(exponential)(vec x)
{
    vec y;
    if (sizeof(REAL) == 8) {
        for (int i = 0; i < LANES; i++) y[i] = exp(x[i]);
        return NAME(only)(~(x < NAME(all)(LEAST)), y);
    }
    /* 2^n e^r with |r| <= ln 2 / 2, e^r by its series */
    const flags counts = ~(x < NAME(all)(LEAST)); /* what is no number stays so */
    x = NAME(pick)(x > NAME(all)(87), NAME(all)(87), NAME(pick)(counts, x, NAME(all)(LEAST)));
    vec scaled = x * (REAL)1.44269504 + (REAL)12582912, n = scaled - (REAL)12582912; /* rounds to a whole number */
    n = NAME(pick)(n == n, n, (vec){0});
    vec r = (x - n * (REAL)0.693359375) - n * (REAL)-2.12194440e-4;
    y = ((((r * (REAL)(1.0 / 720) + (REAL)(1.0 / 120)) * r + (REAL)(1.0 / 24)) * r + (REAL)(1.0 / 6)) * r + (REAL)0.5);
    y = (y * r + 1) * r + 1;
    return NAME(only)(counts, (vec)((flags)y + __builtin_convertvector(n, flags) * ((WHOLE)1 << 23)));
}

/* out[j] = sum over k of row j's numbers times by_k[k] */
INLINE void NAME(products)(const REAL *const *rows, int64_t count, const vec *by_k, int64_t K, vec *out)
{
    int64_t j = 0;
    for (; j + 8 <= count; j += 8) {
        const REAL *const *r = rows + j;
        const REAL *a = r[0], *b = r[1], *c = r[2], *d = r[3], *e = r[4], *f = r[5], *g = r[6], *h = r[7];
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
        for (int64_t k = 0; k < K; k++) {
            vec x = by_k[k];
            s0 += x * a[k]; s1 += x * b[k]; s2 += x * c[k]; s3 += x * d[k];
            s4 += x * e[k]; s5 += x * f[k]; s6 += x * g[k]; s7 += x * h[k];
        }
        out[j] = s0; out[j + 1] = s1; out[j + 2] = s2; out[j + 3] = s3;
        out[j + 4] = s4; out[j + 5] = s5; out[j + 6] = s6; out[j + 7] = s7;
    }
    for (; j + 2 <= count; j += 2) {
        const REAL *a = rows[j], *b = rows[j + 1];
        vec s0 = {0}, s1 = {0};
        for (int64_t k = 0; k < K; k++) {
            s0 += by_k[k] * a[k];
            s1 += by_k[k] * b[k];
        }
        out[j] = s0; out[j + 1] = s1;
    }
    for (; j < count; j++) {
        vec s = {0};
        for (int64_t k = 0; k < K; k++) s += by_k[k] * rows[j][k];
        out[j] = s;
    }
}

/* out[k] = sum over j of row j's number k times by_j[j] */
INLINE void NAME(mixture)(const REAL *const *rows, int64_t count, const vec *by_j, int64_t K, vec *out)
{
    int64_t k = 0;
    for (; k + 8 <= K; k += 8) {
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
        for (int64_t j = 0; j < count; j++) {
            const REAL *a = rows[j] + k;
            vec w = by_j[j];
            s0 += w * a[0]; s1 += w * a[1]; s2 += w * a[2]; s3 += w * a[3];
            s4 += w * a[4]; s5 += w * a[5]; s6 += w * a[6]; s7 += w * a[7];
        }
        out[k] = s0; out[k + 1] = s1; out[k + 2] = s2; out[k + 3] = s3;
        out[k + 4] = s4; out[k + 5] = s5; out[k + 6] = s6; out[k + 7] = s7;
    }
    for (; k < K; k++) {
        vec s = {0};
        for (int64_t j = 0; j < count; j++) s += by_j[j] * rows[j][k];
        out[k] = s;
    }
}

/* The first n numbers. */
INLINE void NAME(add_to)(REAL *to, vec x, int64_t n)
{
    if (n == LANES) {
        vec y;
        memcpy(&y, to, sizeof y);
        y += x;
        memcpy(to, &y, sizeof y);
    } else
        for (int64_t k = 0; k < n; k++) to[k] += x[k];
}

/* into[j][k] += sum over the steps t of by_j[j][t] times by_t[t][k], K numbers in WIDE(K) vectors a step */
#define WIDE(K) (((K) + LANES - 1) / LANES)
INLINE void NAME(accumulate)(REAL *const *into, int64_t count, const vec *by_j, const vec *by_t, int64_t K)
{
    const int64_t wide = WIDE(K);
    const REAL *all = (const REAL *)by_j;
    for (int64_t w = 0; w < wide; w++) {
        const int64_t n = K - w * LANES < LANES ? K - w * LANES : LANES;
        REAL *const *to = into;
        int64_t j = 0;
        for (; j + 8 <= count; j += 8, to += 8) {
            const REAL *a = all + j * LANES;
            vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
            for (int64_t t = 0; t < LANES; t++, a++) {
                vec x = by_t[t * wide + w];
                s0 += x * a[0]; s1 += x * a[LANES]; s2 += x * a[2 * LANES]; s3 += x * a[3 * LANES];
                s4 += x * a[4 * LANES]; s5 += x * a[5 * LANES]; s6 += x * a[6 * LANES]; s7 += x * a[7 * LANES];
            }
            NAME(add_to)(to[0] + w * LANES, s0, n); NAME(add_to)(to[1] + w * LANES, s1, n);
            NAME(add_to)(to[2] + w * LANES, s2, n); NAME(add_to)(to[3] + w * LANES, s3, n);
            NAME(add_to)(to[4] + w * LANES, s4, n); NAME(add_to)(to[5] + w * LANES, s5, n);
            NAME(add_to)(to[6] + w * LANES, s6, n); NAME(add_to)(to[7] + w * LANES, s7, n);
        }
        for (; j < count; j++, to++) {
            vec s0 = {0}, s1 = {0};
            for (int64_t t = 0; t < LANES; t += 2) {
                s0 += by_t[t * wide + w] * all[j * LANES + t];
                s1 += by_t[(t + 1) * wide + w] * all[j * LANES + t + 1];
            }
            NAME(add_to)(*to + w * LANES, s0 + s1, n);
        }
    }
}

/* Swap the rows and columns of a square of numbers: halves, then quarters, ... */
INLINE void NAME(transpose)(vec *x)
{
    const flags lane = NAME(lanes)();
#define SWAP_HALVES(d) \
    if (d < LANES) { \
        const flags second = (lane & d) != 0; \
        for (int i = 0; i < LANES; i++) \
            if (!(i & d)) { \
                const vec low = x[i], high = x[i + d]; \
                x[i] = NAME(shuffled)(low, high, lane + (second & (LANES - d))); \
                x[i + d] = NAME(shuffled)(low, high, lane + (second & LANES) + (~second & d)); \
            } \
    }
    EACH_HALF(SWAP_HALVES)
}

/* Steps [t][stride] as vectors over the steps, and back. */
INLINE void NAME(turn)(const REAL *from, int64_t stride, int64_t steps, int64_t K, vec *by_k)
{
    int64_t k = 0;
    for (; k + LANES <= K; k += LANES) {
        vec *x = by_k + k;
        for (int64_t t = 0; t < steps; t++) memcpy(x + t, from + t * stride + k, sizeof(vec));
        for (int64_t t = steps; t < LANES; t++) x[t] = (vec){0};
        NAME(transpose)(x);
    }
    for (; k < K; k++) {
        by_k[k] = (vec){0};
        for (int64_t t = 0; t < steps; t++) by_k[k][t] = from[t * stride + k];
    }
}

INLINE void NAME(turn_back)(const vec *by_k, int64_t steps, int64_t K, REAL *to, int64_t stride)
{
    int64_t k = 0;
    for (; k + LANES <= K; k += LANES) {
        vec x[LANES];
        memcpy(x, by_k + k, sizeof x);
        NAME(transpose)(x);
        for (int64_t t = 0; t < steps; t++) memcpy(to + t * stride + k, x + t, sizeof(vec));
    }
    for (; k < K; k++)
        for (int64_t t = 0; t < steps; t++) to[t * stride + k] = by_k[k][t];
}

/* Steps [t][stride] as vectors over the numbers, WIDE(K) of them a step. */
INLINE void NAME(copy_steps)(const REAL *from, int64_t stride, int64_t steps, int64_t K, vec *by_t)
{
    if (K % LANES || steps < LANES) memset(by_t, 0, LANES * WIDE(K) * sizeof(vec));
    for (int64_t t = 0; t < steps; t++) memcpy(by_t + t * WIDE(K), from + t * stride, K * sizeof(REAL));
}
