/* Winograd's transforms of one line of a tile: pixels to numbers, sums at points to outputs. */
#pragma once

#include "vector.h"

/* F(4, 3) at the points infinity, 0, a, -a, b, -b (transforms.py has the kernels' part). a * b being 1, and neither
 * being large, rounding is magnified less than at the usual 1 and 2. */
#define A_OF_THREE (2.0f / 3)
#define B_OF_THREE (3.0f / 2)

/* One line of B^T: six vectors to six. */
INLINE void forward_line(const float a, const float b, const vector *s, vector *d) {
    const vector p = s[4] - b * b * s[2], q = a * (s[3] - b * b * s[1]);
    const vector r = s[4] - a * a * s[2], t = b * (s[3] - a * a * s[1]);
    d[0] = s[1] + s[5] - (a * a + b * b) * s[3];
    d[1] = s[0] + s[4] - (a * a + b * b) * s[2];
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
        forward_line(A_OF_THREE, B_OF_THREE, s, to);
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
    const vector sums[] = {s[0] + s[1], s[1] + s[2], s[2] + s[3], s[3] + s[4], s[4] + s[5], s[5] + s[6]};
    forward_line(A_OF_FOUR, B_OF_FOUR, sums, d);
    d[6] = s[1] + s[5] - (A_OF_FOUR * A_OF_FOUR + B_OF_FOUR * B_OF_FOUR) * s[3];
}

INLINE void inverse_line_of_four(const vector *s, vector *d) {
    inverse_line(A_OF_FOUR, B_OF_FOUR, s, d);
    d[0] += s[6], d[1] -= s[6], d[2] += s[6], d[3] -= s[6];
}
