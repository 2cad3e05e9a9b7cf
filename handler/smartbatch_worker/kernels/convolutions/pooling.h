/* What follows an image network's first layer: the largest of 3x3 pixels at stride 2. */
#pragma once

#include "vector.h"

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
