/* The matrix product that all kinds end in: sums of one panel of output channels. */
#pragma once

#include "vector.h"

/* Sums for outputs in a line, in one panel's columns. */
struct sums {
    float *to; /* [rows, PANEL], `pitch` apart */
    int64_t rows, pitch;
    const void *from; /* output r reads `height` lines of `run` numbers, `line` apart, from number r * step on */
    int64_t step, height, line, run;
    const void *panel;     /* [height * run, PANEL], in bf16 [height * run / 2, PANEL, 2], run being even */
    const float *bias;     /* [PANEL], or NULL */
    const float *residual; /* as `to`, or NULL */
    int64_t relu;
};

/* The first `rows` outputs (a constant at each call, so that they stay in registers).
 *
 * ahead: what to fetch into the second cache meanwhile, `ahead_step` bytes for each vector of the panel.
 */
INLINE void sums_of(const int bf16, const int rows, const struct sums *s, const char *ahead, int64_t ahead_step) {
    vector left_sum[ROWS], right_sum[ROWS];
    for (int r = 0; r < rows; ++r) {
        left_sum[r] = right_sum[r] = (vector){0};
        if (s->bias) left_sum[r] = load(s->bias), right_sum[r] = load(s->bias + LANES);
    }
    const void *from = s->from;
    const float *panel = s->panel;
    for (int64_t i = 0; i < s->height; ++i, from = at(from, s->line, bf16))
        for (int64_t k = 0; k < s->run; k += 1 + bf16, panel += PANEL, ahead += ahead_step) {
            __builtin_prefetch(ahead, 0, 2);
            const vector left = load(panel), right = load(panel + LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r) {
                float pair; /* one number, or two of bf16 */
                memcpy(&pair, at(from, r * s->step + k, bf16), sizeof pair);
#if HAS_BF16
                if (bf16) {
                    const __m512bh factor = (__m512bh)_mm512_set1_ps(pair);
                    left_sum[r] = (vector)_mm512_dpbf16_ps((__m512)left_sum[r], factor, (__m512bh)left);
                    right_sum[r] = (vector)_mm512_dpbf16_ps((__m512)right_sum[r], factor, (__m512bh)right);
                    continue;
                }
#endif
                const vector factor = pair - (vector){0}; /* a broadcast: x - 0 is x, x + 0 not for -0 */
                left_sum[r] += factor * left;
                right_sum[r] += factor * right;
            }
        }
    for (int r = 0; r < rows; ++r) {
        float *to = s->to + r * s->pitch;
        if (s->residual) {
            const float *residual = s->residual + r * s->pitch;
            left_sum[r] += load(residual), right_sum[r] += load(residual + LANES);
        }
        store(to, s->relu ? clipped(left_sum[r]) : left_sum[r]);
        store(to + LANES, s->relu ? clipped(right_sum[r]) : right_sum[r]);
    }
}

/* `sums_of` for any number of outputs, in equal steps: 7 as 4 + 3, since a step of 1 wastes most registers. The panel
 * that follows in memory is most often the next one to be read: all steps together fetch it, without which a layer
 * whose weights are in no cache waits for them for a third of its time. */
INLINE void line_of_sums_of(const int bf16, const struct sums *given) {
    struct sums s = *given; /* whose address nobody has: it stays in registers */
    int64_t steps = (s.rows + ROWS - 1) / ROWS;
    const int64_t ahead_step = steps ? PANEL * sizeof(float) / steps : 0, panel_rows = s.height * s.run / (1 + bf16);
    const char *ahead = (const char *)((const float *)s.panel + panel_rows * PANEL);
    for (; steps > 0; --steps) {
        const int64_t now = (s.rows + steps - 1) / steps;
        switch (now) {
#define STEP(count)                                  \
    case count:                                      \
        sums_of(bf16, count, &s, ahead, ahead_step); \
        break
            STEP(1);
            STEP(2);
            STEP(3);
            STEP(4);
            STEP(5);
            STEP(6);
#if ROWS == 8
            STEP(7);
            STEP(8);
#endif
#undef STEP
        }
        s.from = at(s.from, now * s.step, bf16), s.to += now * s.pitch, s.rows -= now;
        ahead += panel_rows * ahead_step;
        if (s.residual) s.residual += now * s.pitch;
    }
}

static void line_of_floats(const struct sums *s) { line_of_sums_of(0, s); }

static void line_of_bf16s(const struct sums *s) { line_of_sums_of(HAS_BF16, s); }

INLINE void line_of_sums(const int bf16, const struct sums *s) { (bf16 ? line_of_bf16s : line_of_floats)(s); }
