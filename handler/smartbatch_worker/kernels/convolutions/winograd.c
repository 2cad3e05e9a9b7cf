/* Convolutions on channels-last images: Winograd F(4x4, 3x3) for 3x3 kernels, of stride 1 and 2, F(4x4, 4x4) for a
 * first layer's 7x7 of stride 2 (at the end), direct sums for the others.
 *
 * A 3x3 convolution needs 9 multiplications an output; computed on 6x6 input tiles in Winograd's basis it needs
 * 36/16 = 2.25, and 81/16 at stride 2. A block of tiles at a time, so that what is between the steps stays in the
 * cache: tiles_in -> V [points, tiles, C];  M = V @ U, [points, tiles, K];  tiles_out -> image.
 *
 * Images are float. Products are of float or, where the processor has bf16 dot products, of bf16 with float sums: then
 * V, U and what direct sums read are bf16, two numbers to a lane. Functions that end in _of are compiled once for each.
 */
#include <stdint.h>
#include <string.h>

#include "parallel.h"

/* One step of the matrix product keeps ROWS x 2 vectors of sums in registers. More than 10 of AVX-512's fit, but then
 * gcc's code is a tenth slower; 8 were the fastest. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 6
#endif
#define PANEL (2 * LANES)
/* Vectors of channels that a tile's transforms take at a time: half a KiB of each pixel, so that memory is read and
 * written in runs, and what is between their two passes stays in the first cache. */
#define STRIPE (128 / LANES)

#if defined(__AVX512BF16__) && defined(__AVX512F__)
#include <immintrin.h>
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t bits __attribute__((vector_size(4 * LANES)));
typedef float memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vector load(const float *from) { return *(const memory *)from; }
INLINE void store(float *to, vector x) { *(memory *)to = x; }

/* Where number `index` stands in an array of float or bf16. */
INLINE void *at(const void *array, int64_t index, const int bf16) { return (char *)array + index * (bf16 ? 2 : 4); }

/* LANES numbers to an array of float or bf16. */
INLINE void put(void *array, int64_t index, vector x, const int bf16) {
#if HAS_BF16
    if (bf16) {
        _mm256_storeu_si256(at(array, index, 1), (__m256i)_mm512_cvtneps_pbh((__m512)x));
        return;
    }
#endif
    store(at(array, index, bf16), x);
}

/* NaN stays NaN. */
INLINE vector clipped(vector x) { return (vector)((bits)x & ~(x < (vector){0})); }
INLINE vector larger(vector a, vector b) {
    const bits take_b = (a < b) | (b != b);
    return (vector)(((bits)b & take_b) | ((bits)a & ~take_b));
}

/* F(4, 3) at the points infinity, 0, a, -a, b, -b (winograd.py has the kernels' part). a * b being 1, and neither
 * being large, rounding is magnified less than at the usual 1 and 2. */
#define A_OF_THREE (2.0f / 3)
#define B_OF_THREE (3.0f / 2)

/* One line of B^T: six vectors to six. */
INLINE void forward_line(const float a, const float b, vector s0, vector s1, vector s2, vector s3, vector s4, vector s5,
                         vector *d) {
    const vector p = s4 - b * b * s2, q = a * (s3 - b * b * s1), r = s4 - a * a * s2, t = b * (s3 - a * a * s1);
    d[0] = s1 + s5 - (a * a + b * b) * s3;
    d[1] = s0 + s4 - (a * a + b * b) * s2;
    d[2] = p + q;
    d[3] = p - q;
    d[4] = r + t;
    d[5] = r - t;
}

/* One line of A^T: six vectors to four. */
INLINE void inverse_line(const float a, const float b, const vector *s, vector *d) {
    const vector p = s[2] + s[3], q = s[2] - s[3], r = s[4] + s[5], t = s[4] - s[5];
    d[0] = s[1] + p + r;
    d[1] = a * q + b * t;
    d[2] = a * a * p + b * b * r;
    d[3] = a * a * a * q + b * b * b * t + s[0];
}

/* Stride 2: output i is what taps 0 and 2 make of pixels 2i and 2i + 2, F(4, 2) at the points infinity, c, -c, d, -d,
 * and what tap 1 makes of pixel 2i + 1, F(4, 1) at the same points but infinity, where one tap comes to nothing. Both
 * are summed before the transform back. These points magnify rounding least, among those without 0. */
#define C_OF_TWO (1.0f / 2)
#define D_OF_TWO (3.0f / 2)

/* Four pixels at c, -c, d, -d. */
INLINE void forward_four(vector s0, vector s1, vector s2, vector s3, vector *to) {
    const float c = C_OF_TWO, d = D_OF_TWO;
    const vector p = s3 - d * d * s1, q = c * (s2 - d * d * s0), r = s3 - c * c * s1, t = d * (s2 - c * c * s0);
    to[0] = p + q;
    to[1] = p - q;
    to[2] = r + t;
    to[3] = r - t;
}

/* A full tile's pixels in one direction to its numbers: of each point, or first of the even pixels, then of the odd. */
INLINE void forward_full(const int stride, const vector *s, vector *to) {
    if (stride == 1) {
        forward_line(A_OF_THREE, B_OF_THREE, s[0], s[1], s[2], s[3], s[4], s[5], to);
    } else {
        const float cc = C_OF_TWO * C_OF_TWO, dd = D_OF_TWO * D_OF_TWO;
        to[0] = s[8] - (cc + dd) * s[4] + cc * dd * s[0];
        forward_four(s[0], s[2], s[4], s[6], to + 1);
        forward_four(s[1], s[3], s[5], s[7], to + 5);
    }
}

/* The sums at a full tile's points to its four outputs. */
INLINE void inverse_full(const int stride, const vector *s, vector *to) {
    if (stride == 1) {
        inverse_line(A_OF_THREE, B_OF_THREE, s, to);
    } else {
        const float c = C_OF_TWO, d = D_OF_TWO;
        const vector p = s[1] + s[2], q = s[1] - s[2], r = s[3] + s[4], t = s[3] - s[4];
        to[0] = p + r;
        to[1] = c * q + d * t;
        to[2] = c * c * p + d * d * r;
        to[3] = c * c * c * q + d * d * d * t + s[0];
    }
}

/* matrix [rows, columns] @ s. */
INLINE void by_matrix(const float *matrix, int64_t rows, int64_t columns, const vector *s, vector *to) {
    for (int64_t i = 0; i < rows; ++i, matrix += columns) {
        vector sum = matrix[0] * s[0];
        for (int64_t j = 1; j < columns; ++j) sum += matrix[j] * s[j];
        to[i] = sum;
    }
}

/* F(4, 4) at the same kinds of points and -1: with four taps, these lose the fewest bits. */
#define A_OF_FOUR (1.0f / 2)
#define B_OF_FOUR 2.0f

INLINE void forward_line_of_four(const vector *s, vector *d) {
    forward_line(A_OF_FOUR, B_OF_FOUR, s[0] + s[1], s[1] + s[2], s[2] + s[3], s[3] + s[4], s[4] + s[5], s[5] + s[6], d);
    d[6] = s[1] + s[5] - (A_OF_FOUR * A_OF_FOUR + B_OF_FOUR * B_OF_FOUR) * s[3];
}

INLINE void inverse_line_of_four(const vector *s, vector *d) {
    inverse_line(A_OF_FOUR, B_OF_FOUR, s, d);
    d[0] += s[6], d[1] -= s[6], d[2] += s[6], d[3] -= s[6];
}

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

struct layer {
    const float *x, *zeros /* C, for pixels beyond the image */, *bias, *residual /* or NULL */;
    const void *basis;
    float *y;
    int relu;
    int64_t height, width, channels_in, height_out, width_out, channels_out;
    int64_t pitch; /* channels_out, padded to a multiple of PANEL */
    struct kind kinds[KINDS];
    int bf16;
    int64_t stride, tiles, block; /* of all images; of one part */
    int64_t columns;              /* of one part, a multiple of PANEL */
    float *scratch;
    int64_t scratch_pitch; /* from one thread's to the next one's */
};

/* Tiles first..last-1, counted through all kinds, and the output channels left..right-1. */
struct block {
    int64_t first, last, left, right;
};

INLINE int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

enum { MOST_NUMBERS = 9, MOST_POINTS = 6 };

/* x [N, H, W, C] -> v: for each point [tiles of the block, phases, C], those tiles that are of this kind. `are_full`:
 * the kind is INSIDE. */
INLINE void tiles_in_of(const int bf16, const int stride, const int are_full, const struct layer *l,
                        const struct kind *kind, struct block b, void *v) {
    const int64_t first = larger_of(b.first, kind->first), last = smaller_of(b.last, kind->last);
    const int64_t height = l->height, width = l->width, channels = l->channels_in;
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
                pixel[i][j] = is_inside ? l->x + ((n * height + y) * width + z) * channels : l->zeros;
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
    const int64_t full = stride == 1 ? 6 : 5, next = (b.last - b.first) * l->pitch, channels = l->channels_out;
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
                        vector sum = out[j] + load(l->bias + c + k);
                        if (l->residual) sum += load(l->residual + begin + j * channels);
                        store(l->y + begin + j * channels, l->relu ? clipped(sum) : sum);
                    }
                }
        }
    }
}

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

/* Columns of a panel: the caller pads K to a multiple of it. */
int64_t panel_width(void) { return PANEL; }

/* Channels in and out of a Winograd convolution, and of a pooled one, are multiples of it. */
int64_t num_lanes(void) { return LANES; }

/* Whether products of bf16 were compiled in; asked for without, they would be of float on bf16's memory. */
int has_bf16(void) { return HAS_BF16; }

/* The one kind that most tiles are of gets code for its own constants; the others share theirs. */
static void edges_in(int bf16, int stride, const struct layer *l, const struct kind *kind, struct block b, void *v) {
    tiles_in_of(HAS_BF16 && bf16, stride, 0, l, kind, b, v);
}

static void edges_out(int stride, const struct layer *l, const struct kind *kind, struct block b, const float *m) {
    tiles_out_of(stride, 0, l, kind, b, m);
}

INLINE void convolve_winograd_of(const int bf16, const int stride, const struct layer *l, struct block b, float *m) {
    const int64_t points = stride == 1 ? 6 : 5, count = b.last - b.first;
    void *v = m + points * points * l->block * l->pitch;
    for (int kind = 0; kind < KINDS; ++kind)
        if (kind == INSIDE)
            tiles_in_of(bf16, stride, 1, l, l->kinds + kind, b, v);
        else
            edges_in(bf16, stride, l, l->kinds + kind, b, v);
    for (int64_t i = 0; i < points; ++i)
        for (int64_t j = 0; j < points; ++j) {
            const int is_low = i < l->kinds[BOTTOM].down.points, is_narrow = j < l->kinds[RIGHT].across.points;
            const int64_t from = larger_of(b.first, l->kinds[is_low ? BOTTOM : INSIDE].first);
            const int64_t to = smaller_of(b.last, l->kinds[!is_narrow ? INSIDE : is_low ? CORNER : RIGHT].last);
            const int64_t run = phases(stride, i) * phases(stride, j) * l->channels_in;
            const int64_t before = begin_of(stride, i, j) * l->channels_in;
            for (int64_t column = b.left; column < b.right && from < to; column += PANEL)
                line_of_sums(bf16, to - from, at(v, before * count + (from - b.first) * run, bf16), run, 1, 0, run,
                             at(l->basis, before * l->pitch + column * run, bf16), NULL, NULL, 0,
                             m + ((i * points + j) * count + from - b.first) * l->pitch + column, l->pitch);
        }
    for (int kind = 0; kind < KINDS; ++kind)
        if (kind == INSIDE)
            tiles_out_of(stride, 1, l, l->kinds + kind, b, m);
        else
            edges_out(stride, l, l->kinds + kind, b, m);
}

static void winograd_part(const void *call, int64_t part, int thread) {
    const struct layer *l = call;
    const int64_t groups = (l->pitch + l->columns - 1) / l->columns;
    const int64_t first = part / groups * l->block, left = part % groups * l->columns;
    const int64_t last = smaller_of(first + l->block, l->tiles), right = smaller_of(left + l->columns, l->pitch);
    const struct block b = {first, last, left, right};
    float *m = l->scratch + thread * l->scratch_pitch;
    if (l->bf16 && l->stride == 1)
        convolve_winograd_of(HAS_BF16, 1, l, b, m);
    else if (l->bf16)
        convolve_winograd_of(HAS_BF16, 2, l, b, m);
    else if (l->stride == 1)
        convolve_winograd_of(0, 1, l, b, m);
    else
        convolve_winograd_of(0, 2, l, b, m);
}

static size_t bytes(int64_t numbers, int bf16) { return numbers * (bf16 ? 2 : 4); }

/* The least that the transformed tiles of a block may take: what stays in the second cache beside a layer's weights. */
#define BLOCK_BYTES (1 << 18)

/* A layer's sizes, and how it is cut into blocks.
 *
 * Every block reads all weights once, and writes and reads its transformed tiles once: a block whose tiles are as large
 * as the weights wastes little on either. Small weights stay in the second cache, and so should the tiles then.
 */
static struct layer winograd_plan(int bf16, int threads, int64_t images, int64_t height, int64_t width,
                                  int64_t channels_in, int64_t channels_out, int64_t stride) {
    struct layer l = {.bf16 = bf16, .stride = stride, .height = height, .width = width, .channels_in = channels_in};
    l.channels_out = channels_out, l.pitch = (channels_out + PANEL - 1) / PANEL * PANEL;
    l.height_out = (height - 1) / stride + 1, l.width_out = (width - 1) / stride + 1;
    l.tiles = images * ((l.height_out + 3) / 4) * ((l.width_out + 3) / 4);
    const int64_t numbers = (stride == 1 ? 36 : 81) * channels_in, sums = (stride == 1 ? 36 : 25) * l.pitch;
    const int64_t tile_bytes = bytes(numbers, bf16) + bytes(sums, 0);
    const int64_t room = larger_of(BLOCK_BYTES, bytes(numbers * l.pitch, bf16));
    const int64_t blocks = larger_of(threads, (l.tiles * tile_bytes + room / 2) / room);
    const int64_t steps = ((l.tiles + blocks - 1) / blocks + ROWS - 1) / ROWS; /* of the matrix product */
    l.block = larger_of(1, smaller_of(l.tiles, steps * ROWS));
    l.scratch_pitch = l.block * (numbers + sums);
    return l;
}

/* Floats of scratch that `convolve_winograd` needs: zeros for pixels beyond an image, and each thread's tiles. */
int64_t winograd_scratch(int bf16, int threads, int64_t images, int64_t height, int64_t width, int64_t channels_in,
                         int64_t channels_out, int64_t stride) {
    const struct layer l = winograd_plan(bf16, threads, images, height, width, channels_in, channels_out, stride);
    return channels_in + threads * l.scratch_pitch;
}

/* A 3x3 convolution of x [N, H, W, C], padding 1, to y [N, Y, X, K], a block of tiles at a time, by `threads` threads;
 * where there are fewer blocks than threads, they share the output channels too.
 *
 * basis: the kernels in Winograd's basis: for each of 36 or, at stride 2, 25 points [pitch / PANEL, phases * C, PANEL],
 * pitch being K padded to a multiple of PANEL; in bf16 [pitch / PANEL, phases * C / 2, PANEL, 2]. residual: as y, or
 * NULL. transforms: see kinds_of. scratch: as many floats as winograd_scratch says.
 */
void convolve_winograd(const float *x, float *y, const void *basis, const float *bias, const float *residual,
                       const float *transforms, float *scratch, int bf16, int relu, int threads, int64_t images,
                       int64_t height, int64_t width, int64_t channels_in, int64_t channels_out, int64_t stride) {
    struct layer l = winograd_plan(bf16, threads, images, height, width, channels_in, channels_out, stride);
    l.x = x, l.y = y, l.basis = basis, l.bias = bias, l.residual = residual, l.relu = relu;
    l.zeros = memset(scratch, 0, channels_in * sizeof *scratch);
    l.scratch = scratch + channels_in;
    kinds_of(stride, images, l.height_out, l.width_out, transforms, l.kinds);
    const int64_t blocks = (l.tiles + l.block - 1) / l.block, panels = l.pitch / PANEL;
    const int64_t groups = blocks && blocks < threads ? smaller_of((threads + blocks - 1) / blocks, panels) : 1;
    l.columns = (panels + groups - 1) / groups * PANEL;
    in_parts(winograd_part, &l, blocks * ((l.pitch + l.columns - 1) / l.columns), threads);
}

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

/* The largest of 3x3 pixels, every second pixel of one line, plus bias, then ReLU if asked: adding the same to all of
 * them changes nothing of which is the largest. rows of [width, PANEL] -> to [(width + 1) / 2, pitch]. */
static void pool_line(const float *const *rows, int64_t num_rows, int64_t width, const float *bias, int relu, float *to,
                      int64_t pitch) {
    for (int64_t middle = 0; middle < width; middle += 2, to += pitch)
        for (int64_t k = 0; k < PANEL; k += LANES) {
            vector most = load(rows[0] + middle * PANEL + k);
            for (int64_t i = 0; i < num_rows; ++i)
                for (int64_t column = middle ? middle - 1 : 0; column <= middle + 1 && column < width; ++column)
                    most = larger(most, load(rows[i] + column * PANEL + k));
            most += load(bias + k);
            store(to + k, relu ? clipped(most) : most);
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

/* A 7x7 convolution of stride 2 is four of 4x4, stride 1, on every second pixel (one tap too many being zero):
 * output 2i of one direction is what the even taps make of the even pixels and the odd taps of the odd ones. In F(4x4,
 * 4x4) each takes 49 multiplications for 16 outputs, and they are summed before the transform back: 12.25 an output
 * and channel instead of 49. For few input channels, where the images' transform costs next to nothing. */
enum { POINTS = 7, TILE = 4, INPUT = 2 * TILE + 5 /* lines that a tile reads */ };

struct strided {
    const float *x, *basis, *bias;
    float *y, *scratch;
    int pools, relu;
    int64_t height, width, channels_in, height_out, width_out, channels_out, padding;
    int64_t panels; /* of one part */
    int64_t across, block, pairs, group;
    int64_t line_pitch, half_pitch, v_pitch; /* with LANES numbers more than a row has: its last vector may use them */
    int64_t half, v, m, lines, end;          /* where a part of scratch begins */
};

/* With its sizes, for parts of `panels` panels. */
static struct strided strided_plan(int64_t width_out, int64_t channels_in, int64_t panels) {
    struct strided s = {.width_out = width_out, .channels_in = channels_in, .panels = panels};
    s.across = (width_out + TILE - 1) / TILE;
    const int64_t blocks = (s.across + 27) / 28;
    s.block = (s.across + blocks - 1) / blocks;
    s.pairs = TILE * s.across + 3; /* of pixels, an even and an odd one */
    s.group = 4 * channels_in;     /* numbers of one pair of pixels in one pair of lines */
    s.line_pitch = 2 * s.pairs * channels_in + LANES;
    s.half_pitch = s.pairs * s.group + LANES;
    s.v_pitch = s.block * s.group + LANES;
    s.half = INPUT * s.line_pitch;
    s.v = s.half + POINTS * s.half_pitch;
    s.m = s.v + POINTS * POINTS * s.v_pitch;
    s.lines = s.m + POINTS * POINTS * s.block * PANEL;
    s.end = s.lines + panels * (TILE + 1) * TILE * s.across * PANEL;
    return s;
}

/* Panels of one part: all of an image's, which share its transform, unless there are fewer images than threads. */
static int64_t panels_a_part(int64_t images, int64_t channels_out, int threads) {
    return images < threads ? 1 : channels_out / PANEL;
}

/* Floats of scratch that `convolve_strided` needs. */
int64_t strided_scratch(int64_t images, int64_t width_out, int64_t channels_in, int64_t channels_out, int threads) {
    return threads * strided_plan(width_out, channels_in, panels_a_part(images, channels_out, threads)).end;
}

/* Lines top.. of an image [H, W, C], zeros around it, to lines [INPUT, pitch] that begin `padding` pixels before it. */
static void gather_lines(const float *x, float *to, int64_t pitch, int64_t top, int64_t padding, int64_t height,
                         int64_t width, int64_t channels) {
    const int64_t before = padding * channels, room = pitch - before;
    const int64_t run = width * channels < room ? width * channels : room;
    for (int64_t i = 0; i < INPUT; ++i, to += pitch) {
        const int is_inside = top + i >= 0 && top + i < height;
        memset(to, 0, (is_inside ? before : pitch) * sizeof *to);
        if (is_inside) {
            memcpy(to + before, x + (top + i) * width * channels, run * sizeof *to);
            memset(to + before + run, 0, (room - run) * sizeof *to);
        }
    }
}

/* lines [INPUT, 2 * pairs, C] -> half [POINTS, pairs, 2 (even, odd lines), 2 C]. What a vector writes beyond its
 * numbers, the next one overwrites. */
static void transform_down(const float *lines, float *half, const struct strided *s, int64_t channels) {
    for (int64_t pair = 0; pair < s->pairs; ++pair)
        for (int odd = 0; odd < 2; ++odd)
            for (int64_t k = 0; k < 2 * channels; k += LANES) {
                vector in[POINTS], out[POINTS];
                for (int i = 0; i < POINTS; ++i)
                    in[i] = 2 * i + odd < INPUT ? load(lines + (2 * i + odd) * s->line_pitch + 2 * pair * channels + k)
                                                : (vector){0};
                forward_line_of_four(in, out);
                for (int p = 0; p < POINTS; ++p)
                    store(half + p * s->half_pitch + pair * s->group + odd * 2 * channels + k, out[p]);
            }
}

/* half -> v [POINTS, POINTS, count, group], tiles first.. of the line; vectors overlap as above. */
static void transform_across(const float *half, float *v, const struct strided *s, int64_t first, int64_t count) {
    for (int p = 0; p < POINTS; ++p)
        for (int64_t t = 0; t < count; ++t)
            for (int64_t k = 0; k < s->group; k += LANES) {
                vector in[POINTS], out[POINTS];
                for (int i = 0; i < POINTS; ++i)
                    in[i] = load(half + p * s->half_pitch + (TILE * (first + t) + i) * s->group + k);
                forward_line_of_four(in, out);
                for (int q = 0; q < POINTS; ++q) store(v + (p * POINTS + q) * s->v_pitch + t * s->group + k, out[q]);
            }
}

/* m [POINTS, POINTS, count, PANEL] -> TILE lines of [TILE * across, PANEL], tiles first.. of them. */
static void transform_back(const float *m, float *const *lines, int64_t first, int64_t count) {
    for (int64_t t = 0; t < count; ++t)
        for (int64_t k = 0; k < PANEL; k += LANES) {
            vector half[TILE][POINTS], in[POINTS], out[TILE];
            for (int q = 0; q < POINTS; ++q) {
                for (int p = 0; p < POINTS; ++p) in[p] = load(m + ((p * POINTS + q) * count + t) * PANEL + k);
                inverse_line_of_four(in, out);
                for (int i = 0; i < TILE; ++i) half[i][q] = out[i];
            }
            for (int i = 0; i < TILE; ++i) {
                inverse_line_of_four(half[i], out);
                for (int j = 0; j < TILE; ++j) store(lines[i] + (TILE * (first + t) + j) * PANEL + k, out[j]);
            }
        }
}

/* Where line `row` of the outputs stands: the last five are kept, since pooling looks back by one. */
static float *strided_line(float *scratch, const struct strided *s, int64_t panel, int64_t row) {
    return scratch + s->lines + (panel * (TILE + 1) + row % (TILE + 1)) * TILE * s->across * PANEL;
}

/* Bias and ReLU of one line: rows of [width, PANEL] -> to [width, pitch]. */
static void finish_line(const float *from, int64_t width, const float *bias, int relu, float *to, int64_t pitch) {
    for (int64_t column = 0; column < width; ++column, to += pitch)
        for (int64_t k = 0; k < PANEL; k += LANES) {
            const vector sum = load(from + column * PANEL + k) + load(bias + k);
            store(to + k, relu ? clipped(sum) : sum);
        }
}

/* The products and the transform back of TILE lines of outputs, from `top`, of panels from..to-1. */
static void strided_tiles(const struct strided *s, float *scratch, int64_t top, int64_t from, int64_t to) {
    const int64_t panels = s->channels_out / PANEL;
    for (int64_t t = 0; t < s->across; t += s->block) {
        const int64_t count = smaller_of(s->across - t, s->block);
        transform_across(scratch + s->half, scratch + s->v, s, t, count);
        for (int64_t panel = from; panel < to; ++panel) {
            for (int64_t i = 0; i < POINTS * POINTS; ++i)
                line_of_floats(count, scratch + s->v + i * s->v_pitch, s->group, 1, 0, s->group,
                               s->basis + (i * panels + panel) * s->group * PANEL, NULL, NULL, 0,
                               scratch + s->m + i * count * PANEL, PANEL);
            float *lines[TILE];
            for (int64_t i = 0; i < TILE; ++i) lines[i] = strided_line(scratch, s, panel - from, top + i);
            transform_back(scratch + s->m, lines, t, count);
        }
    }
}

/* Some panels of one image. */
static void strided_part(const void *call, int64_t part, int thread) {
    const struct strided *s = call;
    const int64_t parts = s->channels_out / PANEL / s->panels, n = part / parts, from = part % parts * s->panels;
    const int64_t rows_of_y = s->pools ? (s->height_out + 1) / 2 : s->height_out;
    const int64_t run_of_y = (s->pools ? (s->width_out + 1) / 2 : s->width_out) * s->channels_out;
    float *scratch = s->scratch + thread * s->end;
    for (int64_t top = 0; top < s->height_out; top += TILE) {
        gather_lines(s->x + n * s->height * s->width * s->channels_in, scratch, s->line_pitch, 2 * top - s->padding,
                     s->padding, s->height, s->width, s->channels_in);
        transform_down(scratch, scratch + s->half, s, s->channels_in);
        strided_tiles(s, scratch, top, from, from + s->panels);
        for (int64_t panel = 0; panel < s->panels; ++panel)
            for (int64_t row = top; row < smaller_of(top + TILE, s->height_out); row += 1 + s->pools) {
                const float *bias = s->bias + (from + panel) * PANEL, *lines[3];
                float *line = s->y + (n * rows_of_y + row / (1 + s->pools)) * run_of_y + (from + panel) * PANEL;
                int64_t num_lines = 0;
                for (int64_t near = row - s->pools; near <= row + s->pools; ++near)
                    if (near >= 0 && near < s->height_out)
                        lines[num_lines++] = strided_line(scratch, s, panel, near);
                if (s->pools)
                    pool_line(lines, num_lines, s->width_out, bias, s->relu, line, s->channels_out);
                else
                    finish_line(lines[0], s->width_out, bias, s->relu, line, s->channels_out);
            }
    }
}

/* A 7x7, stride 2 convolution of x [N, H, W, C] to y [N, Y, X, K], or, with `pools`, to the largest of 3x3 at stride 2
 * and padding 1, y [N, (Y + 1) / 2, (X + 1) / 2, K]; K is a multiple of PANEL.
 *
 * basis: [49, K / PANEL, 4 C, PANEL]. scratch: as many floats as strided_scratch says.
 */
void convolve_strided(const float *x, float *y, const float *basis, const float *bias, float *scratch, int pools,
                      int relu, int threads, int64_t images, int64_t height, int64_t width, int64_t channels_in,
                      int64_t height_out, int64_t width_out, int64_t channels_out, int64_t padding) {
    struct strided s = strided_plan(width_out, channels_in, panels_a_part(images, channels_out, threads));
    s.x = x, s.basis = basis, s.bias = bias, s.y = y, s.scratch = scratch, s.pools = pools, s.relu = relu;
    s.height = height, s.width = width, s.height_out = height_out, s.channels_out = channels_out, s.padding = padding;
    in_parts(strided_part, &s, images * (channels_out / PANEL / s.panels), threads);
}
