/* An image's tiles and a layer's, for 3x3 kernels: x -> V before the product, M -> y after it. */
#pragma once

#include "tile_transforms.h"

/* A tile's extent in one direction. Full tiles give four outputs, those at the far edge what is left, and need the
 * first so many of a full tile's points: with the very same kernels, since what those lack is in `forward`. */
struct side {
    int64_t outputs, numbers /* as many as pixels */, points;
    const float *forward /* [numbers, numbers] */, *inverse /* [outputs, points] */;
};

/* Takes its matrices from the front of `transforms`. */
INLINE struct side side_of(int64_t stride, int64_t outputs, const float **transforms) {
    if (!outputs) return (struct side){0};
    struct side s = {outputs, stride * (outputs - 1) + 3, outputs + 3 - stride, *transforms, NULL};
    s.inverse = s.forward + s.numbers * s.numbers;
    *transforms = s.inverse + s.outputs * s.points;
    return s;
}

/* Tiles of one shape: those inside the image, or along its edges. */
struct kind {
    struct side down, across;
    int64_t rows, columns, top, left; /* of tiles in an image; of the first one's first output */
    int64_t first, last;              /* counted through all images and, in order, kinds */
};

/* In the order in which tiles are counted: a point's, which are all or those with a full side, are one run. */
enum { BOTTOM, INSIDE, RIGHT, CORNER, KINDS };

/* transforms: of a full tile's side, then, where there are such, of one at the bottom and of one at the right. */
static void kinds_of(int64_t stride, int64_t images, int64_t height, int64_t width, const float *transforms,
                     struct kind *kinds) {
    const int64_t down = height / 4, across = width / 4;
    const struct side full = side_of(stride, 4, &transforms), low = side_of(stride, height % 4, &transforms);
    const struct side narrow = side_of(stride, width % 4, &transforms);
    kinds[BOTTOM] = (struct kind){low, full, height % 4 > 0, across, 4 * down, 0, 0, 0};
    kinds[INSIDE] = (struct kind){full, full, down, across, 0, 0, 0, 0};
    kinds[RIGHT] = (struct kind){full, narrow, down, width % 4 > 0, 0, 4 * across, 0, 0};
    kinds[CORNER] = (struct kind){low, narrow, height % 4 > 0, width % 4 > 0, 4 * down, 4 * across, 0, 0};
    for (int i = 0; i < KINDS; ++i) {
        kinds[i].first = i ? kinds[i - 1].last : 0;
        kinds[i].last = kinds[i].first + images * kinds[i].rows * kinds[i].columns;
    }
}

/* At stride 2, the numbers of a point: of even and of odd pixels, but at infinity of even ones alone. */
INLINE int64_t phases(int64_t stride, int64_t point) { return point ? stride : 1; }
/* How many numbers come before a point's. */
INLINE int64_t numbers_before(int64_t stride, int64_t point) { return point ? stride * (point - 1) + 1 : 0; }

/* Of V and U, the first number of point (i, j), for one tile and input channel. */
INLINE int64_t begin_of(int64_t stride, int64_t i, int64_t j) {
    return (stride == 1 ? 6 : 9) * numbers_before(stride, i) + phases(stride, i) * numbers_before(stride, j);
}

/* What `convolve_winograd` (tiled.h) is given: a 3x3 convolution of x, padding 1, to y. */
struct winograd {
    float *y;       /* [N, Y, X, K] */
    const float *x; /* [N, H, W, C] */
    /* The kernels in Winograd's basis: for each of 36 or, at stride 2, 25 points [pitch / PANEL, phases * C, PANEL],
     * pitch being K padded to a multiple of PANEL; in bf16 [pitch / PANEL, phases * C / 2, PANEL, 2]. */
    const void *basis;
    const float *bias;
    const float *residual;   /* as y, or NULL */
    const float *transforms; /* see kinds_of */
    float *scratch;          /* as many floats as winograd_scratch says */
    int64_t images, height, width, channels_in, channels_out, stride, bf16, relu, threads;
};

/* It, its sizes, and how it is cut into parts. */
struct layer {
    struct winograd given;
    const float *zeros; /* C, for pixels beyond the image */
    int64_t height_out, width_out;
    int64_t pitch; /* channels_out, padded to a multiple of PANEL */
    struct kind kinds[KINDS];
    int64_t tiles, block; /* of all images; of one part */
    int64_t columns;      /* of one part, a multiple of PANEL */
    float *scratch;
    int64_t scratch_pitch; /* from one thread's to the next one's */
};

/* Tiles first..last-1, counted through all kinds, and the output channels left..right-1. */
struct block {
    int64_t first, last, left, right;
};

enum { MOST_NUMBERS = 9, MOST_POINTS = 6 };

/* x [N, H, W, C] -> v: for each point [tiles of the block, phases, C], those tiles that are of this kind. `are_full`:
 * the kind is INSIDE. */
INLINE void tiles_in_of(const int bf16, const int stride, const int are_full, const struct layer *l,
                        const struct kind *kind, struct block b, void *v) {
    const int64_t first = larger_of(b.first, kind->first), last = smaller_of(b.last, kind->last);
    const int64_t height = l->given.height, width = l->given.width, channels = l->given.channels_in;
    const int64_t full = stride == 1 ? 6 : 9, stripe = STRIPE / stride * LANES;
    const int64_t rows = are_full ? full : kind->down.numbers, columns = are_full ? full : kind->across.numbers;
    int64_t to[MOST_NUMBERS][MOST_NUMBERS], step[MOST_NUMBERS][MOST_NUMBERS];
    for (int64_t p = 0; p < rows; ++p)
        for (int64_t q = 0; q < columns; ++q) {
            const int64_t odd_p = p >= kind->down.points, odd_q = q >= kind->across.points;
            const int64_t i = odd_p ? p - kind->down.points + 1 : p, j = odd_q ? q - kind->across.points + 1 : q;
            step[p][q] = phases(stride, i) * phases(stride, j) * channels;
            to[p][q] = begin_of(stride, i, j) * channels * (b.last - b.first) + (first - b.first) * step[p][q] +
                       (odd_p * phases(stride, j) + odd_q) * channels;
        }
    for (int64_t t = first - kind->first; t < last - kind->first; ++t) {
        const int64_t n = t / (kind->rows * kind->columns), row = t / kind->columns % kind->rows;
        const int64_t top = stride * (kind->top + 4 * row) - 1;
        const int64_t left = stride * (kind->left + 4 * (t % kind->columns)) - 1;
        const float *pixel[MOST_NUMBERS][MOST_NUMBERS];
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                const int64_t y = top + i, z = left + j;
                const int is_inside = y >= 0 && y < height && z >= 0 && z < width;
                pixel[i][j] = is_inside ? l->given.x + ((n * height + y) * width + z) * channels : l->zeros;
            }
        for (int64_t c = 0; c < channels; c += stripe) {
            const int64_t end = channels - c < stripe ? channels - c : stripe;
            vector half[MOST_NUMBERS * MOST_NUMBERS * STRIPE]; /* [rows, full, STRIPE] */
            vector in[MOST_NUMBERS], out[MOST_NUMBERS];
            for (int64_t j = 0; j < columns; ++j)
                for (int64_t k = 0; k < end; k += LANES) {
                    for (int64_t i = 0; i < rows; ++i) in[i] = load(pixel[i][j] + c + k);
                    if (are_full)
                        forward_full(stride, in, out);
                    else
                        by_matrix(kind->down.forward, rows, rows, in, out);
                    for (int64_t i = 0; i < rows; ++i) half[(i * full + j) * STRIPE + k / LANES] = out[i];
                }
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t k = 0; k < end; k += LANES) {
                    for (int64_t j = 0; j < columns; ++j) in[j] = half[(i * full + j) * STRIPE + k / LANES];
                    if (are_full)
                        forward_full(stride, in, out);
                    else
                        by_matrix(kind->across.forward, columns, columns, in, out);
                    for (int64_t j = 0; j < columns; ++j) put(v, to[i][j] + c + k, out[j], bf16);
                }
        }
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) to[i][j] += step[i][j];
    }
}

/* m [points, tiles of the block, pitch] -> y [N, Y, X, K], plus bias, plus residual, then ReLU: those of this kind. */
INLINE void tiles_out_of(const int stride, const int are_full, const struct layer *l, const struct kind *kind,
                         struct block b, const float *m) {
    const int64_t first = larger_of(b.first, kind->first), last = smaller_of(b.last, kind->last);
    const int64_t full = stride == 1 ? 6 : 5, next = (b.last - b.first) * l->pitch, channels = l->given.channels_out;
    const int64_t rows = are_full ? full : kind->down.points, columns = are_full ? full : kind->across.points;
    const int64_t rows_out = are_full ? 4 : kind->down.outputs, columns_out = are_full ? 4 : kind->across.outputs;
    m += (first - b.first) * l->pitch;
    for (int64_t t = first - kind->first; t < last - kind->first; ++t, m += l->pitch) {
        const int64_t n = t / (kind->rows * kind->columns), top = kind->top + t / kind->columns % kind->rows * 4;
        const int64_t left = kind->left + t % kind->columns * 4;
        for (int64_t c = b.left; c < smaller_of(b.right, channels); c += STRIPE * LANES) {
            const int64_t end = smaller_of(smaller_of(b.right, channels) - c, STRIPE * LANES);
            vector half[4][MOST_POINTS][STRIPE], in[MOST_POINTS], out[4];
            for (int64_t j = 0; j < columns; ++j)
                for (int64_t k = 0; k < end; k += LANES) {
                    for (int64_t i = 0; i < rows; ++i) in[i] = load(m + (i * full + j) * next + c + k);
                    if (are_full)
                        inverse_full(stride, in, out);
                    else
                        by_matrix(kind->down.inverse, rows_out, rows, in, out);
                    for (int64_t i = 0; i < rows_out; ++i) half[i][j][k / LANES] = out[i];
                }
            for (int64_t i = 0; i < rows_out; ++i)
                for (int64_t k = 0; k < end; k += LANES) {
                    for (int64_t j = 0; j < columns; ++j) in[j] = half[i][j][k / LANES];
                    if (are_full)
                        inverse_full(stride, in, out);
                    else
                        by_matrix(kind->across.inverse, columns_out, columns, in, out);
                    const int64_t begin = ((n * l->height_out + top + i) * l->width_out + left) * channels + c + k;
                    for (int64_t j = 0; j < columns_out; ++j) {
                        vector sum = out[j] + load(l->given.bias + c + k);
                        if (l->given.residual) sum += load(l->given.residual + begin + j * channels);
                        store(l->given.y + begin + j * channels, l->given.relu ? clipped(sum) : sum);
                    }
                }
        }
    }
}
