/* One step of acting (`ExpireSpanLayer._step`). */

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
            int64_t count = 0, old = 0, first = -1, earliest = 0;
            memset(stays + b * S, 0, S);
            for (int64_t s = b * S; s <= mine; s++) {
                if (s < mine && (reset[b] || !live[s])) continue;
                const int64_t age = time[b] - birth_buffer[s], lifetime = NAME(lifetime)(w->ramp, span_buffer[s]);
                const REAL m = (span_buffer[s] - (REAL)age) * inverse_ramp + 1;
                if (age < lifetime) {
                    slot[count] = s - b * S;
                    mask[count++] = m < FAINTEST ? FAINTEST : m < 1 ? m : 1;
                }
                stays[s] = age + 1 < lifetime;
                if (w->places < 0 || birth_buffer[s] > time[b] - w->newest) continue;
                old++;
                const int64_t e = birth_buffer[s] + lifetime;
                if (first < 0 || e < earliest || (e == earliest && birth_buffer[s] < birth_buffer[first])) {
                    first = s;
                    earliest = e;
                }
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
