/* SPDX-License-Identifier: Apache-2.0 */
/* See net_plugin.h. */
#include "tests/lib/net_plugin.h"
#include "tests/lib/test.h"
#include <limits.h>
#include <unistd.h>

const char *net_plugin_path(int version)
{
    static char path[PATH_MAX + 32];
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX);
    CHECK_LT(0, n);
    path[n] = 0;
    snprintf(strrchr(path, '/'), 32, "/plugin/net_v%d.so", version);
    CHECK_EQ(access(path, R_OK), 0);
    return path;
}

const char *const *net_plugin_env(int version, const char *transports, const char *const *more)
{
    static const char *env[NET_PLUGIN_ENV];
    static char plugin[PATH_MAX + 64], transport[64];
    int n = 0;
    snprintf(plugin, sizeof(plugin), "CHOIR_NET_PLUGIN=%s", net_plugin_path(version));
    snprintf(transport, sizeof(transport), "CHOIR_TRANSPORTS=%s", transports);
    env[n++] = plugin, env[n++] = transport;
    env[n++] = "CHOIR_TIMEOUT=20s", env[n++] = "CHOIR_CREATE_TIMEOUT=20s";
    for (; more && *more; more++) {
        CHECK_LT(n, NET_PLUGIN_ENV - 1);
        env[n++] = *more;
    }
    env[n] = NULL;
    return env;
}
