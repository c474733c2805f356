/* A layer's weights and its maps: linear ones, norms, spans, the feed-forward half. */

/* A layer: its shape, and its weights as torch holds them, [out][in]. */
typedef struct {
    int64_t D, H, F, M;               /* F: hidden width of the feed-forward half; M: ages that have a position key */
    int64_t pre_norm;
    int64_t places, newest;           /* of the capacity; places < 0 for no bound */
    double ramp, max_span, longest, pre_div, epsilon;
    REAL *norm, *norm_bias, *rows, *rows_bias, *span, *span_bias, *out, *out_bias;
    REAL *norm2, *norm2_bias, *up, *up_bias, *down, *down_bias;
    REAL *position;                   /* [H][K][M]: a key of each age; none where M is 0 */
    REAL *age_bias;                   /* [H][M + 1]: what each age adds to a score, the last to all from M on; none as well */
} NAME(Layer);
#define Layer NAME(Layer)

/* A linear map of LANES rows at once: out[o] = weight[o] . in + bias[o] */
INLINE void NAME(linear)(const REAL *weight, const REAL *bias, int64_t outs, int64_t ins, const vec *in, const REAL **rows, vec *out)
{
    for (int64_t o = 0; o < outs; o++) rows[o] = weight + o * ins;
    NAME(products)(rows, outs, in, ins, out);
    for (int64_t o = 0; o < outs; o++) out[o] += bias[o];
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

INLINE vec NAME(spans)(const Layer *w, const vec *hidden)
{
    vec logit = {0};
    for (int64_t k = 0; k < w->D; k++) logit += hidden[k] * w->span[k];
    logit = logit / (REAL)w->pre_div + *w->span_bias;
    vec span = (REAL)w->max_span / (1 + NAME(exponential)(-logit));
    return NAME(pick)(span > NAME(all)(w->longest), NAME(all)(w->longest), span);
}

/* The feed-forward half: `given` becomes its input after the norm, `raised` what stands before the ReLU, `risen` after. */
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
