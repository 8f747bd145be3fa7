/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_header.cc: choir.h as a C++ program and the shared library alone see it. Also what stays fixed in a binary
 * interface: values and sizes.
 */
#include "choir.h"
#include "choir_algorithm.h"
#include "choir_cuda.h"
#include "choir_transport.h"
#include <cstdio>
#include <cstring>

static_assert(CHOIR_OK == 0 && CHOIR_IN_PROGRESS == 1, "values of statuses are fixed");
static_assert(CHOIR_FLOAT8_E5M2 == 13 && CHOIR_TYPES == 14, "values of types are fixed");
static_assert(CHOIR_LXOR == 10 && CHOIR_OPS == 11, "values of operations are fixed");
static_assert(sizeof(struct choir_id) == CHOIR_ID_BYTES, "ids are carried by other libraries");
static_assert(sizeof(struct choir_config) == 64 && sizeof(struct choir_call) == 24,
              "structures grow at the end only");

static int failed;
static void check(bool good, const char *what)
{
    if (!good) {
        std::fprintf(stderr, "test_header: %s\n", what);
        failed = 1;
    }
}

int main()
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    check(config.bytes == sizeof(config) && config.blocking == 1, "CHOIR_CONFIG_INIT");
    check(choir_version() ==
              CHOIR_VERSION_MAJOR * 10000 + CHOIR_VERSION_MINOR * 100 + CHOIR_VERSION_PATCH,
          "choir_version");
    check(!std::strcmp(choir_status_name(CHOIR_ERR_RANK), "CHOIR_ERR_RANK"), "choir_status_name");
    check(choir_type_bytes(CHOIR_BFLOAT16) == 2, "choir_type_bytes");
    check(choir_stream_from_cuda(nullptr) != nullptr, "choir_stream_from_cuda");
    int size = 0;
    check(choir_comm_size(nullptr, &size) == CHOIR_ERR_POINTER, "a null communicator");
    choir_comm *comm = nullptr;
    struct choir_id id;
    float in = 2, out = 0;
    check(choir_id_create(&id) == CHOIR_OK, "choir_id_create");
    check(choir_comm_create(&id, 0, 1, &config, &comm) == CHOIR_OK, "choir_comm_create");
    check(choir_all_reduce(comm, &in, &out, 1, CHOIR_FLOAT32, CHOIR_SUM, nullptr) == CHOIR_OK &&
              out >= 2 && out <= 2,
          "choir_all_reduce of one rank");
    check(choir_comm_destroy(comm) == CHOIR_OK, "choir_comm_destroy");
    return failed;
}
