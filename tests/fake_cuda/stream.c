/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c: a stream is a queue and a thread that does what is in it, one piece after another. All are non-blocking: a stream
 * that takes turns with the default one cannot be made, and the default one of a thread is that of the context.
 */
#include "tests/fake_cuda/fake.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SAY_AFTER_S 10

static CUstream all;

/* --- the thread ------------------------------------------------------------------------------------- */

static void *serve(void *arg)
{
    CUstream s = arg;
    pthread_mutex_lock(&fake_lock);
    for (;;) {
        while (!s->head && !s->ended)
            pthread_cond_wait(&s->wake, &fake_lock);
        struct fake_work *w = s->head;
        if (!w)
            break;
        pthread_mutex_unlock(&fake_lock);
        w->run(w);
        pthread_mutex_lock(&fake_lock);
        s->head = w->next;
        s->tail = s->head ? s->tail : NULL;
        s->done++;
        free(w);
        pthread_cond_broadcast(&fake_changed);
    }
    pthread_mutex_unlock(&fake_lock);
    return NULL;
}

CUresult fake_queue(CUstream s, const struct fake_work *w, const void *parameters, size_t bytes)
{
    struct fake_work *own = fake_work_copy(w, parameters, bytes);
    if (!own)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (s->tail)
        s->tail->next = own;
    else
        s->head = own;
    s->tail = own;
    s->pushed++;
    pthread_cond_signal(&s->wake);
    return CUDA_SUCCESS;
}

void fake_stream_await(CUstream s, uint64_t done, const char *what)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += SAY_AFTER_S;
    for (bool said = false; s->done < done;)
        if (said)
            pthread_cond_wait(&fake_changed, &fake_lock);
        else if (pthread_cond_timedwait(&fake_changed, &fake_lock, &t) == ETIMEDOUT) {
            fprintf(stderr, "fake CUDA: %s has waited %d s for a stream of GPU %d\n", what,
                    SAY_AFTER_S, s->context->gpu);
            said = true;
        }
}

/* What is put into streams meanwhile is not waited for. */
void fake_gpu_await(int gpu, const char *what)
{
    for (CUstream s = all; s; s = s->next)
        if (s->context->gpu == gpu)
            fake_stream_await(s, s->pushed, what);
}

/* --- handles ------------------------------------------------------------------------------------------- */

CUresult fake_stream_create(CUcontext context, CUstream *out)
{
    CUstream s = fake_keep(sizeof(*s));
    if (!s)
        return CUDA_ERROR_OUT_OF_MEMORY;
    s->context = context;
    pthread_cond_init(&s->wake, NULL);
    if (pthread_create(&s->thread, NULL, serve, s)) {
        pthread_cond_destroy(&s->wake);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_detach(s->thread);
    s->next = all;
    all = s;
    *out = s;
    return CUDA_SUCCESS;
}

CUresult fake_stream_of(CUstream handle, CUstream *stream)
{
    CUcontext context = fake_context();
    if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
        if (!context)
            return CUDA_ERROR_INVALID_CONTEXT;
        CUresult r = CUDA_SUCCESS;
        if (!context->null)
            r = fake_stream_create(context, &context->null);
        *stream = context->null;
        return r;
    }
    CUstream s = all;
    while (s && s != handle)
        s = s->next;
    if (!s || s->ended)
        return CUDA_ERROR_INVALID_HANDLE;
    *stream = s;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuStreamCreateWithPriority(CUstream *out, unsigned int flags, int priority)
{
    FAKE_READY();
    (void)priority;
    CUcontext context = fake_context();
    if (!context)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (flags != CU_STREAM_NON_BLOCKING)
        return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_create(context, out);
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuStreamDestroy(CUstream handle)
{
    FAKE_READY();
    CUstream s;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, &s);
    if (r == CUDA_SUCCESS && s == s->context->null)
        r = CUDA_ERROR_INVALID_HANDLE;
    if (r == CUDA_SUCCESS && s->capture)
        r = fake_capture_broken(s->capture);
    if (r == CUDA_SUCCESS) {
        s->ended = true; /* once it has done what it has got */
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&fake_lock);
    return r;
}

/* Begins a call that looks at how far a stream is: locks, unless it fails. */
static CUresult look(CUstream handle, CUstream *s)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, s);
    if (r == CUDA_SUCCESS && (*s)->capture)
        r = fake_capture_broken((*s)->capture);
    pthread_mutex_unlock(&fake_lock);
    if (r == CUDA_SUCCESS)
        r = fake_unsafe();
    if (r == CUDA_SUCCESS)
        pthread_mutex_lock(&fake_lock);
    return r;
}

FAKE_API CUresult cuStreamSynchronize(CUstream handle)
{
    CUstream s;
    CUresult r = look(handle, &s);
    if (r != CUDA_SUCCESS)
        return r;
    fake_stream_await(s, s->pushed, "cuStreamSynchronize");
    pthread_mutex_unlock(&fake_lock);
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuStreamQuery(CUstream handle)
{
    CUstream s;
    CUresult r = look(handle, &s);
    if (r != CUDA_SUCCESS)
        return r;
    r = s->done < s->pushed ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuStreamGetCtx(CUstream handle, CUcontext *context)
{
    FAKE_READY();
    CUstream s;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, &s);
    if (r == CUDA_SUCCESS)
        *context = s->context;
    pthread_mutex_unlock(&fake_lock);
    return r;
}
