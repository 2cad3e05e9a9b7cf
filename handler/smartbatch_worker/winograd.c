/* Winograd F(4x4, 3x3) around a batched matrix product, on channels-last images.
 *
 * A 3x3 convolution of stride 1 needs 9 multiplications an output; computed on 6x6 input tiles in Winograd's basis it
 * needs 36/16 = 2.25. The caller runs:  tiles_in -> V [36, tiles, C];  M = V @ U, [36, tiles, K];  tiles_out -> image.
 * Loops run over contiguous channels, so the compiler vectorises them for whatever -march=native means here.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROW(d, c, a0, a1, a2, a3, a4, a5)                                                                     \
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
    for (int64_t c = 0; c < channels; ++c) ROW(d, c, s0[c], s1[c], s2[c], s3[c], s4[c], s5[c]);
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
void tiles_in(const float *x, float *v, int64_t first, int64_t last, int64_t stride, int64_t height, int64_t width,
              int64_t channels) {
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

/* m [36, stride, K] -> y [N, H, W, K], plus bias [K], plus residual [N, H, W, K] unless NULL, then ReLU if asked. */
void tiles_out(const float *m, float *y, const float *bias, const float *residual, int relu, int64_t first, int64_t last,
               int64_t stride, int64_t height, int64_t width, int64_t channels) {
    const int64_t down = (height + 3) / 4, across = (width + 3) / 4;
    const float floor = relu ? 0.0f : -__builtin_inff();
    float *half = malloc(24 * channels * sizeof(float)), *line = malloc(4 * channels * sizeof(float));
    for (int64_t t = first; t < last; ++t) {
        const int64_t n = t / (down * across), top = t / across % down * 4, left = t % across * 4;
        for (int64_t j = 0; j < 6; ++j)
            inverse_line(m + (j * stride + t - first) * channels, 6 * stride * channels, half + j * channels, 6 * channels,
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
