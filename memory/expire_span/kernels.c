/* A layer of the Expire-Span core on a CPU: over a segment, with its gradient, and at a step.  compiled.py calls it.

   What attention.py does with operations on all pairs of a step and a memory, this does for the pairs that can see each
   other, with the rest of the layer around it.  A vector holds LANES steps of a segment, or environments, or numbers of
   one head; such a block goes through the whole layer at once, so that nothing is far away when it is needed.

   The file includes itself once for each type of number.  Arrays are contiguous, the last index runs fastest.  B rows, T
   steps, S = S0 + T memories (those stored, then the new ones), H heads of K numbers, D = H K, F the hidden width of the
   feed-forward half.  What a step reads are R = D + H numbers: the averages of all heads, then the count of each. */

#ifndef REAL

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES ((int)(BYTES / sizeof(REAL)))

#define INLINE static inline __attribute__((always_inline))

/* compiled.py takes no library of another number than its own: raise both with every change of what is called. */
int kernels_version(void) { return 5; }

#define REAL float
#define WHOLE int32_t
#define NAME(name) name##_float
#define NUMBER(kind) kind##_float
#include "kernels.c"
#undef REAL
#undef WHOLE
#undef NAME
#undef NUMBER

#define REAL double
#define WHOLE int64_t
#define NAME(name) name##_double
#define NUMBER(kind) kind##_double
#include "kernels.c"

#else

typedef REAL NUMBER(vec) __attribute__((vector_size(BYTES)));
typedef WHOLE NUMBER(flags) __attribute__((vector_size(BYTES)));
#define vec NUMBER(vec)
#define flags NUMBER(flags)

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
    x = NAME(pick)(x > NAME(all)(87), NAME(all)(87), x);
    vec scaled = x * (REAL)1.44269504 + (REAL)12582912, n = scaled - (REAL)12582912; /* rounds to a whole number */
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

/* Vectors over the steps as vectors over the numbers, WIDE(K) of them a step; and the same from the steps themselves. */
INLINE void NAME(by_step)(const vec *by_k, int64_t K, vec *by_t)
{
    if (K % LANES) memset(by_t, 0, LANES * WIDE(K) * sizeof(vec));
    NAME(turn_back)(by_k, LANES, K, (REAL *)by_t, WIDE(K) * LANES);
}

INLINE void NAME(copy_steps)(const REAL *from, int64_t stride, int64_t steps, int64_t K, vec *by_t)
{
    if (K % LANES || steps < LANES) memset(by_t, 0, LANES * WIDE(K) * sizeof(vec));
    for (int64_t t = 0; t < steps; t++) memcpy(by_t + t * WIDE(K), from + t * stride, K * sizeof(REAL));
}

/* A layer: its shape, and its weights as torch holds them, [out][in], or their gradients. */
typedef struct {
    int64_t D, H, F, M;               /* F: hidden width of the feed-forward half; M: ages that have a position key */
    int64_t pre_norm;
    int64_t places, newest;           /* of the capacity; places < 0 for no bound */
    double ramp, max_span, longest, pre_div, epsilon;
    REAL *norm, *norm_bias, *rows, *rows_bias, *span, *span_bias, *out, *out_bias;
    REAL *norm2, *norm2_bias, *up, *up_bias, *down, *down_bias;
    REAL *position;                   /* [H][K][M]: a key of each age; none where M is 0 */
    REAL *age_bias;                   /* [H][M + 1]: what each age adds to a score, the last to all from M on; none as well */
} NUMBER(Layer);
#define Layer NUMBER(Layer)

/* A linear map of LANES rows at once: out[o] = weight[o] . in + bias[o] */
INLINE void NAME(linear)(const REAL *weight, const REAL *bias, int64_t outs, int64_t ins, const vec *in, const REAL **rows, vec *out)
{
    for (int64_t o = 0; o < outs; o++) rows[o] = weight + o * ins;
    NAME(products)(rows, outs, in, ins, out);
    for (int64_t o = 0; o < outs; o++) out[o] += bias[o];
}

/* Its gradient: grad_in = weight^T grad_out, and that of the weights added up; `totals` are the biases' by lane. */
INLINE void NAME(linear_back)(
    const REAL *weight, REAL *grad_weight, int64_t outs, int64_t ins, const vec *in_by_t, const vec *grad_out,
    const REAL **rows, REAL **into, vec *totals, vec *grad_in)
{
    for (int64_t o = 0; o < outs; o++) {
        rows[o] = weight + o * ins;
        into[o] = grad_weight + o * ins;
        totals[o] += grad_out[o];
    }
    NAME(mixture)(rows, outs, grad_out, ins, grad_in);
    NAME(accumulate)(into, outs, grad_out, in_by_t, ins);
}

INLINE void NAME(moments)(const vec *in, int64_t D, double epsilon, vec *mean, vec *inverse)
{
    vec sum = {0}, squares = {0};
    for (int64_t k = 0; k < D; k++) sum += in[k];
    sum /= (REAL)D;
    for (int64_t k = 0; k < D; k++) squares += (in[k] - sum) * (in[k] - sum);
    squares = squares / (REAL)D + (REAL)epsilon;
    for (int i = 0; i < LANES; i++) squares[i] = (REAL)sqrt(squares[i]);
    *mean = sum;
    *inverse = 1 / squares;
}

INLINE void NAME(normalise)(const REAL *gain, const REAL *bias, double epsilon, int64_t D, const vec *in, vec *out)
{
    vec mean, inverse;
    NAME(moments)(in, D, epsilon, &mean, &inverse);
    for (int64_t k = 0; k < D; k++) out[k] = (in[k] - mean) * inverse * gain[k] + bias[k];
}

/* Its gradient, in place: `grad` comes as that of the output; `totals` are the gains' and the biases' by lane. */
INLINE void NAME(normalise_back)(const REAL *gain, double epsilon, int64_t D, const vec *in, vec *grad, vec *totals)
{
    vec mean, inverse, sum = {0}, along = {0};
    NAME(moments)(in, D, epsilon, &mean, &inverse);
    for (int64_t k = 0; k < D; k++) {
        vec x = (in[k] - mean) * inverse;
        totals[k] += grad[k] * x;
        totals[D + k] += grad[k];
        grad[k] *= gain[k];
        sum += grad[k];
        along += grad[k] * x;
    }
    sum /= (REAL)D;
    along /= (REAL)D;
    for (int64_t k = 0; k < D; k++) grad[k] = (grad[k] - sum - (in[k] - mean) * inverse * along) * inverse;
}

INLINE vec NAME(spans)(const Layer *w, const vec *hidden)
{
    vec logit = {0};
    for (int64_t k = 0; k < w->D; k++) logit += hidden[k] * w->span[k];
    logit = logit / (REAL)w->pre_div + *w->span_bias;
    vec span = (REAL)w->max_span / (1 + NAME(exponential)(-logit));
    return NAME(pick)(span > NAME(all)(w->longest), NAME(all)(w->longest), span);
}

/* A segment: its steps, and the memories that they may see. */
typedef struct {
    int64_t B, T, S0;
    double longest;                   /* to which random shortening clamps the spans */
    const REAL *x;                    /* [B][T][D]: what the layer is given */
    const REAL *rows;                 /* [B][T][3][H][K]: query, key and value of each step */
    const REAL *stored;               /* [B][S0][2][H][K]: key and value of each stored memory */
    const REAL *span;                 /* [B][S]: as they were predicted */
    const int64_t *written;           /* [B][S]: step of the segment that wrote each memory, negative for stored ones */
    const uint8_t *live;              /* [B][S] */
    const int64_t *since;             /* [B][T]: what was written earlier belongs to an earlier episode */
    const uint8_t *gone;              /* [B][T + 1][S]: pushed out by the capacity before the segment and after each step; or none */
} NUMBER(Segment);
#define Segment NUMBER(Segment)

/* The memories that some step of a block sees, and how visible each is to each step. */
typedef struct {
    int64_t count;
    int64_t *slot;
    const REAL **key;                 /* head 0; head h is h * K further, and the value D */
    const REAL **row;                 /* of the present head */
    vec *mask;
    vec *weight, *grad;               /* scratch of one head */
    flags *using;
    REAL *ages, *grad_ages;           /* [H][K + 1][AGES]: position keys and bias of the ages from -LANES on; none */
} NUMBER(Block);
#define Block NUMBER(Block)

#define AGES(w) ((w)->M + 2 * LANES)

INLINE int NAME(make_block)(const Layer *w, Block *block, int64_t S)
{
    const int64_t K = w->D / w->H, wide = AGES(w), size = w->position ? w->H * (K + 1) * wide : 0;
    block->slot = malloc(S * sizeof(int64_t));
    block->key = malloc(S * sizeof(REAL *));
    block->row = malloc(S * sizeof(REAL *));
    block->mask = NAME(vectors)(S);
    block->weight = NAME(vectors)(S);
    block->grad = NAME(vectors)(S);
    block->using = (flags *)NAME(vectors)(S);
    block->ages = size ? calloc(2 * size, sizeof(REAL)) : NULL;
    block->grad_ages = block->ages + size;
    if (!block->slot || !block->key || !block->row || !block->mask || !block->weight || !block->grad || !block->using) return 0;
    if (!size) return 1;
    if (!block->ages) return 0;
    for (int64_t h = 0; h < w->H; h++) {
        REAL *to = block->ages + h * (K + 1) * wide + LANES;
        for (int64_t k = 0; k < K; k++, to += wide) memcpy(to, w->position + (h * K + k) * w->M, w->M * sizeof(REAL));
        const REAL *bias = w->age_bias + h * (w->M + 1);
        memcpy(to, bias, w->M * sizeof(REAL));
        for (int i = 0; i < LANES; i++) to[w->M + i] = bias[w->M];
    }
    return 1;
}

/* Add the gradients that have come together in `grad_ages`. */
INLINE void NAME(add_ages)(const Layer *w, const Block *block, const Layer *into)
{
    const int64_t K = w->D / w->H, wide = AGES(w);
    for (int64_t h = 0; h < w->H; h++) {
        const REAL *from = block->grad_ages + h * (K + 1) * wide + LANES;
        for (int64_t k = 0; k < K; k++, from += wide)
            for (int64_t age = 0; age < w->M; age++) into->position[(h * K + k) * w->M + age] += from[age];
        REAL *bias = into->age_bias + h * (w->M + 1);
        for (int64_t age = 0; age < w->M + LANES; age++) bias[age < w->M ? age : w->M] += from[age];
    }
}

INLINE void NAME(free_block)(Block *block)
{
    free(block->slot); free(block->key); free(block->row);
    free(block->mask); free(block->weight); free(block->grad); free(block->using); free(block->ages);
}

/* Find what the steps from `first` on see, and how well. */
INLINE void NAME(look)(const Layer *w, const Segment *g, int64_t b, int64_t first, Block *block)
{
    const int64_t S = g->S0 + g->T, D = w->D;
    const int64_t last = first + LANES < g->T ? first + LANES - 1 : g->T - 1;
    const REAL inverse = 1 / w->ramp, longest = g->longest;
    const vec lane = __builtin_convertvector(NAME(lanes)(), vec);
    vec since;
    for (int i = 0; i < LANES; i++) since[i] = first + i <= last ? (REAL)g->since[b * g->T + first + i] : (REAL)INFINITY;
    block->count = 0;
    for (int64_t s = 0; s < S; s++) {
        const int64_t written = g->written[b * S + s];
        if (!g->live[b * S + s] || written > last) continue;
        const REAL predicted = g->span[b * S + s], span = predicted > longest ? longest : predicted;
        const REAL age = (REAL)(first - written);
        if ((span - (age > 0 ? age : 0)) * inverse + 1 <= 0) continue;
        vec ages = lane + age, mask = (span - ages) * inverse + 1;
        mask = NAME(pick)(mask > 1, NAME(all)(1), mask);
        flags visible = (ages >= 0) & (since <= (REAL)written) & (mask > 0);
        if (g->gone) {
            const uint8_t *gone = g->gone + (b * (g->T + 1) + first) * S + s;
            for (int i = 0; i <= last - first; i++)
                if (gone[i * S]) visible[i] = 0;
        }
        mask = NAME(only)(visible, mask);
        WHOLE any = 0;
        for (int i = 0; i < LANES; i++) any |= visible[i];
        if (!any) continue;
        block->slot[block->count] = s;
        block->mask[block->count] = mask;
        block->key[block->count++] = s < g->S0 ? g->stored + (b * g->S0 + s) * 2 * D
                                               : g->rows + (b * g->T + s - g->S0) * 3 * D + D;
    }
}

/* Scores of the block's memories for head h in block->weight. */
INLINE void NAME(score)(const Layer *w, const Segment *g, int64_t b, int64_t h, int64_t first, const vec *query, Block *block)
{
    const int64_t K = w->D / w->H;
    const REAL scale = 1 / sqrt((double)K);
    for (int64_t j = 0; j < block->count; j++) block->row[j] = block->key[j] + h * K;
    NAME(products)(block->row, block->count, query, K, block->weight);
    for (int64_t j = 0; j < block->count; j++) {
        if (w->position) {
            const int64_t age = first - g->written[b * (g->S0 + g->T) + block->slot[j]];
            const REAL *key = block->ages + h * (K + 1) * AGES(w) + LANES + (age < w->M ? age : w->M);
            vec bias;
            for (int64_t k = 0; age < w->M && k < K; k++) {
                vec keys;
                memcpy(&keys, key + k * AGES(w), sizeof keys);
                block->weight[j] += query[k] * keys;
            }
            memcpy(&bias, key + K * AGES(w), sizeof bias);
            block->weight[j] = block->weight[j] * scale + bias;
        } else {
            block->weight[j] *= scale;
        }
    }
}

/* A count is this times log sum exp(scores): COUNT_STEP of attention.py. */
#define COUNT_STEP 4

/* By block: the half's input before the norm, what stands before the ReLU, and its output before the norm. */
#define SAVED (2 * w->D + w->F)

/* The feed-forward half, with what its gradient needs: `given` is its input, `raised` what stands before the ReLU. */
INLINE void NAME(feed_forward)(const Layer *w, const vec *attended, const REAL **rows, vec *given, vec *raised, vec *risen, vec *y)
{
    const int64_t D = w->D;
    if (w->pre_norm) NAME(normalise)(w->norm2, w->norm2_bias, w->epsilon, D, attended, given);
    else NAME(normalise)(w->norm, w->norm_bias, w->epsilon, D, attended, given);
    NAME(linear)(w->up, w->up_bias, w->F, D, given, rows, raised);
    for (int64_t k = 0; k < w->F; k++) risen[k] = NAME(only)(raised[k] > 0, raised[k]);
    NAME(linear)(w->down, w->down_bias, D, w->F, risen, rows, y);
    for (int64_t k = 0; k < D; k++) y[k] += w->pre_norm ? attended[k] : given[k];
}

/* Query, key and value of every step, what they are made from (the input after the norm, where that comes first), and the
   spans. */
int NAME(project)(const Layer *w, int64_t steps, const REAL *x, REAL *inner, REAL *rows, REAL *span)
{
    const int64_t D = w->D;
    vec *in = NAME(vectors)(5 * D);
    const REAL **pointers = malloc(3 * D * sizeof(REAL *));
    const int fine = in && pointers;
    vec *h = in + D, *out = h + D;
    for (int64_t t = 0; fine && t < steps; t += LANES) {
        const int64_t n = steps - t < LANES ? steps - t : LANES;
        NAME(turn)(x + t * D, D, n, D, in);
        if (w->pre_norm) NAME(normalise)(w->norm, w->norm_bias, w->epsilon, D, in, h);
        else memcpy(h, in, D * sizeof(vec));
        NAME(linear)(w->rows, w->rows_bias, 3 * D, D, h, pointers, out);
        NAME(turn_back)(h, n, D, inner + t * D, D);
        NAME(turn_back)(out, n, 3 * D, rows + t * 3 * D, 3 * D);
        vec spans = NAME(spans)(w, h);
        memcpy(span + t, &spans, n * sizeof(REAL));
    }
    free(in);
    free(pointers);
    return fine;
}

/* What the steps of a segment read, and the layer's output. */
int NAME(attend)(
    const Layer *w,
    const Segment *g,
    REAL *y,             /* [B][T][D] */
    REAL *read,          /* [B][T][R] */
    vec *saved,          /* [B][blocks of T][SAVED]: what the gradient needs of the feed-forward half */
    REAL *peak,          /* [B][H][T]: largest score, and 1 over the sum of the weights before they are shares */
    REAL *inverse_sum,
    REAL *seen,          /* [B][S]: at how many steps each memory was live, and on its ramp; zeros at first */
    REAL *on_ramp,
    uint8_t *used,       /* [B][S]: in use at some step (attention.py), and at how many steps late; zeros at first */
    int64_t *late,
    int64_t *live_count, /* [B][T] */
    int64_t *pushed_out) /* [B][T]: the step that wrote the memory which the capacity pushed out; hugely negative at first */
{
    const int64_t S = g->S0 + g->T, D = w->D, H = w->H, K = D / H, R = D + H, most = w->F > D ? w->F : D;
    const vec lane = __builtin_convertvector(NAME(lanes)(), vec);
    Block block;
    vec *vectors = NAME(vectors)(3 * D + R + w->F);
    const REAL **rows = malloc(most * sizeof(REAL *));
    const int fine = NAME(make_block)(w, &block, S) & (vectors && rows);
    vec *query = vectors, *mixed = query + D, *in = mixed + R, *given = in + D, *risen = given + D;
    for (int64_t b = 0; fine && b < g->B; b++) {
        for (int64_t first = 0; first < g->T; first += LANES) {
            const int64_t steps = first + LANES < g->T ? LANES : g->T - first, at = b * g->T + first;
            NAME(look)(w, g, b, first, &block);
            memset(block.using, 0, block.count * sizeof(vec));
            NAME(turn)(g->rows + at * 3 * D, 3 * D, steps, D, query);
            for (int64_t h = 0; h < H; h++) {
                NAME(score)(w, g, b, h, first, query + h * K, &block);
                vec highest = NAME(all)(-INFINITY), sum = {0};
                for (int64_t j = 0; j < block.count; j++) {
                    vec x = NAME(pick)(block.mask[j] > 0, block.weight[j], NAME(all)(-INFINITY));
                    highest = NAME(pick)(x > highest, x, highest);
                }
                highest = NAME(pick)(highest > NAME(all)(-INFINITY), highest, (vec){0});
                for (int64_t j = 0; j < block.count; j++) {
                    vec x = NAME(pick)(block.mask[j] > 0, block.weight[j] - highest, NAME(all)(-100));
                    block.weight[j] = block.mask[j] * NAME(exponential)(x);
                    sum += block.weight[j];
                }
                vec inverse = 1 / NAME(pick)(sum > 0, sum, NAME(all)(1));
                for (int64_t j = 0; j < block.count; j++) {
                    block.weight[j] *= inverse;
                    block.using[j] |= block.weight[j] >= NAME(all)(0.5);
                    block.row[j] += D;
                }
                NAME(mixture)(block.row, block.count, block.weight, K, mixed + h * K);
                for (int i = 0; i < LANES; i++) mixed[D + h][i] = COUNT_STEP * (highest[i] - (REAL)log(inverse[i]));
                memcpy(peak + (b * H + h) * g->T + first, &highest, steps * sizeof(REAL));
                memcpy(inverse_sum + (b * H + h) * g->T + first, &inverse, steps * sizeof(REAL));
            }
            NAME(turn_back)(mixed, steps, R, read + at * R, R);
            NAME(turn)(g->x + at * D, D, steps, D, in);
            vec *attended = saved, *raised = attended + D, *ended = raised + w->F;
            saved += SAVED;
            NAME(linear)(w->out, w->out_bias, D, R, mixed, rows, attended);
            for (int64_t k = 0; k < D; k++) attended[k] += in[k];
            NAME(feed_forward)(w, attended, rows, given, raised, risen, ended);
            if (!w->pre_norm) NAME(normalise)(w->norm2, w->norm2_bias, w->epsilon, D, ended, in);
            NAME(turn_back)(w->pre_norm ? ended : in, steps, D, y + at * D, D);
            flags live = {0};
            for (int64_t j = 0; j < block.count; j++) {
                const int64_t s = b * S + block.slot[j], written = g->written[s];
                flags visible = block.mask[j] > 0, fades = visible & (block.mask[j] < 1);
                vec ages = lane + (REAL)(first - written);
                flags old = block.using[j] & (ages > (REAL)w->ramp), lately = old & (2 * ages > g->span[s]);
                WHOLE times = 0, ramps = 0, uses = 0, lates = 0;
                for (int i = 0; i < LANES; i++) {
                    times -= visible[i]; ramps -= fades[i]; uses -= old[i]; lates -= lately[i];
                }
                live -= visible;
                seen[s] += times;
                on_ramp[s] += ramps;
                late[s] += lates;
                if (uses) used[s] = 1;
                if (!g->gone) continue;
                for (int64_t i = 0; i < steps; i++) {
                    const REAL rest = (g->span[s] - (REAL)(first + i - written)) / (REAL)w->ramp + 1;
                    const int leaves = visible[i] && g->gone[(b * (g->T + 1) + first + i + 1) * S + block.slot[j]];
                    if (leaves && rest > 1 / (REAL)w->ramp && written > pushed_out[at + i]) pushed_out[at + i] = written;
                }
            }
            for (int64_t i = 0; i < steps; i++) live_count[at + i] = live[i];
        }
    }
    NAME(free_block)(&block);
    free(vectors);
    free(rows);
    return fine;
}

INLINE void NAME(add_lanes)(const vec *totals, int64_t count, REAL *to)
{
    for (int64_t k = 0; k < count; k++) to[k] += NAME(total)(totals[k]);
}

/* The gradient of one block's attention, from that of what it read, [R]; that of its queries goes to `grad_query`. */
INLINE void NAME(attention_back)(
    const Layer *w, const Segment *g, int64_t b, int64_t first, int64_t steps, const REAL *peak, const REAL *inverse_sum,
    const vec *grad_read, Block *block, REAL **to, vec *query, vec *query_by_t, vec *grad_by_t,
    vec *grad_query, REAL *grad_rows, REAL *grad_stored, REAL *grad_span)
{
    const int64_t T = g->T, S = g->S0 + T, D = w->D, H = w->H, K = D / H;
    const REAL scale = 1 / sqrt((double)K), inverse_ramp = 1 / w->ramp, *rows = g->rows + (b * T + first) * 3 * D;
    NAME(look)(w, g, b, first, block);
    NAME(turn)(rows, 3 * D, steps, D, query);
    for (int64_t h = 0; h < H; h++) {
        vec highest = {0}, inverse = {0}, sum = {0};
        memcpy(&highest, peak + (b * H + h) * T + first, steps * sizeof(REAL));
        memcpy(&inverse, inverse_sum + (b * H + h) * T + first, steps * sizeof(REAL));
        NAME(copy_steps)(rows + h * K, 3 * D, steps, K, query_by_t);
        NAME(by_step)(grad_read + h * K, K, grad_by_t);
        NAME(score)(w, g, b, h, first, query + h * K, block);
        for (int64_t j = 0; j < block->count; j++) block->row[j] += D;
        NAME(products)(block->row, block->count, grad_read + h * K, K, block->grad);
        for (int64_t j = 0; j < block->count; j++) {
            const vec x = NAME(pick)(block->mask[j] > 0, block->weight[j] - highest, NAME(all)(-100));
            block->weight[j] = NAME(exponential)(x) * inverse; /* before the mask */
            sum += block->mask[j] * block->weight[j] * block->grad[j];
        }
        sum -= COUNT_STEP * grad_read[D + h];
        for (int64_t j = 0; j < block->count; j++) {
            const int64_t s = block->slot[j];
            const vec by_mask = block->weight[j] * (block->grad[j] - sum);
            const vec fading = NAME(only)((block->mask[j] > 0) & (block->mask[j] < 1), by_mask);
            if (g->span[b * S + s] < g->longest) grad_span[s] += NAME(total)(fading) * inverse_ramp;
            block->weight[j] *= block->mask[j];
            block->grad[j] = block->mask[j] * by_mask * scale; /* of the product */
            REAL *row = s < g->S0 ? grad_stored + (b * g->S0 + s) * 2 * D : grad_rows + (s - g->S0) * 3 * D + D;
            to[j] = row + D + h * K;
        }
        NAME(accumulate)(to, block->count, block->weight, grad_by_t, K);
        for (int64_t j = 0; j < block->count; j++) {
            block->row[j] -= D;
            to[j] -= D;
        }
        NAME(accumulate)(to, block->count, block->grad, query_by_t, K);
        NAME(mixture)(block->row, block->count, block->grad, K, grad_query + h * K);
        for (int64_t j = 0; w->position && j < block->count; j++) {
            const int64_t age = first - g->written[b * S + block->slot[j]];
            const int64_t at = h * (K + 1) * AGES(w) + LANES + (age < w->M ? age : w->M);
            vec sum;
            for (int64_t k = 0; age < w->M && k < K; k++) {
                vec keys;
                memcpy(&keys, block->ages + at + k * AGES(w), sizeof keys);
                grad_query[h * K + k] += block->grad[j] * keys;
                memcpy(&sum, block->grad_ages + at + k * AGES(w), sizeof sum);
                sum += block->grad[j] * query[h * K + k];
                memcpy(block->grad_ages + at + k * AGES(w), &sum, sizeof sum);
            }
            memcpy(&sum, block->grad_ages + at + K * AGES(w), sizeof sum);
            sum += block->grad[j] / scale;
            memcpy(block->grad_ages + at + K * AGES(w), &sum, sizeof sum);
        }
    }
}

/* The gradient of `project` and `attend` together. */
int NAME(attend_backward)(
    const Layer *w,
    const Segment *g,
    const REAL *made_from,    /* [B][T][D]: of `project` */
    const REAL *read,
    const vec *saved,
    const REAL *peak,
    const REAL *inverse_sum,
    const REAL *grad_y,       /* [B][T][D], or none */
    const REAL *grad_spans,   /* [B][T]: of the new spans themselves, or none */
    REAL *grad_x,             /* [B][T][D] */
    REAL *grad_stored,        /* as stored; zeros at first, as all that follow */
    REAL *grad_stored_span,   /* [B][S0] */
    const Layer *into)        /* gradients of the weights */
{
    const int64_t S = g->S0 + g->T, T = g->T, D = w->D, K = D / w->H, R = D + w->H, F = w->F, most = F > 3 * D ? F : 3 * D;
    Block block;
    const int64_t sums = 10 * D + F + 1, wide = LANES * WIDE(D), wide_read = LANES * WIDE(R);
    vec *vectors = NAME(vectors)(sums + 10 * D + R + 2 * F + 2 * wide + wide_read + LANES * (WIDE(F) + 2 * WIDE(K))), *free_vector = vectors;
    REAL *grad_rows = malloc(T * 3 * D * sizeof(REAL)), *grad_span = malloc(S * sizeof(REAL));
    const REAL **rows = malloc(most * sizeof(REAL *));
    REAL **to = malloc((most > S ? most : S) * sizeof(REAL *));
    const int fine = NAME(make_block)(w, &block, S) & (vectors && grad_rows && grad_span && rows && to);
#define TAKE(name, count) vec *name = free_vector; free_vector += (count)
    TAKE(totals, sums); /* norm (2 D), norm2 (2 D), rows (3 D), out (D), down (D), span (D), up (F), span_bias */
    TAKE(in, D); TAKE(inner, D); TAKE(inner_by_t, wide); TAKE(reads_by_t, wide_read);
    TAKE(given, D); TAKE(given_by_t, wide); TAKE(risen, F); TAKE(risen_by_t, LANES * WIDE(F));
    TAKE(grad, D); TAKE(grad_raised, F); TAKE(grad_given, D); TAKE(grad_read, R); TAKE(all_rows, 3 * D);
    TAKE(grad_hidden, D); TAKE(query, D); TAKE(query_by_t, LANES * WIDE(K)); TAKE(grad_by_t, LANES * WIDE(K));
#undef TAKE
    vec *t_norm = totals, *t_norm2 = t_norm + 2 * D, *t_rows = t_norm2 + 2 * D, *t_out = t_rows + 3 * D;
    vec *t_down = t_out + D, *t_span = t_down + D, *t_up = t_span + D, *t_span_bias = t_up + F;
    if (fine) memset(totals, 0, sums * sizeof(vec));
    for (int64_t b = 0; fine && b < g->B; b++) {
        memset(grad_rows, 0, T * 3 * D * sizeof(REAL));
        memset(grad_span, 0, S * sizeof(REAL));
        for (int64_t first = (T - 1) / LANES * LANES; first >= 0; first -= LANES) {
            const int64_t steps = first + LANES < T ? LANES : T - first, at = b * T + first;
            NAME(turn)(g->x + at * D, D, steps, D, in);
            NAME(turn)(made_from + at * D, D, steps, D, inner);
            NAME(copy_steps)(made_from + at * D, D, steps, D, inner_by_t);
            if (grad_y) {
                NAME(turn)(grad_y + at * D, D, steps, D, grad);
                NAME(copy_steps)(read + at * R, R, steps, R, reads_by_t);
                const vec *attended = saved + (b * ((T + LANES - 1) / LANES) + first / LANES) * SAVED;
                const vec *raised = attended + D, *ended = raised + F;
                if (w->pre_norm) NAME(normalise)(w->norm2, w->norm2_bias, w->epsilon, D, attended, given);
                else NAME(normalise)(w->norm, w->norm_bias, w->epsilon, D, attended, given);
                for (int64_t k = 0; k < F; k++) risen[k] = NAME(only)(raised[k] > 0, raised[k]);
                if (!w->pre_norm) NAME(normalise_back)(w->norm2, w->epsilon, D, ended, grad, t_norm2);
                NAME(by_step)(risen, F, risen_by_t);
                NAME(linear_back)(w->down, into->down, D, F, risen_by_t, grad, rows, to, t_down, grad_raised);
                for (int64_t k = 0; k < F; k++) grad_raised[k] = NAME(only)(raised[k] > 0, grad_raised[k]);
                NAME(by_step)(given, D, given_by_t);
                NAME(linear_back)(w->up, into->up, F, D, given_by_t, grad_raised, rows, to, t_up, grad_given);
                if (w->pre_norm) {
                    NAME(normalise_back)(w->norm2, w->epsilon, D, attended, grad_given, t_norm2);
                    for (int64_t k = 0; k < D; k++) grad[k] += grad_given[k];
                } else {
                    for (int64_t k = 0; k < D; k++) grad[k] += grad_given[k];
                    NAME(normalise_back)(w->norm, w->epsilon, D, attended, grad, t_norm);
                }
                NAME(linear_back)(w->out, into->out, D, R, reads_by_t, grad, rows, to, t_out, grad_read);
                NAME(attention_back)(
                    w, g, b, first, steps, peak, inverse_sum, grad_read, &block, to, query, query_by_t, grad_by_t,
                    all_rows, grad_rows, grad_stored, grad_span);
            } else {
                memset(grad, 0, D * sizeof(vec));
                memset(all_rows, 0, D * sizeof(vec));
            }
            NAME(turn)(grad_rows + first * 3 * D + D, 3 * D, steps, 2 * D, all_rows + D);
            NAME(linear_back)(w->rows, into->rows, 3 * D, D, inner_by_t, all_rows, rows, to, t_rows, grad_hidden);
            vec of_span = {0}, span = {0};
            memcpy(&of_span, grad_span + g->S0 + first, steps * sizeof(REAL));
            memcpy(&span, g->span + b * S + g->S0 + first, steps * sizeof(REAL));
            for (int64_t i = 0; grad_spans && i < steps; i++) of_span[i] += grad_spans[at + i];
            of_span = NAME(only)(span < NAME(all)(w->longest), of_span * span * (1 - span / (REAL)w->max_span));
            *t_span_bias += of_span;
            of_span /= (REAL)w->pre_div;
            for (int64_t k = 0; k < D; k++) {
                t_span[k] += of_span * inner[k];
                grad_hidden[k] += of_span * w->span[k];
            }
            if (w->pre_norm) NAME(normalise_back)(w->norm, w->epsilon, D, in, grad_hidden, t_norm);
            for (int64_t k = 0; k < D; k++) grad[k] += grad_hidden[k];
            NAME(turn_back)(grad, steps, D, grad_x + at * D, D);
        }
        if (g->S0) memcpy(grad_stored_span + b * g->S0, grad_span, g->S0 * sizeof(REAL));
    }
    if (fine) {
        NAME(add_lanes)(t_norm, D, into->norm);
        NAME(add_lanes)(t_norm + D, D, into->norm_bias);
        NAME(add_lanes)(t_norm2, D, into->norm2);
        NAME(add_lanes)(t_norm2 + D, D, into->norm2_bias);
        NAME(add_lanes)(t_rows, 3 * D, into->rows_bias);
        NAME(add_lanes)(t_out, D, into->out_bias);
        NAME(add_lanes)(t_down, D, into->down_bias);
        NAME(add_lanes)(t_up, F, into->up_bias);
        NAME(add_lanes)(t_span, D, into->span);
        NAME(add_lanes)(t_span_bias, 1, into->span_bias);
        if (w->position) NAME(add_ages)(w, &block, into);
    }
    NAME(free_block)(&block);
    free(vectors);
    free(grad_rows);
    free(grad_span);
    free(rows);
    free(to);
    return fine;
}

/* What one row reads from its memories, `query` being [H][K] and `read` [R]. */
INLINE void NAME(read_row)(
    const Layer *w, const REAL *query, const REAL *rows, const int64_t *birth, int64_t now, /* of its buffer */
    const int64_t *slot, const REAL *mask, int64_t count, REAL *weight, REAL *read)
{
    const int64_t D = w->D, K = D / w->H;
    const REAL scale = 1 / sqrt((double)K);
    REAL *count_of = read + D;
    for (int64_t h = 0; h < w->H; h++, query += K, read += K) {
        REAL highest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < count; j++) {
            const REAL *key = rows + slot[j] * 2 * D + h * K;
            const int64_t age = now - birth[slot[j]];
            vec products = {0};
            int64_t k = 0;
            for (; k + LANES <= K; k += LANES) {
                vec x, y;
                memcpy(&x, query + k, sizeof x);
                memcpy(&y, key + k, sizeof y);
                products += x * y;
            }
            REAL score = NAME(total)(products);
            for (; k < K; k++) score += query[k] * key[k];
            if (w->position && age < w->M)
                for (k = 0; k < K; k++) score += query[k] * w->position[(h * K + k) * w->M + age];
            weight[j] = score * scale;
            if (w->position) weight[j] += w->age_bias[h * (w->M + 1) + (age < w->M ? age : w->M)];
            if (weight[j] > highest) highest = weight[j];
        }
        for (int64_t j = 0; j < count; j += LANES) {
            const size_t bytes = (count - j < LANES ? count - j : LANES) * sizeof(REAL);
            vec x = NAME(all)(highest), m = {0};
            memcpy(&x, weight + j, bytes);
            memcpy(&m, mask + j, bytes);
            x = m * NAME(exponential)(x - highest);
            memcpy(weight + j, &x, bytes);
            sum += NAME(total)(x);
        }
        count_of[h] = COUNT_STEP * (highest + (REAL)log(sum));
        for (int64_t k = 0; k < K; k += LANES) {
            const size_t bytes = (K - k < LANES ? K - k : LANES) * sizeof(REAL);
            vec total = {0};
            for (int64_t j = 0; j < count; j++) {
                const REAL *value = rows + slot[j] * 2 * D + D + h * K + k;
                vec x = {0};
                if (bytes == sizeof x) memcpy(&x, value, sizeof x);
                else memcpy(&x, value, bytes);
                total += weight[j] * x;
            }
            total /= sum;
            memcpy(read + k, &total, bytes);
        }
    }
}

/* One step of acting through a layer: write the new memory into the last slot taken, read, and say what stays. */
int NAME(act)(
    const Layer *w,
    int64_t B, int64_t S, int64_t taken, /* S: slots of the buffer; taken: with the new one */
    const REAL *x,                   /* [B][D] */
    const int64_t *time,             /* [B] */
    const uint8_t *reset,            /* [B]: nothing stored is seen */
    const uint8_t *live,             /* [B][S] */
    REAL *hidden_buffer,               /* [B][S][D]: what the layer was given */
    REAL *rows_buffer,                 /* [B][S][2][D]: key and value */
    REAL *span_buffer,                 /* [B][S] */
    int64_t *birth_buffer,             /* [B][S] */
    REAL *y,                         /* [B][D] */
    uint8_t *stays,                  /* [B][S] */
    REAL *span,                      /* [B] */
    int64_t *live_count,             /* [B] */
    int64_t *evicted)                /* [B]: when the memory was written, -1 for none */
{
    const int64_t D = w->D, R = D + w->H, F = w->F, most = 3 * D > F ? 3 * D : F;
    const REAL inverse_ramp = 1 / w->ramp;
    vec *vectors = NAME(vectors)(4 * D + most + F);
    REAL *numbers = malloc((2 * (taken + LANES) + LANES * (3 * D + R)) * sizeof(REAL));
    int64_t *slot = malloc(taken * sizeof(int64_t));
    const REAL **rows = malloc(most * sizeof(REAL *));
    const int fine = vectors && numbers && slot && rows;
    vec *in = vectors, *inner = in + D, *attended = inner + D, *ended = attended + D, *wide = ended + D, *raised = wide + most;
    REAL *weight = numbers, *mask = weight + taken + LANES, *made = mask + taken + LANES;
    REAL *read = made + LANES * 3 * D;
    for (int64_t b0 = 0; fine && b0 < B; b0 += LANES) {
        const int n = B - b0 < LANES ? B - b0 : LANES;
        NAME(turn)(x + b0 * D, D, n, D, in);
        if (w->pre_norm) NAME(normalise)(w->norm, w->norm_bias, w->epsilon, D, in, inner);
        else memcpy(inner, in, D * sizeof(vec));
        NAME(linear)(w->rows, w->rows_bias, 3 * D, D, inner, rows, wide);
        NAME(turn_back)(wide, n, 3 * D, made, 3 * D);
        vec spans = NAME(spans)(w, inner);
        for (int i = 0; i < n; i++) {
            const int64_t b = b0 + i, mine = b * S + taken - 1;
            memcpy(hidden_buffer + mine * D, x + b * D, D * sizeof(REAL));
            memcpy(rows_buffer + mine * 2 * D, made + i * 3 * D + D, 2 * D * sizeof(REAL));
            span_buffer[mine] = span[b] = spans[i];
            birth_buffer[mine] = time[b];
            int64_t count = 0, old = 0, first = -1;
            memset(stays + b * S, 0, S);
            for (int64_t s = b * S; s <= mine; s++) {
                if (s < mine && (reset[b] || !live[s])) continue;
                const REAL m = (span_buffer[s] - (REAL)(time[b] - birth_buffer[s])) * inverse_ramp + 1;
                if (m > 0) {
                    slot[count] = s - b * S;
                    mask[count++] = m < 1 ? m : 1;
                }
                stays[s] = m > inverse_ramp;
                if (w->places < 0 || birth_buffer[s] > time[b] - w->newest) continue;
                old++;
                const double e = (double)span_buffer[s] + birth_buffer[s];
                const double f = first < 0 ? INFINITY : (double)span_buffer[first] + birth_buffer[first];
                if (first < 0 || e < f || (e == f && birth_buffer[s] < birth_buffer[first])) first = s;
            }
            live_count[b] = count;
            evicted[b] = -1;
            if (w->places >= 0 && old > w->places) {
                if (stays[first]) evicted[b] = birth_buffer[first];
                stays[first] = 0;
            }
            const REAL *of_row = rows_buffer + b * S * 2 * D, *query = made + i * 3 * D;
            NAME(read_row)(w, query, of_row, birth_buffer + b * S, time[b], slot, mask, count, weight, read + i * R);
        }
        NAME(turn)(read, R, n, R, wide);
        NAME(linear)(w->out, w->out_bias, D, R, wide, rows, attended);
        for (int64_t k = 0; k < D; k++) attended[k] += in[k];
        NAME(feed_forward)(w, attended, rows, inner, wide, raised, ended);
        if (!w->pre_norm) NAME(normalise)(w->norm2, w->norm2_bias, w->epsilon, D, ended, ended);
        NAME(turn_back)(ended, n, D, y + b0 * D, D);
    }
    free(vectors);
    free(numbers);
    free(slot);
    free(rows);
    return fine;
}

#undef vec
#undef flags
#undef Layer
#undef Segment
#undef Block
#undef WIDE
#undef SAVED
#undef COUNT_STEP
#undef AGES
#undef LEAST
#undef EACH_HALF
#undef ADD_HALF
#undef SWAP_HALVES
#endif
