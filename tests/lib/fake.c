/* SPDX-License-Identifier: Apache-2.0 */
/* Tests on the fake driver; see fake.h. */
#include "tests/lib/fake.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int test_fake_exec(const char *name, char **argv)
{
    char path[4096], driver[4200], program[4200];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (n <= 0)
        return 1;
    path[n] = 0;
    *strrchr(path, '/') = 0;
    snprintf(driver, sizeof(driver), "%s/fake/libcuda.so.1", path);
    snprintf(program, sizeof(program), "%s/%s", path, name);
    if (access(driver, R_OK) || access(program, X_OK)) {
        printf("skipped %s: built without CUDA\n", name);
        return 77;
    }
    *strrchr(driver, '/') = 0;
    setenv("LD_LIBRARY_PATH", driver, 1); /* read when a program starts */
    setenv("FAKE_CUDA_BLOCKS", "3", 0);
    setenv("FAKE_CUDA_THREADS", "4", 0);
    argv[0] = program;
    execv(program, argv);
    perror(program);
    return 1;
}
