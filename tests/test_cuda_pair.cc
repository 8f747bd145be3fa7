/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cuda_pair.cc: pieces of messages as the kernels for one peer compute them, without divisions, are those of all others.
 * What these kernels do, test_cuda_exchange.cc tests.
 */
#include "cuda/kernel/pair.cuh"
#include <initializer_list>
extern "C" {
#include "cuda/pair.h"
#include "tests/lib/test.h"
}

static void compare(uint64_t length, uint32_t lanes, uint32_t elem)
{
    cuda_pieces p = cuda_pieces_of(length, lanes);
    for (uint32_t lane = 0; lane < lanes; lane++) {
        range want = piece_of(length, lane, lanes);
        pair_piece got = pair_piece_of(p, lane, elem);
        CHECK(got.there);
        CHECK_EQ(got.from, want.from * elem);
        CHECK_EQ(got.bytes, want.count * elem);
    }
    CHECK(!pair_piece_of(p, lanes, elem).there);
}

/* Every remainder of every number of lanes, with quotients up to the longest a lane takes, and a few beyond. */
static void pieces(void)
{
    for (uint32_t lanes = 1; lanes <= CUDA_LANES; lanes++) {
        for (uint32_t more = 0; more < lanes; more++)
            for (uint32_t each :
                 {0u, 1u, 2u, 63u, CUDA_LL_BYTES, CUDA_WIDE_BYTES - 1, UINT32_MAX / lanes - 1})
                compare((uint64_t)each * lanes + more, lanes, 1);
        for (uint32_t length = 0; length < 1200; length++)
            compare(length, lanes, 1u << length % 4);
        compare((uint64_t)CUDA_WIDE_BYTES / 8 * lanes, lanes, 8);
    }
    CHECK(!pair_piece_of(cuda_pieces{}, 0, 8).there);
}

TEST_MAIN(TEST(pieces))
