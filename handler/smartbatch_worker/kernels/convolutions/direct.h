/* Direct sums, for convolutions that Winograd's basis does not help. */
#pragma once

#include "parallel.h"
#include "pooling.h"
#include "product.h"

static uint16_t bf16_of(float x) { /* to the nearest, to even where two are as near; NaN stays NaN */
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return x != x ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

/* x [N, H, W, C] -> to [N, H + 2 padding, W + 2 padding, C], zeros around it, float or bf16. */
void pad(const float *x, void *to, int bf16, int64_t images, int64_t height, int64_t width, int64_t channels,
         int64_t padding) {
    const int64_t edge = padding * channels, run = width * channels, around = padding * (run + 2 * edge);
    for (int64_t n = 0; n < images; ++n) {
        memset(to, 0, bytes(around, bf16)), to = at(to, around, bf16);
        for (int64_t row = 0; row < height; ++row, x += run) {
            memset(to, 0, bytes(edge, bf16)), to = at(to, edge, bf16);
            if (bf16) {
                int64_t k = 0;
                for (; HAS_BF16 && k + LANES <= run; k += LANES) put(to, k, load(x + k), HAS_BF16);
                for (; k < run; ++k) ((uint16_t *)to)[k] = bf16_of(x[k]);
            } else {
                memcpy(to, x, run * sizeof *x);
            }
            to = at(to, run, bf16);
            memset(to, 0, bytes(edge, bf16)), to = at(to, edge, bf16);
        }
        memset(to, 0, bytes(around, bf16)), to = at(to, around, bf16);
    }
}

struct direct {
    const void *x, *weight;
    const float *bias, *residual;
    float *y, *pooled;
    int bf16, relu;
    int64_t height, width, channels_in, height_out, width_out, channels_out, kernel, stride;
};

/* One panel of one image. */
static void direct_part(const void *call, int64_t part, int thread) {
    const struct direct *l = call;
    const int64_t panels = l->channels_out / PANEL, n = part / panels, column = part % panels * PANEL;
    const int64_t line = l->width * l->channels_in, width_out = l->width_out, channels_out = l->channels_out;
    const int64_t run = l->kernel * l->channels_in + (l->bf16 && l->kernel * l->channels_in % 2);
    const void *panel = at(l->weight, column * l->kernel * run, l->bf16);
    float *pooled = l->pooled ? l->pooled + thread * 3 * width_out * PANEL : NULL;
    const int64_t pixels = pooled ? (l->height_out + 1) / 2 * ((width_out + 1) / 2) : l->height_out * width_out;
    float *to = l->y + n * pixels * channels_out + column;
    for (int64_t row = 0; row < l->height_out; ++row) {
        const void *from = at(l->x, (n * l->height + row * l->stride) * line, l->bf16);
        float *sums = pooled ? pooled + row % 3 * width_out * PANEL : to + row * width_out * channels_out;
        line_of_sums(l->bf16, width_out, from, l->stride * l->channels_in, l->kernel, line, run, panel,
                     pooled ? NULL : l->bias + column, l->residual ? l->residual + (sums - l->y) : NULL,
                     l->relu && !pooled, sums, pooled ? PANEL : channels_out);
        const int64_t middle = row - row % 2; /* pooled lines are 0, 2, 4, each with what is around it */
        if (pooled && (row % 2 || row + 1 == l->height_out)) {
            const float *rows[3];
            int64_t num_rows = 0;
            for (int64_t near = middle ? middle - 1 : 0; near <= row; ++near)
                rows[num_rows++] = pooled + near % 3 * width_out * PANEL;
            pool_line(rows, num_rows, width_out, l->bias + column, l->relu,
                      to + middle / 2 * ((width_out + 1) / 2) * channels_out, channels_out);
        }
    }
}

/* A convolution of any kernel and stride, of x [N, H, W, C], padded already, float or bf16, to y [N, Y, X, K], or, with
 * `pooled` (3 * X * PANEL floats a thread), to the largest of 3x3 of them at stride 2 and padding 1, y [N, (Y + 1) / 2,
 * (X + 1) / 2, K]; K is a multiple of PANEL. residual: as y, to be added before the ReLU, or NULL; never both.
 *
 * weight: [K / PANEL, kernel, kernel * C, PANEL]; in bf16 kernel * C is rounded up to even, with weights of zero, and
 * one number beyond x is read. No multiplication is saved, no number is moved before it is used.
 */
void convolve_direct(const void *x, float *y, const void *weight, const float *bias, const float *residual,
                     float *pooled, int bf16, int relu, int threads, int64_t images, int64_t height, int64_t width,
                     int64_t channels_in, int64_t height_out, int64_t width_out, int64_t channels_out, int64_t kernel,
                     int64_t stride) {
    const struct direct l = {x,      weight, bias,        residual,   y,         pooled,       bf16,   relu,
                             height, width,  channels_in, height_out, width_out, channels_out, kernel, stride};
    in_parts(direct_part, &l, images * (channels_out / PANEL), threads);
}
