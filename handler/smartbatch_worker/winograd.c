/* Winograd F(4x4, 3x3) for 3x3 convolutions of stride 1 on channels-last images.
 *
 * Such a convolution needs 9 multiplications an output; computed on 6x6 input tiles in Winograd's basis it needs
 * 36/16 = 2.25. A block of tiles at a time, so that what is between the steps stays in the cache:
 * tiles_in -> V [36, tiles, C];  M = V @ U, [36, tiles, K];  tiles_out -> image.
 * Loops run over contiguous channels, so the compiler vectorises them for whatever -march=native means here.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One step of the matrix product keeps ROWS x 2 vectors of sums in registers: as many as there are, less three. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 6
#endif
#define PANEL (2 * LANES)

#define LINE(d, c, a0, a1, a2, a3, a4, a5)                                                                     \
    do {                                                                                                       \
        float p = a4 - 4 * a2, q = a3 - 4 * a1, r = a4 - a2, t = 2 * (a3 - a1);                                \
        d##0[c] = 4 * a0 - 5 * a2 + a4;                                                                        \
        d##1[c] = p + q;                                                                                       \
        d##2[c] = p - q;                                                                                       \
        d##3[c] = r + t;                                                                                       \
        d##4[c] = r - t;                                                                                       \
        d##5[c] = 4 * a1 - 5 * a3 + a5;                                                                        \
    } while (0)

/* One line of B^T: six channel vectors, s[0..5], to six of stride `to`. */
static void forward_line(const float *const *s, float *restrict d, int64_t to, int64_t channels) {
    const float *restrict s0 = s[0], *restrict s1 = s[1], *restrict s2 = s[2];
    const float *restrict s3 = s[3], *restrict s4 = s[4], *restrict s5 = s[5];
    float *restrict d0 = d, *restrict d1 = d + to, *restrict d2 = d + 2 * to;
    float *restrict d3 = d + 3 * to, *restrict d4 = d + 4 * to, *restrict d5 = d + 5 * to;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) LINE(d, c, s0[c], s1[c], s2[c], s3[c], s4[c], s5[c]);
}

/* One line of A^T: six channel vectors of stride `from` to four of stride `to`. */
static void inverse_line(const float *s, int64_t from, float *restrict d, int64_t to, int64_t channels) {
    const float *s0 = s, *s1 = s + from, *s2 = s + 2 * from, *s3 = s + 3 * from, *s4 = s + 4 * from, *s5 = s + 5 * from;
    float *restrict d0 = d, *restrict d1 = d + to, *restrict d2 = d + 2 * to, *restrict d3 = d + 3 * to;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
        float a = s1[c] + s2[c], b = s1[c] - s2[c], e = s3[c] + s4[c], f = s3[c] - s4[c];
        d0[c] = s0[c] + a + e;
        d1[c] = b + 2 * f;
        d2[c] = a + 4 * e;
        d3[c] = b + 8 * f + s5[c];
    }
}

/* x [N, H, W, C] -> v [36, stride, C] for tiles first..last-1 of N * ceil(H/4) * ceil(W/4); zero padding of one pixel. */
static void tiles_in(const float *x, float *v, int64_t first, int64_t last, int64_t stride, int64_t height,
                     int64_t width, int64_t channels) {
    const int64_t down = (height + 3) / 4, across = (width + 3) / 4;
    float *zero = calloc(channels, sizeof(float)), *half = malloc(36 * channels * sizeof(float));
    for (int64_t t = first; t < last; ++t) {
        const int64_t n = t / (down * across), top = t / across % down * 4 - 1, left = t % across * 4 - 1;
        for (int64_t j = 0; j < 6; ++j) {
            const float *s[6];
            for (int64_t i = 0; i < 6; ++i) {
                const int64_t row = top + i, column = left + j;
                const int inside = row >= 0 && row < height && column >= 0 && column < width;
                s[i] = inside ? x + ((n * height + row) * width + column) * channels : zero;
            }
            forward_line(s, half + j * channels, 6 * channels, channels);
        }
        for (int64_t i = 0; i < 6; ++i) {
            const float *s[6];
            for (int64_t j = 0; j < 6; ++j) s[j] = half + (i * 6 + j) * channels;
            forward_line(s, v + (i * 6 * stride + t - first) * channels, stride * channels, channels);
        }
    }
    free(zero);
    free(half);
}

/* m [36, stride, pitch] -> y [N, H, W, K], plus bias [K], plus residual [N, H, W, K] unless NULL, then ReLU if asked. */
static void tiles_out(const float *m, float *y, const float *bias, const float *residual, int relu, int64_t first,
                      int64_t last, int64_t stride, int64_t pitch, int64_t height, int64_t width, int64_t channels) {
    const int64_t down = (height + 3) / 4, across = (width + 3) / 4;
    const float floor = relu ? 0.0f : -__builtin_inff();
    float *half = malloc(24 * channels * sizeof(float)), *line = malloc(4 * channels * sizeof(float));
    for (int64_t t = first; t < last; ++t) {
        const int64_t n = t / (down * across), top = t / across % down * 4, left = t % across * 4;
        for (int64_t j = 0; j < 6; ++j)
            inverse_line(m + (j * stride + t - first) * pitch, 6 * stride * pitch, half + j * channels, 6 * channels,
                         channels);
        for (int64_t i = 0; i < 4 && top + i < height; ++i) {
            inverse_line(half + i * 6 * channels, channels, line, channels, channels);
            for (int64_t j = 0; j < 4 && left + j < width; ++j) {
                const int64_t at = ((n * height + top + i) * width + left + j) * channels;
                const float *restrict s = line + j * channels, *restrict r = residual ? residual + at : NULL;
                float *restrict d = y + at;
                if (r) {
#pragma GCC ivdep
                    for (int64_t k = 0; k < channels; ++k) {
                        const float sum = s[k] + bias[k] + r[k];
                        d[k] = sum < floor ? floor : sum; /* this way round NaN stays NaN */
                    }
                } else {
#pragma GCC ivdep
                    for (int64_t k = 0; k < channels; ++k) {
                        const float sum = s[k] + bias[k];
                        d[k] = sum < floor ? floor : sum; /* this way round NaN stays NaN */
                    }
                }
            }
        }
    }
    free(half);
    free(line);
}

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t bits __attribute__((vector_size(4 * LANES)));
typedef float memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Sums of `rows` outputs (a constant at each call, so that they stay in registers) in one panel's columns.
 *
 * Output r starts at a + r * step and reads `height` lines of `run` numbers, `line` apart; panel: [height * run, PANEL].
 */
static inline __attribute__((always_inline)) void sums(const int rows, const float *a, int64_t step, int64_t height,
                                                       int64_t line, int64_t run, const float *panel,
                                                       const float *bias, int relu, float *to, int64_t pitch) {
    vector left_sum[ROWS], right_sum[ROWS];
    for (int r = 0; r < rows; ++r) {
        left_sum[r] = right_sum[r] = (vector){0};
        if (bias) left_sum[r] = *(const memory *)bias, right_sum[r] = *(const memory *)(bias + LANES);
    }
    for (int64_t i = 0; i < height; ++i, a += line)
        for (int64_t k = 0; k < run; ++k, panel += PANEL) {
            const vector left = *(const memory *)panel, right = *(const memory *)(panel + LANES);
#pragma GCC unroll 12
            for (int r = 0; r < rows; ++r) {
                const vector factor = a[r * step + k] - (vector){0}; /* a broadcast: x - 0 is x, x + 0 not for -0 */
                left_sum[r] += factor * left;
                right_sum[r] += factor * right;
            }
        }
    for (int r = 0; r < rows; ++r) {
        vector left = left_sum[r], right = right_sum[r];
        if (relu) { /* this way round NaN stays NaN */
            left = (vector)((bits)left & ~(left < (vector){0}));
            right = (vector)((bits)right & ~(right < (vector){0}));
        }
        *(memory *)(to + r * pitch) = left;
        *(memory *)(to + r * pitch + LANES) = right;
    }
}

/* `sums` for any number of outputs in a line, in equal steps: 7 as 4 + 3, since a step of 1 wastes most registers. */
static void line_of_sums(int64_t rows, const float *a, int64_t step, int64_t height, int64_t line, int64_t run,
                         const float *panel, const float *bias, int relu, float *to, int64_t pitch) {
    for (int64_t steps = (rows + ROWS - 1) / ROWS; steps > 0; --steps) {
        const int64_t now = (rows + steps - 1) / steps;
        switch (now) {
#define STEP(count)                                                                                            \
    case count:                                                                                                \
        sums(count, a, step, height, line, run, panel, bias, relu, to, pitch);                                 \
        break;
            STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6)
#if ROWS == 12
            STEP(7) STEP(8) STEP(9) STEP(10) STEP(11) STEP(12)
#endif
        }
        a += now * step, to += now * pitch, rows -= now;
    }
}

/* Columns of a panel: the caller pads K to a multiple of it. */
int64_t panel_width(void) { return PANEL; }

/* Rows that one step takes: a block of tiles is best a multiple of it. */
int64_t panel_rows(void) { return ROWS; }

/* Tiles first..last-1 of a convolution of x [N, H, W, C] to y [N, H, W, K], `block` tiles at a time.
 *
 * basis: the kernels in Winograd's basis, [36, pitch / PANEL, C, PANEL], pitch being K padded to a multiple of PANEL.
 * residual: [N, H, W, K], or NULL. scratch: 36 * block * (C + pitch) numbers. Several threads may share all but scratch.
 */
void convolve_winograd(const float *x, float *y, const float *basis, const float *bias, const float *residual,
                       float *scratch, int relu, int64_t first, int64_t last, int64_t block, int64_t height,
                       int64_t width, int64_t channels_in, int64_t channels_out) {
    const int64_t pitch = (channels_out + PANEL - 1) / PANEL * PANEL;
    float *v = scratch, *m = scratch + 36 * block * channels_in;
    for (; first < last; first += block) {
        const int64_t end = first + block < last ? first + block : last, count = end - first;
        tiles_in(x, v, first, end, count, height, width, channels_in);
        for (int64_t i = 0; i < 36; ++i)
            for (int64_t column = 0; column < pitch; column += PANEL)
                line_of_sums(count, v + i * count * channels_in, channels_in, 1, 0, channels_in,
                             basis + (i * pitch + column) * channels_in, NULL, 0, m + i * count * pitch + column, pitch);
        tiles_out(m, y, bias, residual, relu, first, end, count, pitch, height, width, channels_out);
    }
}

/* Columns first..last-1 (multiples of PANEL) of a convolution of any kernel and stride, of x [N, H, W, C], padded
 * already, to y [N, Y, X, K].
 *
 * weight: [K / PANEL, kernel * kernel * C, PANEL]; no multiplication is saved, no number is moved before it is used.
 */
void convolve_direct(const float *x, float *y, const float *weight, const float *bias, int relu, int64_t first,
                     int64_t last, int64_t images, int64_t height, int64_t width, int64_t channels_in,
                     int64_t height_out, int64_t width_out, int64_t channels_out, int64_t kernel, int64_t stride) {
    const int64_t line = width * channels_in, run = kernel * channels_in;
    for (int64_t n = 0; n < images; ++n)
        for (int64_t column = first; column < last; column += PANEL)
            for (int64_t row = 0; row < height_out; ++row)
                line_of_sums(width_out, x + (n * height + row * stride) * line, stride * channels_in, kernel, line, run,
                             weight + column * kernel * run, bias + column, relu,
                             y + (n * height_out + row) * width_out * channels_out + column, channels_out);
}
