/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topo.c: this machine's description, found once: by detection, or from CHOIR_TOPO_FILE, and its hash.
 *
 * A file says how fast a machine is, never which machine it is: identity is always detected, so that one file can
 * serve many hosts.
 */
#include "base/knob.h"
#include "topo/detect.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct topo found;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void detect(void)
{
    const char *path = knob_text(KNOB_TOPO_FILE);
    if (*path) {
        if (topo_load(path, &found) == CHOIR_OK)
            return;
        base_log(BASE_WARN, -1, "CHOIR_TOPO_FILE is not used, this machine is looked at instead");
    }
    topo_detect_host(&found);
    topo_detect_cpu(&found);
    topo_detect_nics(&found);
}

const struct topo *topo_get(void)
{
    pthread_once(&once, detect);
    return &found;
}

bool topo_read_file(const char *path, char *text, size_t bytes)
{
    text[0] = '\0';
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    size_t n = fread(text, 1, bytes - 1, f);
    fclose(f);
    while (n && strchr(" \t\r\n", text[n - 1]))
        n--;
    text[n] = '\0';
    return true;
}

/* Containers of one host share its boot id: whether they can share memory too is found by trying. */
void topo_detect_host(struct topo *t)
{
    if (gethostname(t->host_name, sizeof(t->host_name) - 1))
        snprintf(t->host_name, sizeof(t->host_name), "unknown");
    const char *forced = knob_text(KNOB_HOST_ID);
    if (*forced) {
        /* Longer ones differ in their hash. */
        if (strlen(forced) < sizeof(t->host_id))
            snprintf(t->host_id, sizeof(t->host_id), "%s", forced);
        else
            snprintf(t->host_id, sizeof(t->host_id), "%.32s...%016llx", forced,
                     (unsigned long long)base_hash(forced, strlen(forced), 0));
        return;
    }
    if (!topo_read_file("/proc/sys/kernel/random/boot_id", t->host_id, sizeof(t->host_id)) ||
        !t->host_id[0])
        snprintf(t->host_id, sizeof(t->host_id), "%s", t->host_name);
}

uint64_t topo_hash(const struct topo *t)
{
    uint64_t fact[] = {t->cores, t->threads, t->numa, t->l1_bytes, t->l2_bytes, t->l3_bytes};
    uint64_t hash = base_hash(t->cpu, strlen(t->cpu), base_hash(fact, sizeof(fact), 1));
    for (uint32_t i = 0; i < t->nics; i++)
        if (t->nic[i].up && !t->nic[i].loopback)
            hash = base_hash(&t->nic[i].mbps, sizeof(t->nic[i].mbps), hash);
    return hash;
}
