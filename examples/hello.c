/* SPDX-License-Identifier: Apache-2.0 */
/* hello.c: every rank adds its number; all learn the sum. choir-run -n 4 build/bin/hello, or under mpirun. */
#include "choir.h"
#include <stdio.h>

int main(void)
{
    choir_comm *comm;
    int rank, size;
    if (choir_comm_create_auto(NULL, &comm) != CHOIR_OK)
        return 1;
    choir_comm_rank(comm, &rank);
    choir_comm_size(comm, &size);
    float mine = (float)rank, sum;
    if (choir_all_reduce(comm, &mine, &sum, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL) != CHOIR_OK)
        return 1;
    printf("rank %d of %d: the sum is %g\n", rank, size, (double)sum);
    return choir_comm_destroy(comm) != CHOIR_OK;
}
