/* Pixels of uint8 to float32, scaled and shifted per channel, channels last: three passes over memory in torch. */
#include <stdint.h>

struct normalise {
    float *out;           /* [pixels, channels] */
    const uint8_t *image; /* planes, [channels, pixels], or as `out` */
    const float *scale;   /* [channels] */
    const float *offset;  /* [channels] */
    int64_t num_pixels, num_channels, are_planes;
};

/* out[pixel][channel] = image[pixel * next_pixel + channel * next_channel] * scale + offset. The pointers are arguments
 * of their own, since gcc believes `restrict` of nothing else. */
static inline __attribute__((always_inline)) void convert(float *restrict out, const uint8_t *restrict image,
                                                          const float *restrict scale, const float *restrict offset,
                                                          int64_t num_pixels, int64_t num_channels, int64_t next_pixel,
                                                          int64_t next_channel) {
    for (int64_t pixel = 0; pixel < num_pixels; ++pixel)
        for (int64_t channel = 0; channel < num_channels; ++channel)
            out[pixel * num_channels + channel] =
                (float)image[pixel * next_pixel + channel * next_channel] * scale[channel] + offset[channel];
}

/* Numbers of channels known here become loops of vectors. */
void normalise_image(const struct normalise *given) {
    float *out = given->out;
    const uint8_t *image = given->image;
    const float *scale = given->scale, *offset = given->offset;
    const int64_t num_pixels = given->num_pixels, num_channels = given->num_channels;
    if (num_channels == 1)
        convert(out, image, scale, offset, num_pixels, 1, 1, 1);
    else if (num_channels == 3 && given->are_planes)
        convert(out, image, scale, offset, num_pixels, 3, 1, num_pixels);
    else if (num_channels == 3)
        convert(out, image, scale, offset, num_pixels, 3, 3, 1);
    else if (given->are_planes)
        convert(out, image, scale, offset, num_pixels, num_channels, 1, num_pixels);
    else
        convert(out, image, scale, offset, num_pixels, num_channels, num_channels, 1);
}
