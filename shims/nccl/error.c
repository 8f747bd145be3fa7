/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.c: results and their texts. ncclGetLastError is asked by other threads than the one that failed (a watchdog), so a thread
 * that has had no error of its own is told the last one of the process.
 */
#include "shims/nccl/internal.h"
#include "shims/nccl/profiler.h"
#include "base/knob.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_BYTES 640

static _Thread_local char own[TEXT_BYTES], shown[TEXT_BYTES];
static char last[TEXT_BYTES];
static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER;

void nccl_error_set(const char *text)
{
    snprintf(own, sizeof(own), "%s", text);
    pthread_mutex_lock(&last_lock);
    memcpy(last, own, sizeof(last));
    pthread_mutex_unlock(&last_lock);
}

const char *nccl_error_text(void)
{
    return own;
}

ncclResult_t nccl_fail(ncclResult_t result, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    nccl_error_set(text);
    base_log(BASE_WARN, -1, "nccl: %s", text);
    return result;
}

ncclResult_t nccl_refuse(const char *call, const char *why)
{
    char text[TEXT_BYTES];
    snprintf(text, sizeof(text), "%s: %s", call, why);
    nccl_error_set(text);
    base_log(BASE_INFO, -1, "nccl: %s", text);
    return ncclInvalidUsage;
}

/* ncclTimeout is of 2.30; programs of before take it for no result at all, so lateness is a remote error, as a dead peer is. */
ncclResult_t nccl_result_of(enum choir_status status)
{
    switch (status) {
    case CHOIR_OK:
        return ncclSuccess;
    case CHOIR_IN_PROGRESS:
        return ncclInProgress;
    case CHOIR_ERR_ARGUMENT:
    case CHOIR_ERR_RANK:
    case CHOIR_ERR_TYPE:
    case CHOIR_ERR_OP:
    case CHOIR_ERR_COUNT:
    case CHOIR_ERR_POINTER:
        return ncclInvalidArgument;
    case CHOIR_ERR_UNSUPPORTED:
    case CHOIR_ERR_BUSY:
    case CHOIR_ERR_STATE:
    case CHOIR_ERR_MISMATCH:
    case CHOIR_ERR_TRUNCATED:
    case CHOIR_ERR_AUTH:
    case CHOIR_ERR_FORKED:
        return ncclInvalidUsage;
    case CHOIR_ERR_NO_MEMORY:
    case CHOIR_ERR_SYSTEM:
        return ncclSystemError;
    case CHOIR_ERR_PEER_DEAD:
    case CHOIR_ERR_PEER_MISSING:
    case CHOIR_ERR_NETWORK:
    case CHOIR_ERR_TIMEOUT:
    case CHOIR_ERR_ABORTED:
    case CHOIR_ERR_REVOKED:
        return ncclRemoteError;
    case CHOIR_ERR_PROTOCOL:
    case CHOIR_ERR_INTERNAL:
        break;
    }
    return ncclInternalError;
}

static void say(enum choir_status status, const char *call)
{
    char text[TEXT_BYTES];
    struct choir_error e = {.bytes = sizeof(e)};
    if (choir_comm_last_error(NULL, &e) != CHOIR_OK || e.status != status)
        e = (struct choir_error){.status = status};
    snprintf(text, sizeof(text), "%s: %s%s%s (%s)", call, e.text, e.remedy[0] ? "; " : "", e.remedy,
             choir_status_name(status));
    nccl_error_set(text); /* Choir has logged it */
}

ncclResult_t nccl_result(enum choir_status status, const char *call)
{
    if (base_unlikely(status < 0))
        say(status, call);
    return nccl_result_of(status);
}

bool nccl_on_host(void)
{
    return knob_int(KNOB_NCCL_HOST) != 0;
}

ncclResult_t nccl_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static _Atomic bool said;
    nccl_env_apply();
    ncclResult_t r = nccl_result(knob_load(), "NCCL's start");
    if (r == ncclSuccess)
        pthread_once(&once, nccl_profiler_start);
    if (r == ncclSuccess && !atomic_exchange(&said, true))
        base_log(BASE_INFO, -1,
                 "libnccl.so.2 is choir %u.%u.%u with the interface of NCCL %d.%d.%d%s",
                 CHOIR_VERSION_MAJOR, CHOIR_VERSION_MINOR, CHOIR_VERSION_PATCH, NCCL_MAJOR,
                 NCCL_MINOR, NCCL_PATCH, nccl_on_host() ? ", on host memory" : "");
    return r;
}

NCCL_EXPORT ncclResult_t ncclGetVersion(int *version)
{
    if (!version)
        return nccl_fail(ncclInvalidArgument, "ncclGetVersion: version is NULL");
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}
NCCL_TWIN(ncclResult_t, GetVersion, (int *version));

const char *nccl_result_text(ncclResult_t result)
{
    static const char *const text[ncclNumResults] = {
        [ncclSuccess] = "success",
        [ncclUnhandledCudaError] = "a call of CUDA failed",
        [ncclSystemError] = "a call of the operating system failed, or memory ran out",
        [ncclInternalError] = "internal error",
        [ncclInvalidArgument] = "invalid argument",
        [ncclInvalidUsage] = "invalid usage",
        [ncclRemoteError] = "another rank failed, left, aborted or did not come in time",
        [ncclInProgress] = "in progress",
        [ncclTimeout] = "deadline passed"};
    return (unsigned)result < ncclNumResults ? text[result] : "unknown result code";
}

NCCL_EXPORT const char *ncclGetErrorString(ncclResult_t result)
{
    return nccl_result_text(result);
}
NCCL_TWIN(const char *, GetErrorString, (ncclResult_t result));

/* Of a communicator that is broken: what broke it. */
static bool broken(ncclComm_t comm)
{
    struct choir_error e = {.bytes = sizeof(e)};
    bool is = false;
    if (nccl_comm_enter_any(comm, NULL) != ncclSuccess)
        return false;
    choir_comm *c = atomic_load(&comm->choir);
    if (c && choir_comm_status(c) < 0 && choir_comm_last_error(c, &e) == CHOIR_OK) {
        snprintf(shown, sizeof(shown), "%s%s%s (%s)", e.text, e.remedy[0] ? "; " : "", e.remedy,
                 choir_status_name(e.status));
        is = true;
    }
    nccl_comm_leave(comm);
    return is;
}

NCCL_EXPORT const char *ncclGetLastError(ncclComm_t comm)
{
    if (comm && broken(comm))
        return shown;
    if (own[0])
        return own;
    pthread_mutex_lock(&last_lock);
    memcpy(shown, last, sizeof(shown));
    pthread_mutex_unlock(&last_lock);
    return shown;
}
NCCL_TWIN(const char *, GetLastError, (ncclComm_t comm));
