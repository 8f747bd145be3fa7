/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine without a CUDA driver, or a library built without CUDA: host calls work, everything of CUDA says what is missing.
 * CUDA streams as handles, and the compiled kernels in the library, are looked at everywhere.
 */
#include "choir_cuda.h"
#include "cuda/cuda.h"
#include "tests/lib/test.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static void only_absent(void)
{
    if (cuda_driver())
        test_skip("this machine has a CUDA driver");
}

static void expect_record(const struct choir_error *e, const char *word)
{
    if (e->status != CHOIR_ERR_UNSUPPORTED || !strstr(e->text, word) || !e->remedy[0])
        FAIL("the record is %s \"%s\"; \"%s\"", choir_status_name(e->status), e->text, e->remedy);
}

/* What says that CUDA is missing. */
static const char *missing(void)
{
    return cuda_image_at(0) ? "libcuda.so.1" : "built without CUDA";
}

static void *look(void *unused)
{
    (void)unused;
    for (int i = 0; i < 100; i++) {
        CHECK(!cuda_driver_in_use());
        *base_error_thread() = (struct choir_error){.bytes = sizeof(struct choir_error)};
        CHECK(cuda_driver() == NULL);
        expect_record(base_error_thread(), missing());
        CHECK_EQ(cuda_driver_init(), CHOIR_ERR_UNSUPPORTED);
    }
    return NULL;
}

static void driver(void)
{
    only_absent();
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&t[i], NULL, look, NULL), 0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_join(t[i], NULL), 0);
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        look(NULL);
        _exit(0);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
}

/* Until CUDA is initialised, whatever a pointer is, it is the host's. */
static void pointers(void)
{
    int here = 0;
    const void *p[] = {&here, NULL, (const void *)(uintptr_t)0x7f0000000000};
    for (size_t i = 0; i < base_count(p); i++) {
        struct cuda_pointer where = {.where = CUDA_DEVICE, .ordinal = 7};
        CHECK_OK(cuda_device_of_pointer(p[i], &where));
        CHECK_EQ(where.where, CUDA_HOST);
        CHECK_EQ(where.ordinal, -1);
    }
}

/* Handles of the default streams are 0, 1 and 2. */
static void handles(void)
{
    static const uintptr_t value[] = {0, 1, 2, 0x5581c0ffee40, 0x7fffffffffff, 0x00ffffffffffffff};
    for (size_t i = 0; i < base_count(value); i++) {
        struct CUstream_st *raw = (struct CUstream_st *)value[i];
        choir_stream *s = choir_stream_from_cuda(raw);
        CHECK(s != NULL && stream_is_cuda(s));
        CHECK(stream_cuda(s) == raw);
        CHECK(s == choir_stream_from_cuda(raw));
        CHECK_OK(choir_stream_destroy(s));
    }
    choir_stream *host;
    CHECK_OK(choir_stream_create(&host));
    CHECK(!stream_is_cuda(host) && !stream_is_cuda(NULL));
    CHECK_OK(choir_stream_destroy(host));
}

static void events(void)
{
    choir_stream *s = choir_stream_from_cuda(NULL);
    choir_event *e;
    CHECK_OK(choir_event_create(&e));
    CHECK_EQ(choir_event_record(e, s), CHOIR_ERR_UNSUPPORTED);
    expect_record(base_error_thread(), "CUDA stream");
    CHECK(strstr(base_error_thread()->remedy, "cudaEventRecord"));
    CHECK_EQ(choir_stream_wait_event(s, e), CHOIR_ERR_UNSUPPORTED);
    CHECK_OK(choir_event_wait(e)); /* it was never recorded */
    CHECK_OK(choir_event_destroy(e));
}

static void waits(void)
{
    only_absent();
    choir_stream *s = choir_stream_from_cuda(NULL);
    CHECK_EQ(choir_stream_wait(s), CHOIR_ERR_UNSUPPORTED);
    expect_record(base_error_thread(), missing());
    CHECK_EQ(choir_stream_query(s), CHOIR_ERR_UNSUPPORTED);
}

/* A refused call names the argument, starts nothing and breaks nothing. */
static void calls(void)
{
    only_absent();
    struct choir_id id;
    struct choir_error e = {.bytes = sizeof(e)};
    choir_stream *s = choir_stream_from_cuda((struct CUstream_st *)2);
    choir_comm *c;
    float in = 3, out = 0;
    uint64_t one = 1;
    CHECK_OK(choir_id_create(&id));
    CHECK_OK(choir_comm_create(&id, 0, 1, NULL, &c));
    CHECK_EQ(choir_all_reduce(c, &in, &out, 1, CHOIR_FLOAT32, CHOIR_SUM, s), CHOIR_ERR_UNSUPPORTED);
    CHECK_OK(choir_comm_last_error(c, &e));
    expect_record(&e, missing());
    CHECK(strstr(e.text, "stream is a CUDA stream"));
    CHECK_EQ(choir_barrier(c, s), CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ(choir_all_gather_v(c, &in, &out, &one, NULL, CHOIR_FLOAT32, s), CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ(choir_send(c, &in, 1, CHOIR_FLOAT32, 0, s), CHOIR_ERR_UNSUPPORTED);
    CHECK_OK(choir_group_start());
    CHECK_EQ(choir_recv(c, &out, 1, CHOIR_FLOAT32, 0, s), CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ(choir_all_reduce(c, &in, &out, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL), CHOIR_OK);
    CHECK_EQ(choir_group_end(), CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ((int)out, 0);
    /* The order of checks: a wrong argument is told as without CUDA. */
    CHECK_EQ(choir_all_reduce(c, NULL, &out, 1, CHOIR_FLOAT32, CHOIR_SUM, s), CHOIR_ERR_POINTER);
    CHECK_OK(choir_all_reduce(c, &in, &out, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    CHECK_EQ((int)out, 3);
    CHECK_OK(choir_comm_destroy(c));
}

static void printed(void)
{
    only_absent();
    char *text;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);
    cuda_print(f);
    fclose(f);
    if (strncmp(text, "no GPU: ", 8) || !strstr(text, missing()) || text[bytes - 1] != '\n')
        FAIL("printed \"%s\"", text);
    free(text);
}

/* Each kernel file is a fat binary. */
static void images(void)
{
    static const uint8_t fat[] = {0x50, 0xed, 0x55, 0xba};
    const struct cuda_image *image;
    bool probe = false;
    uint32_t n = 0;
    for (; (image = cuda_image_at(n)); n++) {
        CHECK(image->bytes > 64 && (uintptr_t)image->data % 64 == 0);
        CHECK(!memcmp(image->data, fat, sizeof(fat)));
        probe |= !strcmp(image->name, "probe");
    }
    if (!n)
        test_skip("built without CUDA");
    CHECK(probe && cuda_image_archs()[0]);
}

TEST_MAIN(TEST(driver), TEST(pointers), TEST(handles), TEST(events), TEST(waits), TEST(calls),
          TEST(printed), TEST(images))
