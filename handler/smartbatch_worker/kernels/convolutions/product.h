/* The matrix product that all kinds end in: sums of one panel of output channels. */
#pragma once

#include "vector.h"

/* Sums of `rows` outputs (a constant at each call, so that they stay in registers) in one panel's columns.
 *
 * Output r starts at a + r * step and reads `height` lines of `run` numbers, `line` apart; panel: [height * run,
 * PANEL], in bf16 [height * run / 2, PANEL, 2], run being even. bias: [PANEL], or NULL; residual: as `to`, or NULL.
 * ahead: what to fetch into the second cache meanwhile, `ahead_step` bytes for each vector of the panel.
 */
INLINE void sums_of(const int bf16, const int rows, const void *a, int64_t step, int64_t height, int64_t line,
                    int64_t run, const void *panel, const char *ahead, int64_t ahead_step, const float *bias,
                    const float *residual, int relu, float *to, int64_t pitch) {
    vector left_sum[ROWS], right_sum[ROWS];
    for (int r = 0; r < rows; ++r) {
        left_sum[r] = right_sum[r] = (vector){0};
        if (bias) left_sum[r] = load(bias), right_sum[r] = load(bias + LANES);
    }
    for (int64_t i = 0; i < height; ++i, a = at(a, line, bf16))
        for (int64_t k = 0; k < run; k += 1 + bf16, panel = (const float *)panel + PANEL, ahead += ahead_step) {
            __builtin_prefetch(ahead, 0, 2);
            const vector left = load(panel), right = load((const float *)panel + LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r) {
                float pair; /* one number, or two of bf16 */
                memcpy(&pair, at(a, r * step + k, bf16), sizeof pair);
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
        if (residual) left_sum[r] += load(residual + r * pitch), right_sum[r] += load(residual + r * pitch + LANES);
        store(to + r * pitch, relu ? clipped(left_sum[r]) : left_sum[r]);
        store(to + r * pitch + LANES, relu ? clipped(right_sum[r]) : right_sum[r]);
    }
}

/* `sums` for any number of outputs in a line, in equal steps: 7 as 4 + 3, since a step of 1 wastes most registers. The
 * panel that follows in memory is most often the next one to be read: all steps together fetch it, without which a
 * layer whose weights are in no cache waits for them for a third of its time. */
INLINE void line_of_sums_of(const int bf16, int64_t rows, const void *a, int64_t step, int64_t height, int64_t line,
                            int64_t run, const void *panel, const float *bias, const float *residual, int relu,
                            float *to, int64_t pitch) {
    int64_t steps = (rows + ROWS - 1) / ROWS;
    const int64_t ahead_step = steps ? PANEL * sizeof(float) / steps : 0, panel_rows = height * run / (1 + bf16);
    const char *ahead = (const char *)((const float *)panel + panel_rows * PANEL);
    for (; steps > 0; --steps) {
        const int64_t now = (rows + steps - 1) / steps;
        switch (now) {
#define STEP(count)                                                                                                  \
    case count:                                                                                                      \
        sums_of(bf16, count, a, step, height, line, run, panel, ahead, ahead_step, bias, residual, relu, to, pitch); \
        break;
            STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6)
#if ROWS == 8
            STEP(7) STEP(8)
#endif
        }
        a = at(a, now * step, bf16), to += now * pitch, rows -= now;
        ahead += panel_rows * ahead_step;
        if (residual) residual += now * pitch;
    }
}

static void line_of_floats(int64_t rows, const void *a, int64_t step, int64_t height, int64_t line, int64_t run,
                           const void *panel, const float *bias, const float *residual, int relu, float *to,
                           int64_t pitch) {
    line_of_sums_of(0, rows, a, step, height, line, run, panel, bias, residual, relu, to, pitch);
}

static void line_of_bf16s(int64_t rows, const void *a, int64_t step, int64_t height, int64_t line, int64_t run,
                          const void *panel, const float *bias, const float *residual, int relu, float *to,
                          int64_t pitch) {
    line_of_sums_of(HAS_BF16, rows, a, step, height, line, run, panel, bias, residual, relu, to, pitch);
}

INLINE void line_of_sums(const int bf16, int64_t rows, const void *a, int64_t step, int64_t height, int64_t line,
                         int64_t run, const void *panel, const float *bias, const float *residual, int relu, float *to,
                         int64_t pitch) {
    (bf16 ? line_of_bf16s : line_of_floats)(rows, a, step, height, line, run, panel, bias, residual, relu, to, pitch);
}
