/* Convolutions on channels-last images: Winograd F(4x4, 3x3) for 3x3 kernels, of stride 1 and 2 (tiled.h), F(4x4, 4x4)
 * for a first layer's 7x7 of stride 2 (first_layer.h), direct sums for the others (direct.h).
 *
 * A 3x3 convolution needs 9 multiplications an output; computed on 6x6 input tiles in Winograd's basis it needs
 * 36/16 = 2.25, and 81/16 at stride 2. A block of tiles at a time, so that what is between the steps stays in the
 * cache: tiles_in -> V [points, tiles, C];  M = V @ U, [points, tiles, K];  tiles_out -> image.
 *
 * Images are float. Products are of float or, where the processor has bf16 dot products, of bf16 with float sums: then
 * V, U and what direct sums read are bf16, two numbers to a lane. Functions that end in _of are compiled once for each.
 */
#include "direct.h"
#include "first_layer.h"
#include "tiled.h"

/* Columns of a panel: the caller pads K to a multiple of it. */
int64_t panel_width(void) { return PANEL; }

/* Channels in and out of a Winograd convolution, and of a pooled one, are multiples of it. */
int64_t num_lanes(void) { return LANES; }

/* Whether products of bf16 were compiled in; asked for without, they would be of float on bf16's memory. */
int64_t has_bf16(void) { return HAS_BF16; }
