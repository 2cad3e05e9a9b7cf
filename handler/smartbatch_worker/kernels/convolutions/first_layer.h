/* Winograd F(4x4, 4x4) for a first layer: 7x7, stride 2, few channels in. */
#pragma once

#include "parallel.h"
#include "pooling.h"
#include "product.h"
#include "tile_transforms.h"

/* A 7x7 convolution of stride 2 is four of 4x4, stride 1, on every second pixel (one tap too many being zero):
 * output 2i of one direction is what the even taps make of the even pixels and the odd taps of the odd ones. In F(4x4,
 * 4x4) each takes 49 multiplications for 16 outputs, and they are summed before the transform back: 12.25 an output
 * and channel instead of 49. For few input channels, where the images' transform costs next to nothing. */
enum { POINTS = 7, TILE = 4, INPUT = 2 * TILE + 5 /* lines that a tile reads */ };

/* What `convolve_strided` is given: a 7x7, stride 2 convolution of x to y; K is a multiple of PANEL. */
struct strided {
    float *y;           /* [N, Y, X, K], or, with `pools`, [N, (Y + 1) / 2, (X + 1) / 2, K] */
    const float *x;     /* [N, H, W, C] */
    const float *basis; /* [49, K / PANEL, 4 C, PANEL] */
    const float *bias;
    float *scratch; /* as many floats as strided_scratch says */
    int64_t images, height, width, channels_in, height_out, width_out, channels_out, padding;
    int64_t pools; /* to the largest of 3x3 at stride 2 and padding 1 */
    int64_t relu, threads;
};

/* It, its sizes, and how it is cut into parts. */
struct strided_plan {
    struct strided given;
    int64_t panels; /* of one part: an image's, which share its transform; one where threads outnumber images */
    int64_t across, block, pairs, group;
    int64_t line_pitch, half_pitch, v_pitch; /* with LANES numbers more than a row has: its last vector may use them */
    int64_t half, v, m, lines, end;          /* where a part of scratch begins */
};

static struct strided_plan strided_plan(const struct strided *given) {
    const int64_t channels = given->channels_in;
    struct strided_plan s = {.given = *given, .panels = given->channels_out / PANEL};
    if (given->images < given->threads) s.panels = 1;
    s.across = (given->width_out + TILE - 1) / TILE;
    const int64_t blocks = (s.across + 27) / 28;
    s.block = (s.across + blocks - 1) / blocks;
    s.pairs = TILE * s.across + 3; /* of pixels, an even and an odd one */
    s.group = 4 * channels;        /* numbers of one pair of pixels in one pair of lines */
    s.line_pitch = 2 * s.pairs * channels + LANES;
    s.half_pitch = s.pairs * s.group + LANES;
    s.v_pitch = s.block * s.group + LANES;
    s.half = INPUT * s.line_pitch;
    s.v = s.half + POINTS * s.half_pitch;
    s.m = s.v + POINTS * POINTS * s.v_pitch;
    s.lines = s.m + POINTS * POINTS * s.block * PANEL;
    s.end = s.lines + s.panels * (TILE + 1) * TILE * s.across * PANEL;
    return s;
}

/* Floats of scratch that `convolve_strided` needs. */
int64_t strided_scratch(const struct strided *given) { return given->threads * strided_plan(given).end; }

/* Lines top.. of image n, zeros around it, to lines [INPUT, line_pitch] that begin `padding` pixels before it. */
static void gather_lines(const struct strided_plan *s, int64_t n, int64_t top, float *to) {
    const int64_t height = s->given.height, line = s->given.width * s->given.channels_in, pitch = s->line_pitch;
    const int64_t before = s->given.padding * s->given.channels_in, room = pitch - before;
    const int64_t run = smaller_of(line, room);
    const float *x = s->given.x + n * height * line;
    for (int64_t i = 0; i < INPUT; ++i, to += pitch) {
        const int is_inside = top + i >= 0 && top + i < height;
        memset(to, 0, (is_inside ? before : pitch) * sizeof *to);
        if (is_inside) {
            memcpy(to + before, x + (top + i) * line, run * sizeof *to);
            memset(to + before + run, 0, (room - run) * sizeof *to);
        }
    }
}

/* lines [INPUT, 2 * pairs, C] -> half [POINTS, pairs, 2 (even, odd lines), 2 C]. What a vector writes beyond its
 * numbers, the next one overwrites. */
static void transform_down(const float *lines, float *half, const struct strided_plan *s) {
    const int64_t channels = s->given.channels_in;
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
static void transform_across(const float *half, float *v, const struct strided_plan *s, int64_t first, int64_t count) {
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
static float *strided_line(float *scratch, const struct strided_plan *s, int64_t panel, int64_t row) {
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
static void strided_tiles(const struct strided_plan *s, float *scratch, int64_t top, int64_t from, int64_t to) {
    const int64_t panels = s->given.channels_out / PANEL;
    for (int64_t t = 0; t < s->across; t += s->block) {
        const int64_t count = smaller_of(s->across - t, s->block);
        transform_across(scratch + s->half, scratch + s->v, s, t, count);
        for (int64_t panel = from; panel < to; ++panel) {
            for (int64_t i = 0; i < POINTS * POINTS; ++i) {
                const struct sums sums = {
                    .to = scratch + s->m + i * count * PANEL,
                    .rows = count,
                    .pitch = PANEL,
                    .from = scratch + s->v + i * s->v_pitch,
                    .step = s->group,
                    .height = 1,
                    .run = s->group,
                    .panel = s->given.basis + (i * panels + panel) * s->group * PANEL,
                };
                line_of_floats(&sums);
            }
            float *lines[TILE];
            for (int64_t i = 0; i < TILE; ++i) lines[i] = strided_line(scratch, s, panel - from, top + i);
            transform_back(scratch + s->m, lines, t, count);
        }
    }
}

/* Some panels of one image. */
static void strided_part(const void *call, int64_t part, int thread) {
    const struct strided_plan *s = call;
    const struct strided *given = &s->given;
    const int64_t pools = given->pools, height_out = given->height_out, channels_out = given->channels_out;
    const int64_t parts = channels_out / PANEL / s->panels, n = part / parts, from = part % parts * s->panels;
    const int64_t rows_of_y = pools ? (height_out + 1) / 2 : height_out;
    const int64_t run_of_y = (pools ? (given->width_out + 1) / 2 : given->width_out) * channels_out;
    float *scratch = given->scratch + thread * s->end;
    for (int64_t top = 0; top < height_out; top += TILE) {
        gather_lines(s, n, 2 * top - given->padding, scratch);
        transform_down(scratch, scratch + s->half, s);
        strided_tiles(s, scratch, top, from, from + s->panels);
        for (int64_t panel = 0; panel < s->panels; ++panel)
            for (int64_t row = top; row < smaller_of(top + TILE, height_out); row += 1 + pools) {
                const float *bias = given->bias + (from + panel) * PANEL, *lines[3];
                float *line = given->y + (n * rows_of_y + row / (1 + pools)) * run_of_y + (from + panel) * PANEL;
                int64_t num_lines = 0;
                for (int64_t near = row - pools; near <= row + pools; ++near)
                    if (near >= 0 && near < height_out) lines[num_lines++] = strided_line(scratch, s, panel, near);
                if (pools)
                    pool_line(lines, num_lines, given->width_out, bias, given->relu, line, channels_out);
                else
                    finish_line(lines[0], given->width_out, bias, given->relu, line, channels_out);
            }
    }
}

/* Each image, or panel of one, by itself. */
void convolve_strided(const struct strided *given) {
    const struct strided_plan s = strided_plan(given);
    in_parts(strided_part, &s, given->images * (given->channels_out / PANEL / s.panels), given->threads);
}
