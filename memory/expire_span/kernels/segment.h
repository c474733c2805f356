/* What the steps of a segment see of the memories, and the layer's output: attention.py and layer.py, pair by pair. */

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
        const REAL lifetime = (REAL)NAME(lifetime)(w, span);
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
                    const int leaves = visible[i] && g->gone[(b * (g->T + 1) + first + i + 1) * S + block.slot[j]];
                    const int would_stay = first + i - written + 1 < NAME(lifetime)(w, g->span[s]);
                    if (leaves && would_stay && written > pushed_out[at + i]) pushed_out[at + i] = written;
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
