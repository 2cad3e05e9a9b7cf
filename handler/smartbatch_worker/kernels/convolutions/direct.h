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

struct pad {
    void *to;       /* [N, H + 2 padding, W + 2 padding, C], float or bf16 */
    const float *x; /* [N, H, W, C] */
    int64_t images, height, width, channels, padding, bf16;
};

/* x to `to`, zeros around it. */
void pad(const struct pad *given) {
    const int64_t run = given->width * given->channels, edge = given->padding * given->channels;
    const int64_t around = given->padding * (run + 2 * edge);
    const int bf16 = given->bf16 != 0;
    const float *x = given->x;
    void *to = given->to;
    for (int64_t n = 0; n < given->images; ++n) {
        memset(to, 0, bytes(around, bf16)), to = at(to, around, bf16);
        for (int64_t row = 0; row < given->height; ++row, x += run) {
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

/* What `convolve_direct` is given: a convolution of any kernel and stride, of x, padded already, to y; K is a multiple
 * of PANEL. */
struct direct {
    float *y;      /* [N, Y, X, K], or pooled: [N, (Y + 1) / 2, (X + 1) / 2, K] */
    const void *x; /* [N, H, W, C], float or bf16 */
    /* [K / PANEL, kernel, kernel * C, PANEL]; in bf16 kernel * C is rounded up to even, with weights of zero, and one
     * number beyond x is read. */
    const void *weight;
    const float *bias;
    const float *residual; /* as y, to be added before the ReLU, or NULL; NULL where outputs are pooled */
    float *lines;          /* 3 * X * PANEL floats a thread, to pool to the largest of 3x3 at stride 2 and padding 1;
                              or NULL: not to pool */
    int64_t images, height, width, channels_in, height_out, width_out, channels_out, kernel, stride;
    int64_t bf16, relu, threads;
};

/* One panel of one image. */
static void direct_part(const void *call, int64_t part, int thread) {
    const struct direct *l = call;
    const int64_t panels = l->channels_out / PANEL, n = part / panels, column = part % panels * PANEL;
    const int64_t line = l->width * l->channels_in, width_out = l->width_out, channels_out = l->channels_out;
    const int64_t run = l->kernel * l->channels_in + (l->bf16 && l->kernel * l->channels_in % 2);
    const void *panel = at(l->weight, column * l->kernel * run, l->bf16);
    float *pooled = l->lines ? l->lines + thread * 3 * width_out * PANEL : NULL;
    const int64_t pixels = pooled ? (l->height_out + 1) / 2 * ((width_out + 1) / 2) : l->height_out * width_out;
    float *to = l->y + n * pixels * channels_out + column;
    for (int64_t row = 0; row < l->height_out; ++row) {
        float *sums = pooled ? pooled + row % 3 * width_out * PANEL : to + row * width_out * channels_out;
        const struct sums row_of_sums = {
            .to = sums,
            .rows = width_out,
            .pitch = pooled ? PANEL : channels_out,
            .from = at(l->x, (n * l->height + row * l->stride) * line, l->bf16),
            .step = l->stride * l->channels_in,
            .height = l->kernel,
            .line = line,
            .run = run,
            .panel = panel,
            .bias = pooled ? NULL : l->bias + column,
            .residual = l->residual ? l->residual + (sums - l->y) : NULL,
            .relu = l->relu && !pooled,
        };
        line_of_sums(l->bf16, &row_of_sums);
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

/* No multiplication is saved, no number is moved before it is used. */
void convolve_direct(const struct direct *given) {
    in_parts(direct_part, given, given->images * (given->channels_out / PANEL), given->threads);
}
