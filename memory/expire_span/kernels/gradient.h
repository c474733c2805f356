/* The gradient of a segment. */

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
