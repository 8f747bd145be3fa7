/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What libnccl.so.2 computes on host memory: every collective of every type and operation against a reference, in place and out of
 * place; messages of any mix; groups over several communicators; made operations. Ranks as threads, as processes and all in
 * one thread.
 */
#include "tests/lib/shim.h"
#include <math.h>

enum { MOST = 4099 }; /* elements of a rank's block */

/* --- numbers: small integers, exact in every type ----------------------------------------------------- */

static const int type_bytes[ncclNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

/* 16 and 8 bit floats of 0..16, by hand: sign 0, exponent and the first bits of the mantissa. */
static unsigned small_float(int value, int exponent_bits, int mantissa_bits)
{
    if (!value)
        return 0;
    int e = 31 - __builtin_clz((unsigned)value);
    unsigned mantissa = ((unsigned)value << mantissa_bits >> e) & ((1u << mantissa_bits) - 1);
    return (unsigned)(e + (1 << (exponent_bits - 1)) - 1) << mantissa_bits | mantissa;
}

static void put(void *buffer, size_t i, ncclDataType_t type, int value)
{
    unsigned char *at = (unsigned char *)buffer + i * (size_t)type_bytes[type];
    union {
        int8_t i8;
        int32_t i32;
        int64_t i64;
        uint16_t u16;
        float f32;
        double f64;
    } u = {.i64 = value};
    switch (type) {
    case ncclFloat32:
        u.f32 = (float)value;
        break;
    case ncclFloat64:
        u.f64 = value;
        break;
    case ncclFloat16:
        u.u16 = (uint16_t)small_float(value, 5, 10);
        break;
    case ncclBfloat16:
        u.u16 = (uint16_t)small_float(value, 8, 7);
        break;
    case ncclFloat8e4m3:
        u.u16 = (uint16_t)small_float(value, 4, 3);
        break;
    case ncclFloat8e5m2:
        u.u16 = (uint16_t)small_float(value, 5, 2);
        break;
    default:
        break;
    }
    memcpy(at, &u, (size_t)type_bytes[type]);
}

/* 0, 1 or 2, of any sum or product of which no more than 16 comes with up to 5 ranks: so that e5m2 holds it, 0 or 1 there. */
static int number(ncclDataType_t type, int rank, size_t i, int size)
{
    unsigned x = (unsigned)rank * 7 + (unsigned)i * 3 + (unsigned)i / 5;
    int most = type == ncclFloat8e5m2 || size > 4 ? 2 : 3;
    return (int)(x % (unsigned)most);
}

static int reduced(ncclDataType_t type, ncclRedOp_t op, size_t i, int size)
{
    int r = number(type, 0, i, size);
    for (int k = 1; k < size; k++) {
        int x = number(type, k, i, size);
        r = op == ncclProd  ? r * x
            : op == ncclMax ? (x > r ? x : r)
            : op == ncclMin ? (x < r ? x : r)
                            : r + x;
    }
    return r;
}

static void same(const void *got, size_t at, ncclDataType_t type, int want, const char *what)
{
    unsigned char w[8] = {0};
    put(w, 0, type, want);
    const unsigned char *g = (const unsigned char *)got + at * (size_t)type_bytes[type];
    if (memcmp(g, w, (size_t)type_bytes[type]))
        FAIL("%s: element %zu of type %d is not %d", what, at, (int)type, want);
}

/* --- collectives ---------------------------------------------------------------------------------------- */

struct rank {
    ncclComm_t comm;
    int rank, size;
    unsigned char *in, *out;
};

static struct rank begin(int rank, int size)
{
    struct rank r = {.rank = rank, .size = size};
    int is;
    r.comm = shim_make(rank, size);
    shim_place_is(r.comm, rank, size);
    NCCL_OK(shim.CommCuDevice(r.comm, &is));
    CHECK_EQ(is, -1);
    r.in = malloc((size_t)MOST * 8 * (size_t)size);
    r.out = malloc((size_t)MOST * 8 * (size_t)size);
    CHECK(r.in && r.out);
    return r;
}

static void end(struct rank *r)
{
    free(r->in);
    free(r->out);
    NCCL_OK(shim.CommFinalize(r->comm));
    NCCL_OK(shim.CommDestroy(r->comm));
}

static void fill(const struct rank *r, void *buffer, ncclDataType_t type, size_t count)
{
    for (size_t i = 0; i < count; i++)
        put(buffer, i, type, number(type, r->rank, i, r->size));
}

static void reductions(const struct rank *r, ncclDataType_t type, ncclRedOp_t op, size_t n,
                       bool in_place)
{
    size_t all = n * (size_t)r->size;
    unsigned char *in = in_place ? r->out : r->in;
    int root = r->size - 1;
    fill(r, in, type, n);
    NCCL_OK(shim.AllReduce(in, r->out, n, type, op, r->comm, NULL));
    for (size_t i = 0; i < n; i++)
        same(r->out, i, type, reduced(type, op, i, r->size), "all_reduce");
    fill(r, in, type, n);
    NCCL_OK(shim.Reduce(in, r->rank == root || in_place ? r->out : NULL, n, type, op, root, r->comm,
                        NULL));
    for (size_t i = 0; i < n && r->rank == root; i++)
        same(r->out, i, type, reduced(type, op, i, r->size), "reduce");
    fill(r, r->in, type, all);
    size_t own = n * (size_t)r->rank;
    unsigned char *to = in_place ? r->in + own * (size_t)type_bytes[type] : r->out;
    NCCL_OK(shim.ReduceScatter(r->in, to, n, type, op, r->comm, NULL));
    for (size_t i = 0; i < n; i++)
        same(to, i, type, reduced(type, op, own + i, r->size), "reduce_scatter");
}

static void gathers(const struct rank *r, ncclDataType_t type, size_t n, bool in_place)
{
    size_t bytes = n * (size_t)type_bytes[type];
    unsigned char *own = in_place ? r->out + (size_t)r->rank * bytes : r->in;
    fill(r, own, type, n);
    NCCL_OK(shim.AllGather(own, r->out, n, type, r->comm, NULL));
    for (int k = 0; k < r->size; k++)
        for (size_t i = 0; i < n; i++)
            same(r->out + (size_t)k * bytes, i, type, number(type, k, i, r->size), "all_gather");
    fill(r, own, type, n);
    NCCL_OK(shim.Gather(own, r->rank == 0 ? r->out : NULL, n, type, 0, r->comm, NULL));
    for (int k = 0; k < r->size && r->rank == 0; k++)
        for (size_t i = 0; i < n; i++)
            same(r->out + (size_t)k * bytes, i, type, number(type, k, i, r->size), "gather");
}

static void spreads(const struct rank *r, ncclDataType_t type, size_t n, bool in_place)
{
    size_t bytes = n * (size_t)type_bytes[type], all = n * (size_t)r->size;
    int root = r->size / 2;
    bool is_root = r->rank == root;
    if (is_root)
        fill(r, in_place ? r->out : r->in, type, n);
    if (in_place)
        NCCL_OK(shim.Bcast(r->out, n, type, root, r->comm, NULL));
    else
        NCCL_OK(shim.Broadcast(is_root ? r->in : NULL, r->out, n, type, root, r->comm, NULL));
    for (size_t i = 0; i < n; i++)
        same(r->out, i, type, number(type, root, i, r->size), "broadcast");
    fill(r, r->in, type, all);
    unsigned char *to = in_place && is_root ? r->in + (size_t)root * bytes : r->out;
    NCCL_OK(shim.Scatter(is_root ? r->in : NULL, to, n, type, root, r->comm, NULL));
    for (size_t i = 0; i < n; i++)
        same(to, i, type, number(type, root, n * (size_t)r->rank + i, r->size), "scatter");
    fill(r, r->in, type, all);
    NCCL_OK(shim.AlltoAll(r->in, r->out, n, type, r->comm, NULL));
    for (int k = 0; k < r->size; k++)
        for (size_t i = 0; i < n; i++)
            same(r->out + (size_t)k * bytes, i, type,
                 number(type, k, n * (size_t)r->rank + i, r->size), "all_to_all");
}

static void averages(const struct rank *r)
{
    double in[3] = {r->rank, r->rank * 2.0, 1}, out[3];
    int32_t whole = r->rank, mean = -1;
    NCCL_OK(shim.AllReduce(in, out, 3, ncclFloat64, ncclAvg, r->comm, NULL));
    CHECK(fabs(out[0] - (r->size - 1) / 2.0) < 1e-12 && fabs(out[1] - (r->size - 1)) < 1e-12);
    CHECK(fabs(out[2] - 1) < 1e-12);
    NCCL_OK(shim.AllReduce(&whole, &mean, 1, ncclInt32, ncclAvg, r->comm, NULL));
    CHECK_EQ(mean, (r->size - 1) / 2);
}

static void every_collective(int rank, int size, void *arg)
{
    (void)arg;
    static const size_t counts[] = {0, 1, 17, MOST};
    struct rank r = begin(rank, size);
    for (int type = 0; type < ncclNumTypes; type++)
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
            for (int in_place = 0; in_place < 2; in_place++) {
                for (int op = ncclSum; op <= ncclMin; op++)
                    reductions(&r, (ncclDataType_t)type, (ncclRedOp_t)op, counts[c], in_place);
                gathers(&r, (ncclDataType_t)type, counts[c], in_place);
                spreads(&r, (ncclDataType_t)type, counts[c], in_place);
            }
    averages(&r);
    end(&r);
}

/* --- messages and groups -------------------------------------------------------------------------------- */

/* Everyone to everyone, itself too, each pair with lengths of its own, also none; several between the same two, in order. */
static void messages(int rank, int size, void *arg)
{
    (void)arg;
    enum { EACH = 300, TIMES = 3 };
    struct rank r = begin(rank, size);
    int32_t *in = calloc((size_t)size * TIMES * EACH, 4),
            *out = calloc((size_t)size * TIMES * EACH, 4);
    CHECK(in && out);
    for (int round = 0; round < 5; round++) {
        NCCL_OK(shim.GroupStart());
        for (int p = 0; p < size; p++)
            for (int t = 0; t < TIMES; t++) {
                int32_t *from = in + ((size_t)p * TIMES + (size_t)t) * EACH;
                size_t to_peer = (size_t)(rank * 31 + p * 7 + t * 50 + round) % EACH * (t != 1),
                       to_me = (size_t)(p * 31 + rank * 7 + t * 50 + round) % EACH * (t != 1);
                for (int i = 0; i < EACH; i++)
                    from[i] = ((rank * size + p) * TIMES + t) * EACH + i;
                NCCL_OK(shim.Send(to_peer ? from : NULL, to_peer, ncclInt32, p, r.comm, NULL));
                NCCL_OK(shim.Recv(out + ((size_t)p * TIMES + (size_t)t) * EACH, to_me, ncclInt32, p,
                                  r.comm, NULL));
            }
        for (size_t i = 0; i < (size_t)size * TIMES * EACH; i++)
            out[i] = -1; /* nothing has run yet */
        NCCL_OK(shim.GroupEnd());
        for (int p = 0; p < size; p++)
            for (int t = 0; t < TIMES; t++)
                for (int i = 0; i < EACH; i++) {
                    int n = (p * 31 + rank * 7 + t * 50 + round) % EACH * (t != 1);
                    CHECK_EQ(out[(p * TIMES + t) * EACH + i],
                             i < n ? ((p * size + rank) * TIMES + t) * EACH + i : -1);
                }
    }
    int32_t token = rank;
    if (rank)
        NCCL_OK(shim.Recv(&token, 1, ncclInt32, rank - 1, r.comm, NULL));
    token += rank == 0;
    if (rank + 1 < size)
        NCCL_OK(shim.Send(&token, 1, ncclInt32, rank + 1, r.comm, NULL));
    CHECK_EQ(token, 1);
    free(in);
    free(out);
    end(&r);
}

/* One thread, all ranks of two communicators, everything mixed in one group. */
static void one_thread(void)
{
    enum { N = 4 };
    ncclComm_t a[N], b[N];
    int32_t sum[2][N], from[N], one[N], all[N][N];
    int devices[N] = {3, 1, 0, 2};
    NCCL_OK(shim.CommInitAll(a, N, NULL));
    NCCL_OK(shim.CommInitAll(b, N, devices));
    for (int round = 0; round < 20; round++) {
        NCCL_OK(shim.GroupStart());
        for (int r = 0; r < N; r++) {
            one[r] = r + round;
            NCCL_OK(shim.GroupStart());
            NCCL_OK(shim.AllReduce(&one[r], &sum[0][r], 1, ncclInt32, ncclSum, a[r], NULL));
            NCCL_OK(shim.AllReduce(&one[r], &sum[1][r], 1, ncclInt32, ncclMax, b[r], NULL));
            NCCL_OK(shim.GroupEnd());
            NCCL_OK(shim.Send(&one[r], 1, ncclInt32, (r + 1) % N, b[r], NULL));
            NCCL_OK(shim.Recv(&from[r], 1, ncclInt32, (r + N - 1) % N, b[r], NULL));
            NCCL_OK(shim.AllGather(&one[r], all[r], 1, ncclInt32, a[r], NULL));
        }
        NCCL_OK(shim.GroupEnd());
        for (int r = 0; r < N; r++) {
            CHECK_EQ(sum[0][r], N * round + N * (N - 1) / 2);
            CHECK_EQ(sum[1][r], round + N - 1);
            CHECK_EQ(from[r], (r + N - 1) % N + round);
            for (int k = 0; k < N; k++)
                CHECK_EQ(all[r][k], k + round);
        }
    }
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < N; r++) {
        NCCL_OK(shim.CommDestroy(a[r]));
        NCCL_OK(shim.CommDestroy(b[r]));
    }
    NCCL_OK(shim.GroupEnd());
}

/* --- one-sided ------------------------------------------------------------------------------------------- */

/* Each rank puts into all parts, its own too, at its own place, twice; the last signal covers all that went before it. */
static void puts_and_signals(int rank, int size, void *arg)
{
    (void)arg;
    enum { EACH = 3000 };
    struct rank r = begin(rank, size);
    int32_t *part, *from = calloc(EACH, 4);
    ncclWindow_t window = NULL;
    ncclWaitSignalDesc_t *wait = calloc((size_t)size, sizeof(*wait));
    size_t bytes = (size_t)size * EACH * 4, place = (size_t)rank * EACH * 4;
    CHECK(from && wait);
    NCCL_OK(shim.MemAlloc((void **)&part, bytes));
    NCCL_OK(shim.CommWindowRegister(r.comm, part, bytes, &window, NCCL_WIN_COLL_SYMMETRIC));
    CHECK(window != NULL);
    for (int p = 0; p < size; p++)
        wait[p] = (ncclWaitSignalDesc_t){2, p, 0, 0};
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < EACH; i++)
            from[i] = (rank * 10 + round) * EACH + i;
        if (round % 2)
            NCCL_OK(shim.GroupStart());
        for (int p = 0; p < size; p++) {
            NCCL_OK(shim.PutSignal(from, EACH, ncclInt32, p, window, place, 0, 0, 0, r.comm, NULL));
            NCCL_OK(shim.Signal(p, 0, 0, 0, r.comm, NULL));
        }
        NCCL_OK(shim.WaitSignal(size, wait, r.comm, NULL));
        if (round % 2) {
            memset(wait, 0x7f, (size_t)size * sizeof(*wait)); /* they were copied */
            NCCL_OK(shim.GroupEnd());
            for (int p = 0; p < size; p++)
                wait[p] = (ncclWaitSignalDesc_t){2, p, 0, 0};
        }
        for (int p = 0; p < size; p++)
            for (int i = 0; i < EACH; i++)
                CHECK_EQ(part[p * EACH + i], (p * 10 + round) * EACH + i);
        NCCL_OK(
            shim.AllReduce(from, r.out, 1, ncclInt32, ncclSum, r.comm, NULL)); /* all have looked */
    }
    CHECK_EQ(shim.PutSignal(from, EACH, ncclInt32, 0, window, bytes, 0, 0, 0, r.comm, NULL),
             ncclInvalidArgument);
    NCCL_OK(shim.CommWindowDeregister(r.comm, window));
    NCCL_FAILS(shim.PutSignal(from, 1, ncclInt32, 0, window, 0, 0, 0, 0, r.comm, NULL),
               ncclInvalidArgument, "window");
    /* One that is left open goes with its communicator. */
    NCCL_OK(shim.CommWindowRegister(r.comm, part, bytes, &window, NCCL_WIN_DEFAULT));
    free(from);
    free(wait);
    end(&r);
    NCCL_OK(shim.MemFree(part));
}

/* Windows of all ranks by one thread, in a group; puts in another, as a ring. */
static void windows_in_one_thread(void)
{
    enum { N = 3 };
    ncclComm_t comm[N], half[N];
    ncclWindow_t window[N], other[N];
    int64_t *part[N], value[N];
    NCCL_OK(shim.CommInitAll(comm, N, NULL));
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < N; r++) {
        value[r] = 1000 + r;
        NCCL_OK(shim.MemAlloc((void **)&part[r], 4096));
        NCCL_OK(shim.CommWindowRegister(comm[r], part[r], 4096, &window[r], 0));
        CHECK(window[r] == NULL); /* not yet */
        /* Several things that take all ranks of one communicator are in the order of their calls. */
        NCCL_OK(shim.CommWindowRegister(comm[r], part[r], 4096, &other[r], 0));
        NCCL_OK(shim.CommSplit(comm[r], 0, -r, &half[r], NULL));
    }
    NCCL_OK(shim.GroupEnd());
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < N; r++) {
        ncclWaitSignalDesc_t last = {1, (r + N - 1) % N, 0, 0};
        NCCL_OK(shim.WaitSignal(1, &last, comm[r], NULL));
        NCCL_OK(shim.PutSignal(&value[r], 1, ncclInt64, (r + 1) % N, window[r], 8, 0, 0, 0, comm[r],
                               NULL));
    }
    NCCL_OK(shim.GroupEnd());
    for (int r = 0; r < N; r++)
        CHECK_EQ(part[r][1], 1000 + (r + N - 1) % N);
    for (int r = 0; r < N; r++) {
        shim_place_is(half[r], N - 1 - r, N);
        NCCL_OK(shim.CommWindowDeregister(comm[r], other[r]));
        NCCL_OK(shim.CommDestroy(half[r]));
        NCCL_OK(shim.CommDestroy(comm[r]));
        NCCL_OK(shim.MemFree(part[r]));
    }
}

/* --- made operations ------------------------------------------------------------------------------------- */

static void scaled(int rank, int size, void *arg)
{
    (void)arg;
    struct rank r = begin(rank, size);
    float x = (float)(rank + 1), y, scale = .5f, want = 0;
    ncclRedOp_t op, again;
    for (int k = 0; k < size; k++)
        want += (float)(k + 1);
    /* An immediate scalar is read by the call, and the operation is destroyed before its use runs. */
    NCCL_OK(shim.RedOpCreatePreMulSum(&op, &scale, ncclFloat32, ncclScalarHostImmediate, r.comm));
    CHECK_LE(ncclNumOps, op);
    scale = 100;
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclFloat32, op, r.comm, NULL));
    NCCL_OK(shim.RedOpDestroy(op, r.comm));
    NCCL_OK(shim.GroupEnd());
    CHECK(fabsf(y - want / 2) < 1e-5f);
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, ncclFloat32, op, r.comm, NULL), ncclInvalidArgument,
               "op ");
    NCCL_FAILS(shim.RedOpDestroy(op, r.comm), ncclInvalidArgument, "ncclRedOpDestroy");
    /* A device scalar is read when the operation runs. */
    NCCL_OK(shim.RedOpCreatePreMulSum(&op, &scale, ncclFloat32, ncclScalarDevice, r.comm));
    NCCL_OK(shim.RedOpCreatePreMulSum(&again, &scale, ncclFloat32, ncclScalarDevice, r.comm));
    for (int k = 1; k < 4; k++) {
        scale = (float)k;
        NCCL_OK(shim.AllReduce(&x, &y, 1, ncclFloat32, k & 1 ? op : again, r.comm, NULL));
        CHECK(fabsf(y - want * (float)k) < 1e-4f);
    }
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, ncclInt32, op, r.comm, NULL), ncclInvalidArgument,
               "another datatype");
    NCCL_OK(shim.RedOpDestroy(op, r.comm));
    NCCL_OK(shim.RedOpDestroy(again, r.comm));
    /* More scalars than can be kept, one after another; too many at a time. */
    for (int k = 0; k < 200; k++) {
        float each = (float)k;
        NCCL_OK(
            shim.RedOpCreatePreMulSum(&op, &each, ncclFloat32, ncclScalarHostImmediate, r.comm));
        NCCL_OK(shim.AllReduce(&x, &y, 1, ncclFloat32, op, r.comm, NULL));
        CHECK(fabsf(y - want * (float)k) < 1e-2f);
        NCCL_OK(shim.RedOpDestroy(op, r.comm));
    }
    for (int k = 0; k < 64; k++) {
        float each = (float)k + .25f;
        NCCL_OK(
            shim.RedOpCreatePreMulSum(&op, &each, ncclFloat32, ncclScalarHostImmediate, r.comm));
    }
    scale = 1e9f;
    NCCL_FAILS(shim.RedOpCreatePreMulSum(&op, &scale, ncclFloat32, ncclScalarHostImmediate, r.comm),
               ncclInvalidUsage, "alive");
    end(&r);
}

/* --- cases ----------------------------------------------------------------------------------------------- */

static void processes(void)
{
    shim_processes(2, every_collective);
    shim_processes(4, messages);
    shim_processes(3, scaled);
    shim_processes(3, puts_and_signals);
}

static void threads(void)
{
    for (int size = 1; size <= TEST_BY_EFFORT(3, 5, 5); size += 1 + (size == 3))
        shim_threads(size, every_collective);
    shim_threads(5, messages);
    shim_threads(1, messages);
    shim_threads(2, scaled);
    shim_threads(4, puts_and_signals);
}

static void in_one_thread(void)
{
    shim_load();
    one_thread();
    windows_in_one_thread();
}

TEST_MAIN(TEST(processes), TEST(threads), TEST(in_one_thread))
