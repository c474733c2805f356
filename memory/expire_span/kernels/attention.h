/* Attention of the steps of a segment over the memories that they see: `attend_segment` of attention.py, looking only at
   the pairs that can see each other. */

/* Spans and ramps are far shorter (`LONGEST` in config.py); one that is no number lasts as long. */
#define LONGEST 1e15

/* For how many steps a memory is visible, that of its birth included: `lifetime` in span.py, rounded as there. */
INLINE int64_t NAME(lifetime)(double ramp, REAL span)
{
    const REAL sum = span + (REAL)ramp;
    return sum < (REAL)LONGEST ? (int64_t)ceil((double)sum) : (int64_t)LONGEST;
}

/* The least mask of a visible memory, where rounding would make it 0: `FAINTEST` in span.py. */
#define FAINTEST ((REAL)1e-20)

/* A count is this times log sum exp(scores): COUNT_STEP of attention.py. */
#define COUNT_STEP 4

/* A segment: its steps, the memories that they may see, and what tells ages apart. */
typedef struct {
    int64_t B, T, S0, H, K, M;        /* M: ages that have a key */
    double ramp;
    const REAL *rows;                 /* [B][T][3][H][K]: query, key and value of each step */
    const REAL *stored;               /* [B][S0][2][H][K]: key and value of each stored memory */
    const REAL *span;                 /* [B][S]: as attention sees them */
    const REAL *predicted;            /* [B][S]: before random shortening */
    const int64_t *written;           /* [B][S]: step of the segment that wrote each memory, negative for stored ones */
    const uint8_t *live;              /* [B][S] */
    const int64_t *since;             /* [B][T]: what was written earlier belongs to an earlier episode */
    const uint8_t *gone;              /* [B][T + 1][S]: pushed out by the capacity before the segment and after each step; or none */
    const REAL *position;             /* [H][K][M]: a key of each age; none where M is 0 */
    const REAL *age_bias;             /* [H][M + 1]: what each age adds to a score, the last to all from M on; none as well */
} NAME(Segment);
#define Segment NAME(Segment)

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
} NAME(Block);
#define Block NAME(Block)

#define AGES(g) ((g)->M + 2 * LANES)

INLINE int NAME(make_block)(const Segment *g, Block *block)
{
    const int64_t S = g->S0 + g->T, K = g->K, wide = AGES(g), size = g->position ? g->H * (K + 1) * wide : 0;
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
    for (int64_t h = 0; h < g->H; h++) {
        REAL *to = block->ages + h * (K + 1) * wide + LANES;
        for (int64_t k = 0; k < K; k++, to += wide) memcpy(to, g->position + (h * K + k) * g->M, g->M * sizeof(REAL));
        const REAL *bias = g->age_bias + h * (g->M + 1);
        memcpy(to, bias, g->M * sizeof(REAL));
        for (int i = 0; i < LANES; i++) to[g->M + i] = bias[g->M];
    }
    return 1;
}

/* Add the gradients that have come together in `grad_ages`. */
INLINE void NAME(add_ages)(const Segment *g, const Block *block, REAL *position, REAL *age_bias)
{
    const int64_t K = g->K, wide = AGES(g);
    for (int64_t h = 0; h < g->H; h++) {
        const REAL *from = block->grad_ages + h * (K + 1) * wide + LANES;
        for (int64_t k = 0; k < K; k++, from += wide)
            for (int64_t age = 0; age < g->M; age++) position[(h * K + k) * g->M + age] += from[age];
        REAL *bias = age_bias + h * (g->M + 1);
        for (int64_t age = 0; age < g->M + LANES; age++) bias[age < g->M ? age : g->M] += from[age];
    }
}

INLINE void NAME(free_block)(Block *block)
{
    free(block->slot); free(block->key); free(block->row);
    free(block->mask); free(block->weight); free(block->grad); free(block->using); free(block->ages);
}

/* Find what the steps from `first` on see, and how well. */
INLINE void NAME(look)(const Segment *g, int64_t b, int64_t first, Block *block)
{
    const int64_t S = g->S0 + g->T, D = g->H * g->K;
    const int64_t last = first + LANES < g->T ? first + LANES - 1 : g->T - 1;
    const REAL inverse = 1 / g->ramp;
    const vec lane = __builtin_convertvector(NAME(lanes)(), vec);
    vec since;
    for (int i = 0; i < LANES; i++) since[i] = first + i <= last ? (REAL)g->since[b * g->T + first + i] : (REAL)INFINITY;
    block->count = 0;
    for (int64_t s = 0; s < S; s++) {
        const int64_t written = g->written[b * S + s];
        if (!g->live[b * S + s] || written > last) continue;
        const REAL span = g->span[b * S + s];
        const REAL age = (REAL)(first - written);
        const REAL lifetime = (REAL)NAME(lifetime)(g->ramp, span);
        if ((age > 0 ? age : 0) >= lifetime) continue;
        vec ages = lane + age, mask = (span - ages) * inverse + 1;
        mask = NAME(pick)(mask > 1, NAME(all)(1), mask);
        mask = NAME(pick)(mask < FAINTEST, NAME(all)(FAINTEST), mask);
        flags visible = (ages >= 0) & (since <= (REAL)written) & (ages < lifetime);
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
INLINE void NAME(score)(const Segment *g, int64_t b, int64_t h, int64_t first, const vec *query, Block *block)
{
    const int64_t K = g->K;
    const REAL scale = 1 / sqrt((double)K);
    for (int64_t j = 0; j < block->count; j++) block->row[j] = block->key[j] + h * K;
    NAME(products)(block->row, block->count, query, K, block->weight);
    for (int64_t j = 0; j < block->count; j++) {
        if (g->position) {
            const int64_t age = first - g->written[b * (g->S0 + g->T) + block->slot[j]];
            const REAL *key = block->ages + h * (K + 1) * AGES(g) + LANES + (age < g->M ? age : g->M);
            vec bias;
            for (int64_t k = 0; age < g->M && k < K; k++) {
                vec keys;
                memcpy(&keys, key + k * AGES(g), sizeof keys);
                block->weight[j] += query[k] * keys;
            }
            memcpy(&bias, key + K * AGES(g), sizeof bias);
            block->weight[j] = block->weight[j] * scale + bias;
        } else {
            block->weight[j] *= scale;
        }
    }
}

/* What the steps of a segment read, and what they saw. */
int NAME(read)(
    const Segment *g,
    REAL *read,          /* [B][T][R]: the averages of all heads, then the count of each */
    REAL *peak,          /* [B][H][T]: largest score, and 1 over the sum of the weights before they are shares */
    REAL *inverse_sum,
    REAL *seen,          /* [B][S]: at how many steps each memory was live, and on its ramp; zeros at first */
    REAL *on_ramp,
    uint8_t *used,       /* [B][S]: in use at some step (attention.py), and at how many steps late; zeros at first */
    int64_t *late,
    int64_t *live_count, /* [B][T] */
    int64_t *pushed_out) /* [B][T]: the step that wrote the memory which the capacity pushed out; hugely negative at first */
{
    const int64_t T = g->T, S = g->S0 + T, H = g->H, K = g->K, D = H * K, R = D + H;
    const vec lane = __builtin_convertvector(NAME(lanes)(), vec);
    Block block;
    vec *query = NAME(vectors)(D + R), *mixed = query + D;
    const int fine = NAME(make_block)(g, &block) & (query != NULL);
    for (int64_t b = 0; fine && b < g->B; b++) {
        for (int64_t first = 0; first < T; first += LANES) {
            const int64_t steps = first + LANES < T ? LANES : T - first, at = b * T + first;
            NAME(look)(g, b, first, &block);
            memset(block.using, 0, block.count * sizeof(vec));
            NAME(turn)(g->rows + at * 3 * D, 3 * D, steps, D, query);
            for (int64_t h = 0; h < H; h++) {
                NAME(score)(g, b, h, first, query + h * K, &block);
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
                memcpy(peak + (b * H + h) * T + first, &highest, steps * sizeof(REAL));
                memcpy(inverse_sum + (b * H + h) * T + first, &inverse, steps * sizeof(REAL));
            }
            NAME(turn_back)(mixed, steps, R, read + at * R, R);
            flags live = {0};
            for (int64_t j = 0; j < block.count; j++) {
                const int64_t s = b * S + block.slot[j], written = g->written[s];
                flags visible = block.mask[j] > 0, fades = visible & (block.mask[j] < 1);
                vec ages = lane + (REAL)(first - written);
                flags old = block.using[j] & (ages > (REAL)g->ramp), lately = old & (2 * ages > g->predicted[s]);
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
                    const int leaves = visible[i] && g->gone[(b * (T + 1) + first + i + 1) * S + block.slot[j]];
                    const int would_stay = first + i - written + 1 < NAME(lifetime)(g->ramp, g->predicted[s]);
                    if (leaves && would_stay && written > pushed_out[at + i]) pushed_out[at + i] = written;
                }
            }
            for (int64_t i = 0; i < steps; i++) live_count[at + i] = live[i];
        }
    }
    NAME(free_block)(&block);
    free(query);
    return fine;
}

/* Its gradient: of rows, stored keys and values, spans, and what tells ages apart; all of it zeros at first. */
int NAME(read_backward)(
    const Segment *g, const REAL *peak, const REAL *inverse_sum, const REAL *grad, /* [B][T][R]: of what was read */
    REAL *grad_rows, REAL *grad_stored, REAL *grad_span, REAL *grad_position, REAL *grad_age_bias)
{
    const int64_t T = g->T, S = g->S0 + T, H = g->H, K = g->K, D = H * K, R = D + H;
    const REAL scale = 1 / sqrt((double)K), inverse_ramp = 1 / g->ramp;
    Block block;
    vec *query = NAME(vectors)(2 * D + R + 2 * LANES * WIDE(K)), *grad_query = query + D, *grad_read = grad_query + D;
    vec *query_by_t = grad_read + R, *grad_by_t = query_by_t + LANES * WIDE(K);
    REAL **to = malloc(S * sizeof(REAL *));
    const int fine = NAME(make_block)(g, &block) & (query && to);
    for (int64_t b = 0; fine && b < g->B; b++) {
        for (int64_t first = 0; first < T; first += LANES) {
            const int64_t steps = first + LANES < T ? LANES : T - first, at = b * T + first;
            const REAL *rows = g->rows + at * 3 * D;
            NAME(look)(g, b, first, &block);
            NAME(turn)(rows, 3 * D, steps, D, query);
            NAME(turn)(grad + at * R, R, steps, R, grad_read);
            for (int64_t h = 0; h < H; h++) {
                vec highest = {0}, inverse = {0}, sum = {0};
                memcpy(&highest, peak + (b * H + h) * T + first, steps * sizeof(REAL));
                memcpy(&inverse, inverse_sum + (b * H + h) * T + first, steps * sizeof(REAL));
                NAME(copy_steps)(rows + h * K, 3 * D, steps, K, query_by_t);
                NAME(copy_steps)(grad + at * R + h * K, R, steps, K, grad_by_t);
                NAME(score)(g, b, h, first, query + h * K, &block);
                for (int64_t j = 0; j < block.count; j++) block.row[j] += D;
                NAME(products)(block.row, block.count, grad_read + h * K, K, block.grad);
                for (int64_t j = 0; j < block.count; j++) {
                    const vec x = NAME(pick)(block.mask[j] > 0, block.weight[j] - highest, NAME(all)(-100));
                    block.weight[j] = NAME(exponential)(x) * inverse; /* before the mask */
                    sum += block.mask[j] * block.weight[j] * block.grad[j];
                }
                sum -= COUNT_STEP * grad_read[D + h];
                for (int64_t j = 0; j < block.count; j++) {
                    const int64_t s = block.slot[j];
                    const vec by_mask = block.weight[j] * (block.grad[j] - sum);
                    const vec fading = NAME(only)((block.mask[j] > 0) & (block.mask[j] < 1), by_mask);
                    grad_span[b * S + s] += NAME(total)(fading) * inverse_ramp;
                    block.weight[j] *= block.mask[j];
                    block.grad[j] = block.mask[j] * by_mask * scale; /* of the product */
                    REAL *row = s < g->S0 ? grad_stored + (b * g->S0 + s) * 2 * D : grad_rows + (b * T + s - g->S0) * 3 * D + D;
                    to[j] = row + D + h * K;
                }
                NAME(accumulate)(to, block.count, block.weight, grad_by_t, K);
                for (int64_t j = 0; j < block.count; j++) {
                    block.row[j] -= D;
                    to[j] -= D;
                }
                NAME(accumulate)(to, block.count, block.grad, query_by_t, K);
                NAME(mixture)(block.row, block.count, block.grad, K, grad_query + h * K);
                for (int64_t j = 0; g->position && j < block.count; j++) {
                    const int64_t age = first - g->written[b * S + block.slot[j]];
                    const int64_t place = h * (K + 1) * AGES(g) + LANES + (age < g->M ? age : g->M);
                    vec sums;
                    for (int64_t k = 0; age < g->M && k < K; k++) {
                        vec keys;
                        memcpy(&keys, block.ages + place + k * AGES(g), sizeof keys);
                        grad_query[h * K + k] += block.grad[j] * keys;
                        memcpy(&sums, block.grad_ages + place + k * AGES(g), sizeof sums);
                        sums += block.grad[j] * query[h * K + k];
                        memcpy(block.grad_ages + place + k * AGES(g), &sums, sizeof sums);
                    }
                    memcpy(&sums, block.grad_ages + place + K * AGES(g), sizeof sums);
                    sums += block.grad[j] / scale;
                    memcpy(block.grad_ages + place + K * AGES(g), &sums, sizeof sums);
                }
            }
            NAME(turn_back)(grad_query, steps, D, grad_rows + at * 3 * D, 3 * D);
        }
    }
    if (fine && g->position) NAME(add_ages)(g, &block, grad_position, grad_age_bias);
    NAME(free_block)(&block);
    free(query);
    free(to);
    return fine;
}
