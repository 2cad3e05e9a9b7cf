/* Pixels of uint8 to float32, scaled and shifted per channel, channels last: three passes over memory in torch. */
#include <stdint.h>

/* to[pixel][channel] = from[pixel * next_pixel + channel * next_channel] * scale + offset. */
static inline __attribute__((always_inline)) void convert(const uint8_t *restrict from, float *restrict to,
                                                          int64_t num_pixels, int64_t num_channels, int64_t next_pixel,
                                                          int64_t next_channel, const float *restrict scale,
                                                          const float *restrict offset) {
    for (int64_t pixel = 0; pixel < num_pixels; pixel++)
        for (int64_t channel = 0; channel < num_channels; channel++)
            to[pixel * num_channels + channel] =
                (float)from[pixel * next_pixel + channel * next_channel] * scale[channel] + offset[channel];
}

/* `from` are planes, one a channel, or pixels; numbers of channels known here become loops of vectors. */
void normalise_image(const uint8_t *from, float *to, int64_t num_pixels, int64_t num_channels, int are_planes,
                     const float *scale, const float *offset) {
    if (num_channels == 1)
        convert(from, to, num_pixels, 1, 1, 1, scale, offset);
    else if (num_channels == 3 && are_planes)
        convert(from, to, num_pixels, 3, 1, num_pixels, scale, offset);
    else if (num_channels == 3)
        convert(from, to, num_pixels, 3, 3, 1, scale, offset);
    else if (are_planes)
        convert(from, to, num_pixels, num_channels, 1, num_pixels, scale, offset);
    else
        convert(from, to, num_pixels, num_channels, num_channels, 1, scale, offset);
}
