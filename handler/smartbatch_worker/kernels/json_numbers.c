/* {"data": nested lists of numbers} from JSON to float32, in one pass over the text.
 *
 * It reads only what it is sure of: one key, even lists, plain numbers. Whatever else stands there, right or wrong, it
 * gives up on, and the caller reads the body with a parser that knows all of JSON and says what is wrong. So there is
 * no error to report here, and a number is taken only where it comes out as that parser's double, rounded to float.
 */
#include <stdint.h>
#include <string.h>

#define MAX_DIMS 8
/* A uint64 holds any number of 19 digits. */
#define MAX_DIGITS 19

#define LEAST_POWER (-64)
#define MOST_POWER 38
/* 10^-64 to 10^38, each the nearest double. */
static const double POWERS[] = {
    1e-64, 1e-63, 1e-62, 1e-61, 1e-60, 1e-59, 1e-58, 1e-57, 1e-56, 1e-55, 1e-54, 1e-53, 1e-52, 1e-51, 1e-50,
    1e-49, 1e-48, 1e-47, 1e-46, 1e-45, 1e-44, 1e-43, 1e-42, 1e-41, 1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35,
    1e-34, 1e-33, 1e-32, 1e-31, 1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25, 1e-24, 1e-23, 1e-22, 1e-21, 1e-20,
    1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9,  1e-8,  1e-7,  1e-6,  1e-5,
    1e-4,  1e-3,  1e-2,  1e-1,  1e0,   1e1,   1e2,   1e3,   1e4,   1e5,   1e6,   1e7,   1e8,   1e9,   1e10,
    1e11,  1e12,  1e13,  1e14,  1e15,  1e16,  1e17,  1e18,  1e19,  1e20,  1e21,  1e22,  1e23,  1e24,  1e25,
    1e26,  1e27,  1e28,  1e29,  1e30,  1e31,  1e32,  1e33,  1e34,  1e35,  1e36,  1e37,  1e38,
};
_Static_assert(sizeof POWERS / sizeof *POWERS == MOST_POWER - LEAST_POWER + 1, "one power each");
/* Of ten, and exact as doubles. */
#define MOST_EXACT_POWER 22
#define MOST_EXACT_WHOLE (1ull << 53)

static const uint64_t SHORT_POWERS[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

static inline int is_space(uint8_t c) { return c <= ' ' && (c == ' ' || c == '\n' || c == '\r' || c == '\t'); }

static inline const uint8_t *skip_spaces(const uint8_t *at) {
    while (is_space(*at)) at++;
    return at;
}

static inline int is_digit(uint8_t c) { return (uint8_t)(c - '0') <= 9; }

/* Of eight characters, the first in the lowest byte, the top bit of each up to the first that is no digit. */
static inline uint64_t not_digits(uint64_t characters) {
    uint64_t values = characters ^ 0x3030303030303030u; /* digits become 0 to 9 */
    /* The carry out of a byte spoils only those of later characters. */
    return ((values + 0x7676767676767676u) | values) & 0x8080808080808080u;
}

/* Eight digits to their number: neighbours are joined to pairs, to fours, to eight, all of them at once. */
static inline uint64_t eight_digits(uint64_t characters) {
    uint64_t x = characters & 0x0f0f0f0f0f0f0f0fu;
    x = (x * 10 + (x >> 8)) & 0x00ff00ff00ff00ffu;
    x = (x * 100 + (x >> 16)) & 0x0000ffff0000ffffu;
    return (x * 10000 + (x >> 32)) & 0xffffffffu;
}

/* The digits from `at` on, appended to `*whole`; where they end. More than MAX_DIGITS overflow it: the caller counts.
 * *end is no digit. */
static inline __attribute__((always_inline)) const uint8_t *digits(const uint8_t *at, const uint8_t *end,
                                                                   uint64_t *whole) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (end - at >= 8) {
        uint64_t characters;
        memcpy(&characters, at, 8);
        uint64_t others = not_digits(characters);
        if (others) {
            int found = __builtin_ctzll(others) / 8;
            /* As many zeros in front as make eight digits of them; in two shifts, since one of 64 bits is undefined. */
            *whole = *whole * SHORT_POWERS[found] + eight_digits(characters << 8 << (56 - 8 * found));
            return at + found;
        }
        *whole = *whole * SHORT_POWERS[8] + eight_digits(characters);
        at += 8; /* without waiting for what was found, as `at += found` would */
        if (!is_digit(*at)) return at;
    }
#endif
    for (; is_digit(*at); at++) *whole = *whole * 10 + (*at - '0');
    return at;
}

/* One number, and where it ends; NULL where it is none, or not sure to come out right. */
static inline const uint8_t *number(const uint8_t *at, const uint8_t *end, float *out) {
    const int is_negative = *at == '-';
    at += is_negative;
    if (!is_digit(*at)) return NULL;
    uint64_t whole = 0;
    int64_t significant = 0, power = 0;
    int is_integer = 1;
    if (*at == '0') {
        if (is_digit(*++at)) return NULL;
    } else if (at[1] == '.') { /* as most numbers are; then where it ends need not be worked out */
        whole = *at++ - '0';
        significant = 1;
    } else {
        const uint8_t *first = at;
        at = digits(at, end, &whole);
        significant = at - first;
    }
    if (*at == '.') {
        is_integer = 0;
        const uint8_t *first = ++at;
        if (!is_digit(*at)) return NULL;
        at = digits(at, end, &whole);
        power = first - at;
        if (!significant && at - first > MAX_DIGITS)
            while (*first == '0') first++; /* zeros that come first do not count */
        significant += at - first;
    }
    if (*at == 'e' || *at == 'E') {
        is_integer = 0;
        at++;
        const int is_small = *at == '-';
        at += is_small | (*at == '+');
        uint64_t exponent = 0;
        const uint8_t *first = at;
        for (; is_digit(*at) && at - first <= 4; at++) exponent = exponent * 10 + (*at - '0');
        if (at == first || at - first > 4) return NULL;
        power += is_small ? -(int64_t)exponent : (int64_t)exponent;
    }
    if (significant > MAX_DIGITS || (is_integer && significant == MAX_DIGITS)) return NULL; /* beyond int64? */
    if (!whole) {
        *out = is_negative && !is_integer ? -0.0f : 0.0f; /* as an integer, -0 is 0 */
        return at;
    }
    if (power < LEAST_POWER || power > MOST_POWER) return NULL;
    double value = (double)whole * POWERS[power - LEAST_POWER];
    /* Not a normal float: zero, subnormal, infinite, or rounded to infinity. */
    if (!(value >= 0x1p-126 && value < 0x1.fffffep127)) return NULL;
    /* Three roundings make up to 3.5 units of a double's last place. Of its bits a float keeps the upper ones; only
     * where the 29 below are this close to a half can that matter. */
    uint64_t bits;
    memcpy(&bits, &value, 8);
    if ((bits & 0x1fffffff) - (0x10000000 - 8) <= 16) {
        if (whole > MOST_EXACT_WHOLE || power < -MOST_EXACT_POWER || power > MOST_EXACT_POWER) return NULL;
        value = power < 0 ? (double)whole / POWERS[-power - LEAST_POWER] : (double)whole * POWERS[power - LEAST_POWER];
    }
    static const float SIGNS[] = {1, -1}; /* a sign is as good as random: a branch for it would be foretold wrongly */
    *out = (float)value * SIGNS[is_negative];
    return at;
}

struct numbers {
    float *numbers;      /* of room for `capacity` */
    int64_t *shape;      /* the lists' lengths, of room for MAX_DIMS */
    const uint8_t *body; /* the text */
    int64_t num_bytes, capacity, max_lists;
};

/* How many numbers `body` holds, if it is read at all: between N of them in lists of even length stand N - 1 commas. */
int64_t most_numbers(const struct numbers *given) {
    const uint8_t *body = given->body, *end = body + given->num_bytes;
    int64_t count = 0;
    while (end - body >= 64) { /* in bytes, while they hold it: 64 at a time */
        uint8_t counts[64] = {0};
        for (int row = 0; row < 255 && end - body >= 64; ++row, body += 64)
            for (int column = 0; column < 64; ++column) counts[column] += body[column] == ',';
        for (int column = 0; column < 64; ++column) count += counts[column];
    }
    for (; body < end; ++body) count += *body == ',';
    return count + 1;
}

/* Gives the number of dimensions, or 0: not sure, or more lists or numbers than there may be. */
int64_t json_numbers(const struct numbers *given) {
    float *out = given->numbers;
    int64_t *shape = given->shape;
    const int64_t capacity = given->capacity, max_lists = given->max_lists;
    const uint8_t *body = given->body, *end = body + given->num_bytes;
    do {
        if (end-- == body) return 0;
    } while (is_space(*end));
    /* From here on `end` is the last character that counts, and it is no space, digit, comma or bracket: what skips
     * those stops there. */
    if (*end != '}') return 0;
    const uint8_t *at = skip_spaces(body);
    if (*at != '{') return 0;
    at = skip_spaces(at + 1);
    if (end - at < 6 || memcmp(at, "\"data\"", 6)) return 0;
    at = skip_spaces(at + 6);
    if (*at != ':') return 0;
    at = skip_spaces(at + 1);

    int64_t lengths[MAX_DIMS], num_lists = 0, written = 0;
    int depth = 0, num_dims = 0; /* num_dims: as deep as the numbers are, 0 before the first of them */
    for (;;) {
        while (*at == '[') {
            if (depth == (num_dims ? num_dims : MAX_DIMS) || num_lists++ == max_lists) return 0;
            lengths[depth++] = 0;
            at = skip_spaces(at + 1);
        }
        if (!num_dims) {
            num_dims = depth;
            for (int level = 0; level < depth; ++level) shape[level] = -1;
        }
        if (!depth || depth != num_dims) return 0;
        const int64_t first = written;
        for (;;) {
            if (written == capacity || !(at = number(at, end, out + written))) return 0;
            written++;
            at = skip_spaces(at);
            if (*at != ',') break;
            at++;
            at += *at == ' '; /* one or none, as the text goes: without a branch */
            at = skip_spaces(at);
        }
        lengths[depth - 1] = written - first;
        while (*at == ']') {
            depth--;
            if (shape[depth] < 0) shape[depth] = lengths[depth];
            if (shape[depth] != lengths[depth]) return 0;
            at = skip_spaces(at + 1);
            if (!depth) return at == end ? num_dims : 0;
            lengths[depth - 1]++;
        }
        if (*at != ',') return 0;
        at = skip_spaces(at + 1);
    }
}
