/* Winograd F(4x4, 3x3), of stride 1 and 2: a block of tiles at a time, by several threads. */
#pragma once

#include "parallel.h"
#include "product.h"
#include "tiles.h"

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
            const int64_t run = phases(stride, i) * phases(stride, j) * l->given.channels_in;
            const int64_t before = begin_of(stride, i, j) * l->given.channels_in;
            for (int64_t column = b.left; column < b.right && from < to; column += PANEL) {
                const struct sums sums = {
                    .to = m + ((i * points + j) * count + from - b.first) * l->pitch + column,
                    .rows = to - from,
                    .pitch = l->pitch,
                    .from = at(v, before * count + (from - b.first) * run, bf16),
                    .step = run,
                    .height = 1,
                    .run = run,
                    .panel = at(l->given.basis, before * l->pitch + column * run, bf16),
                };
                line_of_sums(bf16, &sums);
            }
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
    if (l->given.bf16 && l->given.stride == 1)
        convolve_winograd_of(HAS_BF16, 1, l, b, m);
    else if (l->given.bf16)
        convolve_winograd_of(HAS_BF16, 2, l, b, m);
    else if (l->given.stride == 1)
        convolve_winograd_of(0, 1, l, b, m);
    else
        convolve_winograd_of(0, 2, l, b, m);
}

/* The least that the transformed tiles of a block may take: what stays in the second cache beside a layer's weights. */
#define BLOCK_BYTES (1 << 18)

/* A layer's sizes, and how it is cut into blocks.
 *
 * Every block reads all weights once, and writes and reads its transformed tiles once: a block whose tiles are as large
 * as the weights wastes little on either. Small weights stay in the second cache, and so should the tiles then.
 */
static struct layer winograd_plan(const struct winograd *given) {
    struct layer l = {.given = *given, .pitch = (given->channels_out + PANEL - 1) / PANEL * PANEL};
    l.height_out = (given->height - 1) / given->stride + 1, l.width_out = (given->width - 1) / given->stride + 1;
    l.tiles = given->images * ((l.height_out + 3) / 4) * ((l.width_out + 3) / 4);
    const int64_t numbers = (given->stride == 1 ? 36 : 81) * given->channels_in;
    const int64_t sums = (given->stride == 1 ? 36 : 25) * l.pitch;
    const int64_t tile_bytes = bytes(numbers, given->bf16) + bytes(sums, 0);
    const int64_t room = larger_of(BLOCK_BYTES, bytes(numbers * l.pitch, given->bf16));
    const int64_t blocks = larger_of(given->threads, (l.tiles * tile_bytes + room / 2) / room);
    const int64_t steps = ((l.tiles + blocks - 1) / blocks + ROWS - 1) / ROWS; /* of the matrix product */
    l.block = larger_of(1, smaller_of(l.tiles, steps * ROWS));
    l.scratch_pitch = l.block * (numbers + sums);
    return l;
}

/* Floats of scratch that `convolve_winograd` needs: zeros for pixels beyond an image, and each thread's tiles. */
int64_t winograd_scratch(const struct winograd *given) {
    return given->channels_in + given->threads * winograd_plan(given).scratch_pitch;
}

/* A block of tiles at a time, by `threads` threads; where there are fewer blocks than threads, they share the output
 * channels too. */
void convolve_winograd(const struct winograd *given) {
    struct layer l = winograd_plan(given);
    l.zeros = memset(given->scratch, 0, given->channels_in * sizeof *given->scratch);
    l.scratch = given->scratch + given->channels_in;
    kinds_of(given->stride, given->images, l.height_out, l.width_out, given->transforms, l.kinds);
    const int64_t blocks = (l.tiles + l.block - 1) / l.block, panels = l.pitch / PANEL, threads = given->threads;
    const int64_t groups = blocks && blocks < threads ? smaller_of((threads + blocks - 1) / blocks, panels) : 1;
    l.columns = (panels + groups - 1) / groups * PANEL;
    in_parts(winograd_part, &l, blocks * ((l.pitch + l.columns - 1) / l.columns), threads);
}
