/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cuda_reduce.cc: the arithmetic of the CUDA kernels against src/reduce's generic kernels, bit for bit.
 * A C++ compiler makes a test that runs the portable text on the host; nvcc makes one of the same cases that
 * runs on a GPU what the kernels run there, its own conversions among it.
 */
#include "cuda/kernel/reduce.cuh"
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
extern "C" {
#include "reduce/reduce.h"
#include "tests/lib/test.h"
}
#include <vector>

enum { MOST_SOURCES = 9 };

/* --- the code under test, by type and operation ------------------------------------------------- */
template <class T, class OP> struct combine_words {
    uint64_t *out;
    const uint64_t *src[MOST_SOURCES];
    uint32_t nsrc;
    DEV void operator()(uint64_t i) const
    {
        accumulator<T, OP> a;
        a.start(src[0][i]);
        for (uint32_t s = 1; s < nsrc; s++)
            a.add(src[s][i]);
        out[i] = a.finish();
    }
};
template <class T> struct divide_words {
    uint64_t *out;
    const uint64_t *in;
    uint32_t n;
    DEV void operator()(uint64_t i) const
    {
        out[i] = divide_word<T>(in[i], n);
    }
};
template <class T> struct scale_words {
    uint64_t *out;
    const uint64_t *in;
    uint64_t scalar_bits;
    DEV void operator()(uint64_t i) const
    {
        out[i] = scale_word<T>(in[i], scalar_bits);
    }
};
template <class T> struct reload_words { /* out and in have one element a word */
    uint64_t *out;
    const uint64_t *in;
    DEV void operator()(uint64_t i) const
    {
        out[i] = T::store(T::load(in[i]));
    }
};

/* Memory that both sides see, and fn(i) for all i < count. */
#ifdef __CUDACC__
static void device_need()
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || !devices)
        test_skip("no GPU");
}
static void *memory_take(size_t bytes)
{
    void *p = nullptr;
    CHECK_EQ(cudaMallocHost(&p, bytes), cudaSuccess);
    return p;
}
static void memory_give(void *p)
{
    CHECK_EQ(cudaFreeHost(p), cudaSuccess);
}
template <class F> __global__ void each_on_device(F fn, uint64_t count)
{
    uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x;
    if (i < count)
        fn(i);
}
template <class F> static void each_word(uint64_t count, F fn)
{
    each_on_device<<<unsigned((count + 127) / 128), 128>>>(fn, count);
    CHECK_EQ(cudaDeviceSynchronize(), cudaSuccess);
}
#else
static void device_need()
{
}
static void *memory_take(size_t bytes)
{
    return std::malloc(bytes);
}
static void memory_give(void *p)
{
    std::free(p);
}
template <class F> static void each_word(uint64_t count, F fn)
{
    for (uint64_t i = 0; i < count; i++)
        fn(i);
}
#endif
template <class E> struct shared_memory {
    using value_type = E;
    E *allocate(size_t n)
    {
        return static_cast<E *>(memory_take(n * sizeof(E)));
    }
    void deallocate(E *p, size_t)
    {
        memory_give(p);
    }
    bool operator==(const shared_memory &) const
    {
        return true;
    }
    bool operator!=(const shared_memory &) const
    {
        return false;
    }
};
using words = std::vector<uint64_t, shared_memory<uint64_t>>;

template <class T, class OP>
static void combine(words &out, const std::vector<words> &sources, uint32_t nsrc)
{
    combine_words<T, OP> fn = {out.data(), {}, nsrc};
    for (uint32_t s = 0; s < nsrc; s++)
        fn.src[s] = sources[s].data();
    each_word(out.size(), fn);
}
template <class T> static void divide(words &out, const words &in, uint32_t n)
{
    each_word(out.size(), divide_words<T>{out.data(), in.data(), n});
}
template <class T> static void scale(words &out, const words &in, uint64_t scalar_bits)
{
    each_word(out.size(), scale_words<T>{out.data(), in.data(), scalar_bits});
}
template <class T> static void reload(words &out, const words &in)
{
    each_word(out.size(), reload_words<T>{out.data(), in.data()});
}

static const struct {
    const char *suffix;
    void (*combine)(words &out, const std::vector<words> &sources, uint32_t nsrc);
} kernels[] = {
#define ROW(t, o) {#t "_" #o, combine<type_##t, op_##o>},
    CUDA_COMBINATIONS(ROW)
#undef ROW
};
enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

/* In the order of enum choir_type. */
static const struct {
    const char *name;
    unsigned bytes;
    void (*divide)(words &out, const words &in, uint32_t n);
    void (*scale)(words &out, const words &in, uint64_t scalar_bits);
    void (*reload)(words &out, const words &in);
} types[] = {
#define ROW(t, value) {#t, type_##t::bytes, divide<type_##t>, scale<type_##t>, reload<type_##t>},
    CUDA_TYPES(ROW)
#undef ROW
};
static_assert(sizeof(types) / sizeof(types[0]) == CHOIR_TYPES, "a type is missing");

static int kernel_of(enum choir_type type, choir_op op)
{
    const struct cuda_combination *c = CUDA_CANONICAL(type, op);
    for (int k = 0; c && k < KERNELS; k++)
        if (!std::strcmp(kernels[k].suffix, c->suffix))
            return k;
    return -1;
}

/* --- inputs -------------------------------------------------------------------------------------- */
static uint64_t state;
static uint64_t draw()
{
    uint64_t x = state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u, x ^= x >> 27, x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Exponents' lowest place, infinity, one; of integers these are bits like any other. */
static void format(enum choir_type type, unsigned *mantissa, uint64_t *infinity, uint64_t *one)
{
    switch (type) {
    case CHOIR_FLOAT8_E4M3:
        *mantissa = 3, *infinity = 0x7f, *one = 0x38;
        break;
    case CHOIR_FLOAT8_E5M2:
        *mantissa = 2, *infinity = 0x7c, *one = 0x3c;
        break;
    case CHOIR_FLOAT16:
        *mantissa = 10, *infinity = 0x7c00, *one = 0x3c00;
        break;
    case CHOIR_BFLOAT16:
        *mantissa = 7, *infinity = 0x7f80, *one = 0x3f80;
        break;
    case CHOIR_FLOAT32:
        *mantissa = 23, *infinity = 0x7f800000, *one = 0x3f800000;
        break;
    default:
        *mantissa = 52, *infinity = 0x7ff0000000000000, *one = 0x3ff0000000000000;
    }
}

/* Zero, the least and greatest subnormal and normal number, one, infinity, NaN, each with its neighbours and
 * either sign. */
static words specials(enum choir_type type)
{
    unsigned mantissa, bits = 8 * types[type].bytes;
    uint64_t infinity, one, sign = uint64_t(1) << (bits - 1), mask = sign | (sign - 1);
    format(type, &mantissa, &infinity, &one);
    uint64_t place = uint64_t(1) << mantissa;
    const uint64_t at[] = {
        0, place, one, one + place, infinity, infinity | place >> 1, sign - 1, infinity - place};
    words all;
    for (uint64_t x : at)
        for (int by = -2; by <= 2; by++)
            for (uint64_t s : {uint64_t(0), sign})
                all.push_back(((x + uint64_t(by)) ^ s) & mask);
    return all;
}

static void put(words &to, enum choir_type type, uint64_t i, uint64_t bits)
{
    unsigned bytes = types[type].bytes;
    std::memcpy(reinterpret_cast<char *>(to.data()) + i * bytes, &bits, bytes);
}

/* Raw bits, special values, and numbers that stay near 1 so that sums and products neither drown nor
 * overflow. */
static void fill(words &to, enum choir_type type, const words &special)
{
    unsigned mantissa;
    uint64_t infinity, one, sign = uint64_t(1) << (8 * types[type].bytes - 1);
    format(type, &mantissa, &infinity, &one);
    uint64_t near = (uint64_t(4) << mantissa) - 1;
    for (uint64_t i = 0; i < to.size() * 8 / types[type].bytes; i++) {
        uint64_t r = draw(), how = r >> 60, bits = draw();
        if (how < 2)
            bits = special[bits % special.size()];
        else if (how < 10)
            bits = ((bits & near) + one - (near >> 1)) ^ (r & 1 ? sign : 0);
        put(to, type, i, bits);
    }
}

/* --- comparison ---------------------------------------------------------------------------------- */
static uint64_t element(const words &from, enum choir_type type, uint64_t i)
{
    uint64_t bits = 0;
    unsigned bytes = types[type].bytes;
    std::memcpy(&bits, reinterpret_cast<const char *>(from.data()) + i * bytes, bytes);
    return bits;
}

static void same(const words &got, const words &want, enum choir_type type, const char *what,
                 const words &a, const words &b)
{
    for (uint64_t i = 0; got != want && i < got.size() * 8 / types[type].bytes; i++)
        if (element(got, type, i) != element(want, type, i))
            FAIL("%s %s: element %" PRIu64 " of %#" PRIx64 " and %#" PRIx64 " is %#" PRIx64
                 ", not %#" PRIx64,
                 types[type].name, what, i, element(a, type, i), element(b, type, i),
                 element(got, type, i), element(want, type, i));
}

static void check(enum choir_type type, choir_op op, const std::vector<words> &sources,
                  uint32_t nsrc)
{
    uint64_t count = sources[0].size();
    words got(count), want(count);
    const void *src[MOST_SOURCES];
    for (uint32_t s = 0; s < nsrc; s++)
        src[s] = sources[s].data();
    kernels[kernel_of(type, op)].combine(got, sources, nsrc);
    if (nsrc == 1)
        want = sources[0];
    else
        reduce_pick(type, op)(want.data(), src, nsrc, count * 8 / types[type].bytes, 0);
    char what[64];
    std::snprintf(what, sizeof(what), "%s of %u", choir_op_name(op), nsrc);
    same(got, want, type, what, sources[0], sources[nsrc > 1]);
}

static void each_type(void (*fn)(enum choir_type type))
{
    device_need();
    state = test_seed();
    CHECK(reduce_limit("generic"));
    for (int t = 0; t < CHOIR_TYPES; t++)
        fn(static_cast<enum choir_type>(t));
}
static void check_all(enum choir_type type, const std::vector<words> &sources, uint32_t nsrc)
{
    for (choir_op op = 0; op < CHOIR_OPS; op++)
        if (reduce_pick(type, op))
            check(type, op, sources, nsrc);
}

/* --- cases --------------------------------------------------------------------------------------- */
/* Every pair that src/reduce has is served by a kernel, and every kernel serves itself. */
static void defined()
{
    bool used[KERNELS] = {};
    for (int t = 0; t <= CHOIR_TYPES; t++)
        for (choir_op op = 0; op <= CHOIR_OPS; op++) {
            enum choir_type type = static_cast<enum choir_type>(t);
            const struct cuda_combination *c = CUDA_CANONICAL(type, op);
            CHECK_EQ(c != nullptr, reduce_pick(type, op) != nullptr);
            CHECK_EQ(c != nullptr, kernel_of(type, op) >= 0);
            if (!c)
                continue;
            CHECK(CUDA_CANONICAL(c->type, c->op) == c);
            char suffix[32];
            std::snprintf(suffix, sizeof(suffix), "%s_%s", choir_type_name(c->type),
                          choir_op_name(c->op));
            CHECK_STR(c->suffix, suffix);
            used[kernel_of(type, op)] = true;
        }
    for (bool one : used)
        CHECK(one);
    for (int t = 0; t < CHOIR_TYPES; t++)
        CHECK_STR(types[t].name, choir_type_name(static_cast<enum choir_type>(t)));
}

/* All pairs of numbers of 8 bits; all numbers of 16 bits with the special ones. */
static void pairs_of(enum choir_type type)
{
    if (types[type].bytes > 2)
        return;
    unsigned values = 1u << (8 * types[type].bytes);
    words others = specials(type);
    for (uint64_t b = 0; types[type].bytes == 1 && b < 256; b++)
        others.push_back(b);
    std::vector<words> sources(2, words(values * types[type].bytes / 8));
    for (uint64_t other : others) {
        for (unsigned a = 0; a < values; a++)
            put(sources[0], type, a, a), put(sources[1], type, a, other);
        check_all(type, sources, 2);
        sources[0].swap(sources[1]);
        check_all(type, sources, 2);
    }
}
static void pairs()
{
    each_type(pairs_of);
}

static void special_of(enum choir_type type)
{
    const words values = specials(type);
    uint64_t n = values.size();
    std::vector<words> sources(3, words(n * n));
    for (uint64_t third : {values[0], values[n / 2], values[n - 1]}) {
        for (uint64_t i = 0; i < n * n; i++) {
            put(sources[0], type, i, values[i / n]), put(sources[1], type, i, values[i % n]);
            put(sources[2], type, i, third);
        }
        check_all(type, sources, 2);
        check_all(type, sources, 3);
    }
}
static void special()
{
    each_type(special_of);
}

static void random_of(enum choir_type type)
{
    const words values = specials(type);
    std::vector<words> sources(MOST_SOURCES, words(512));
    for (int round = 0; round < (test_effort() > 1 ? 200 : 6); round++) {
        for (words &w : sources)
            fill(w, type, values);
        for (uint32_t nsrc = 1; nsrc <= sources.size(); nsrc++)
            check_all(type, sources, nsrc);
    }
}
static void random_sources()
{
    each_type(random_of);
}

/* Divisions and scales, of the special values and of what fill gives. */
static void numbers_of(enum choir_type type)
{
    const words values = specials(type);
    uint64_t count = 256, elements = count * 8 / types[type].bytes;
    for (int round = 0; round < 200; round++) {
        words was(count), got(count), want(count), by(count);
        fill(was, type, values);
        static const uint32_t divisors[] = {1, 2, 3, 4, 7, 8, 64, 200, 70000, 1u << 31, ~0u};
        uint32_t n = round < 11 ? divisors[round] : uint32_t(draw()) >> (draw() & 31);
        n += !n;
        want = was;
        reduce_divide(type, want.data(), elements, n);
        types[type].divide(got, was, n);
        char what[64];
        std::snprintf(what, sizeof(what), "divided by %u", n);
        same(got, want, type, what, was, was);
        fill(by, type, values); /* its first element scales; the bits above are not to matter */
        reduce_scale(type, want.data(), was.data(), by.data(), elements);
        types[type].scale(got, was, by[0]);
        same(got, want, type, "scaled", was, by);
    }
}
static void numbers()
{
    each_type(numbers_of);
}

/* One element comes and goes as it does in a product with 1, whatever is above it. */
static void one_of(enum choir_type type)
{
    unsigned bytes = types[type].bytes;
    words was(1 << 14), want(1 << 14), got(1 << 14);
    uint64_t one = 0, elements = was.size() * 8 / bytes;
    reduce_store(type, &one, 1);
    fill(was, type, specials(type));
    for (uint64_t i = 0; bytes <= 2 && i < elements; i++)
        put(was, type, i, i);
    reduce_scale(type, want.data(), was.data(), &one, elements);
    words apart(elements), stored(elements);
    for (uint64_t i = 0; i < elements; i++)
        apart[i] = element(was, type, i) | (bytes < 8 ? draw() << (8 * bytes % 64) : 0);
    types[type].reload(stored, apart);
    for (uint64_t i = 0; i < elements; i++) {
        CHECK(bytes == 8 || !(stored[i] >> (8 * bytes % 64)));
        put(got, type, i, stored[i]);
    }
    same(got, want, type, "loaded and stored", was, was);
}
static void one_element()
{
    each_type(one_of);
}

TEST_MAIN(TEST(defined), TEST(pairs), TEST(special), TEST(random_sources), TEST(numbers),
          TEST(one_element))
