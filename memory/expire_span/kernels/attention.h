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

/* The memories that some step of a block sees, and how visible each is to each step.

   The key of an age is one more row beside those of the memories: its products with the queries are added to the scores
   of the memories that are so old, and their gradients are added to its own. */
typedef struct {
    int64_t count, age_count;
    int64_t *slot;
    const REAL **key;                 /* of head 0 */
    const REAL **row;                 /* of the present head; first the memories', then the ages' */
    vec *mask;
    vec *weight, *grad;               /* scratch of one head, of each row */
    flags *using;
    int64_t *age;                     /* those below M of which a step sees a memory */
    uint8_t *seen;                    /* [M]: whether there is one */
    REAL *age_key, *grad_age_key;     /* [H][M][K]; none where M is 0 */
    vec *by_age, *grad_by_age;        /* [M + 1]: what each age adds to the scores of each step, the last from M on */
    int64_t most;                     /* memories that are looked at together */
    REAL *copy, *grads;               /* [2][H][most][K]: their keys and values; gradients, where asked for */
} NAME(Block);
#define Block NAME(Block)

INLINE int NAME(make_block)(const Segment *g, int64_t most, int with_gradients, Block *block)
{
    const int64_t S = g->S0 + g->T, M = g->M, K = g->K, size = g->H * M * K, copied = 2 * g->H * most * K;
    block->most = most;
    block->copy = malloc((1 + with_gradients) * copied * sizeof(REAL));
    block->grads = block->copy + copied * with_gradients;
    block->slot = malloc(S * sizeof(int64_t));
    block->key = malloc(S * sizeof(REAL *));
    block->row = malloc((S + M) * sizeof(REAL *));
    block->mask = NAME(vectors)(S);
    block->weight = NAME(vectors)(S + M);
    block->grad = NAME(vectors)(S + M);
    block->using = (flags *)NAME(vectors)(S);
    block->age = malloc((M + 1) * sizeof(int64_t));
    block->seen = malloc(M + 1);
    block->age_key = calloc(2 * size + 1, sizeof(REAL));
    block->grad_age_key = block->age_key + size;
    block->by_age = NAME(vectors)(2 * (M + 1));
    block->grad_by_age = block->by_age + M + 1;
    if (!block->slot || !block->key || !block->row || !block->mask || !block->weight || !block->grad || !block->using) return 0;
    if (!block->age || !block->seen || !block->age_key || !block->by_age || !block->copy) return 0;
    memset(block->by_age, 0, 2 * (M + 1) * sizeof(vec));
    for (int64_t h = 0; h < g->H; h++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t age = 0; age < M; age++) block->age_key[(h * M + age) * K + k] = g->position[(h * K + k) * M + age];
    return 1;
}

INLINE void NAME(free_block)(Block *block)
{
    free(block->slot); free(block->key); free(block->row);
    free(block->mask); free(block->weight); free(block->grad); free(block->using);
    free(block->age); free(block->seen); free(block->age_key); free(block->by_age); free(block->copy);
}

/* Copy keys and values of the memories from..to, head by head, where they stand close together. */
INLINE void NAME(copy_memories)(const Segment *g, int64_t b, int64_t from, int64_t to, const Block *block)
{
    const int64_t H = g->H, K = g->K, D = H * K;
    for (int64_t s = from; s < to; s++) {
        const REAL *key = s < g->S0 ? g->stored + (b * g->S0 + s) * 2 * D : g->rows + (b * g->T + s - g->S0) * 3 * D + D;
        for (int64_t h = 0; h < 2 * H; h++) memcpy(block->copy + (h * block->most + s - from) * K, key + h * K, K * sizeof(REAL));
    }
}

/* Find what the steps from `first` on see of the memories from..to, which were copied, and how well. */
INLINE void NAME(look)(const Segment *g, int64_t b, int64_t first, int64_t from, int64_t to, Block *block)
{
    const int64_t S = g->S0 + g->T;
    const int64_t last = first + LANES < g->T ? first + LANES - 1 : g->T - 1;
    const REAL inverse = 1 / g->ramp;
    const vec lane = __builtin_convertvector(NAME(lanes)(), vec);
    vec since;
    for (int i = 0; i < LANES; i++) since[i] = first + i <= last ? (REAL)g->since[b * g->T + first + i] : (REAL)INFINITY;
    block->count = block->age_count = 0;
    memset(block->seen, 0, g->M);
    for (int64_t s = from; s < to; s++) {
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
        for (int64_t i = 0; i < LANES && first - written + i < g->M; i++)
            if (visible[i]) block->seen[first - written + i] = 1;
        block->slot[block->count] = s;
        block->mask[block->count] = mask;
        block->key[block->count++] = block->copy + (s - from) * g->K;
    }
    for (int64_t age = 0; age < g->M; age++)
        if (block->seen[age]) block->age[block->age_count++] = age;
}

/* Where the number of step i and of a memory stands among those by age, that memory being `age` old at step 0. */
INLINE REAL *NAME(of_age)(const Segment *g, vec *by_age, int64_t age, int i)
{
    age = age + i < 0 ? 0 : age + i < g->M ? age + i : g->M;
    return (REAL *)(by_age + age) + i;
}

/* Scores of the block's memories for head h in block->weight. */
INLINE void NAME(score)(const Segment *g, int64_t b, int64_t h, int64_t first, const vec *query, Block *block)
{
    const int64_t K = g->K, M = g->M, count = block->count;
    const REAL scale = 1 / sqrt((double)K);
    for (int64_t j = 0; j < count; j++) block->row[j] = block->key[j] + h * block->most * K;
    for (int64_t n = 0; n < block->age_count; n++) block->row[count + n] = block->age_key + (h * M + block->age[n]) * K;
    NAME(products)(block->row, count + block->age_count, query, K, block->weight);
    for (int64_t j = 0; j < count; j++) block->weight[j] *= scale;
    if (!g->position) return;
    const REAL *bias = g->age_bias + h * (M + 1);
    for (int64_t n = 0; n < block->age_count; n++)
        block->by_age[block->age[n]] = block->weight[count + n] * scale + bias[block->age[n]];
    block->by_age[M] = NAME(all)(bias[M]);
    for (int64_t j = 0; j < count; j++) {
        const int64_t age = first - g->written[b * (g->S0 + g->T) + block->slot[j]];
        vec added = block->by_age[M];
        for (int i = 0; i < LANES && age < M; i++) added[i] = *NAME(of_age)(g, block->by_age, age, i);
        block->weight[j] += added;
    }
}

/* Gradients of the rows of ages, and of what each age adds [M + 1], from those of the memories' rows. */
INLINE void NAME(score_backward)(const Segment *g, int64_t b, int64_t first, Block *block, REAL *grad_age_bias)
{
    const int64_t M = g->M, count = block->count;
    const REAL unscaled = sqrt((double)g->K);
    for (int64_t n = 0; n < block->age_count; n++) block->grad_by_age[block->age[n]] = (vec){0};
    block->grad_by_age[M] = (vec){0};
    for (int64_t j = 0; j < count; j++) {
        const int64_t age = first - g->written[b * (g->S0 + g->T) + block->slot[j]];
        if (age >= M) block->grad_by_age[M] += block->grad[j];
        for (int i = 0; i < LANES && age < M; i++) *NAME(of_age)(g, block->grad_by_age, age, i) += block->grad[j][i];
    }
    for (int64_t n = 0; n < block->age_count; n++) {
        block->grad[count + n] = block->grad_by_age[block->age[n]];
        grad_age_bias[block->age[n]] += NAME(total)(block->grad[count + n]) * unscaled;
    }
    grad_age_bias[M] += NAME(total)(block->grad_by_age[M]) * unscaled;
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
    const int fine = NAME(make_block)(g, S, 0, &block) & (query != NULL);
    for (int64_t b = 0; fine && b < g->B; b++) {
        NAME(copy_memories)(g, b, 0, S, &block);
        for (int64_t first = 0; first < T; first += LANES) {
            const int64_t steps = first + LANES < T ? LANES : T - first, at = b * T + first;
            NAME(look)(g, b, first, 0, S, &block);
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
                    block.row[j] += H * S * K;
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

/* How many memories are looked at together: what is read and added to for them, 4 D numbers each, stays in a cache of 512 KB. */
#define TOGETHER(D) (16384 / (D) > 16 ? 16384 / (D) : 16)

/* Its gradient: of rows, stored keys and values, spans, and what tells ages apart; all of it zeros at first. */
int NAME(read_backward)(
    const Segment *g, const REAL *peak, const REAL *inverse_sum, const REAL *read, const REAL *grad, /* [B][T][R]: of what was read */
    REAL *grad_rows, REAL *grad_stored, REAL *grad_span, REAL *grad_position, REAL *grad_age_bias)
{
    const int64_t T = g->T, S = g->S0 + T, H = g->H, K = g->K, M = g->M, D = H * K, R = D + H;
    const REAL scale = 1 / sqrt((double)K), inverse_ramp = 1 / g->ramp;
    const int64_t most = S < TOGETHER(D) ? S : TOGETHER(D);
    Block block;
    const int64_t all_queries = (T + LANES - 1) / LANES * D;
    vec *query = NAME(vectors)(D + 2 * R + K + 2 * LANES * WIDE(K) + all_queries), *grad_read = query + D, *was_read = grad_read + R;
    vec *mixed = was_read + R, *query_by_t = mixed + K, *grad_by_t = query_by_t + LANES * WIDE(K);
    vec *grad_queries = grad_by_t + LANES * WIDE(K);
    REAL **to = malloc((S + M) * sizeof(REAL *));
    const int fine = NAME(make_block)(g, most, 1, &block) & (query && to);
    for (int64_t b = 0; fine && b < g->B; b++) {
        memset(grad_queries, 0, all_queries * sizeof(vec));
        for (int64_t from = 0; from < S; from += most) {
            const int64_t end = from + most < S ? from + most : S;
            NAME(copy_memories)(g, b, from, end, &block);
            memset(block.grads, 0, 2 * D * most * sizeof(REAL));
            for (int64_t first = 0; first < T; first += LANES) {
                const int64_t steps = first + LANES < T ? LANES : T - first, at = b * T + first;
                const REAL *rows = g->rows + at * 3 * D;
                vec *grad_query = grad_queries + first / LANES * D;
                NAME(look)(g, b, first, from, end, &block);
                if (!block.count) continue;
                NAME(turn)(rows, 3 * D, steps, D, query);
                NAME(turn)(grad + at * R, R, steps, R, grad_read);
                NAME(turn)(read + at * R, R, steps, D, was_read);
                for (int64_t h = 0; h < H; h++) {
                    vec highest = {0}, inverse = {0}, sum = {0};
                    memcpy(&highest, peak + (b * H + h) * T + first, steps * sizeof(REAL));
                    memcpy(&inverse, inverse_sum + (b * H + h) * T + first, steps * sizeof(REAL));
                    for (int64_t k = h * K; k < (h + 1) * K; k++) sum += grad_read[k] * was_read[k];
                    sum -= COUNT_STEP * grad_read[D + h];
                    NAME(copy_steps)(rows + h * K, 3 * D, steps, K, query_by_t);
                    NAME(copy_steps)(grad + at * R + h * K, R, steps, K, grad_by_t);
                    NAME(score)(g, b, h, first, query + h * K, &block);
                    for (int64_t j = 0; j < block.count; j++) block.row[j] += most * D;
                    NAME(products)(block.row, block.count, grad_read + h * K, K, block.grad);
                    for (int64_t j = 0; j < block.count; j++) {
                        const vec x = NAME(pick)(block.mask[j] > 0, block.weight[j] - highest, NAME(all)(-100));
                        block.weight[j] = NAME(exponential)(x) * inverse; /* before the mask */
                    }
                    for (int64_t j = 0; j < block.count; j++) {
                        const int64_t s = block.slot[j];
                        const vec by_mask = block.weight[j] * (block.grad[j] - sum);
                        const vec fading = NAME(only)((block.mask[j] > 0) & (block.mask[j] < 1), by_mask);
                        grad_span[b * S + s] += NAME(total)(fading) * inverse_ramp;
                        block.weight[j] *= block.mask[j];
                        block.grad[j] = block.mask[j] * by_mask * scale; /* of the product */
                        to[j] = block.grads + ((H + h) * most + s - from) * K;
                    }
                    NAME(accumulate)(to, block.count, block.weight, grad_by_t, K);
                    for (int64_t j = 0; j < block.count; j++) {
                        block.row[j] -= most * D;
                        to[j] -= most * D;
                    }
                    if (g->position) NAME(score_backward)(g, b, first, &block, grad_age_bias + h * (M + 1));
                    for (int64_t n = 0; n < block.age_count; n++) to[block.count + n] = block.grad_age_key + (h * M + block.age[n]) * K;
                    NAME(accumulate)(to, block.count + block.age_count, block.grad, query_by_t, K);
                    NAME(mixture)(block.row, block.count + block.age_count, block.grad, K, mixed);
                    for (int64_t k = 0; k < K; k++) grad_query[h * K + k] += mixed[k];
                }
            }
            for (int64_t s = from; s < end; s++) {
                REAL *row = s < g->S0 ? grad_stored + (b * g->S0 + s) * 2 * D : grad_rows + (b * T + s - g->S0) * 3 * D + D;
                for (int64_t h = 0; h < 2 * H; h++) memcpy(row + h * K, block.grads + (h * most + s - from) * K, K * sizeof(REAL));
            }
        }
        for (int64_t first = 0; first < T; first += LANES) {
            const int64_t steps = first + LANES < T ? LANES : T - first;
            NAME(turn_back)(grad_queries + first / LANES * D, steps, D, grad_rows + (b * T + first) * 3 * D, 3 * D);
        }
    }
    for (int64_t h = 0; fine && h < H; h++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t age = 0; age < M; age++) grad_position[(h * K + k) * M + age] = block.grad_age_key[(h * M + age) * K + k];
    NAME(free_block)(&block);
    free(query);
    free(to);
    return fine;
}
