/* SPDX-License-Identifier: Apache-2.0 */
/* net_plugin.h: where the test's own net plug-in is (tests/plugin/net.c), and environments of ranks that use it. */
#ifndef TESTS_NET_PLUGIN_H
#define TESTS_NET_PLUGIN_H

#include <stddef.h>

#define NET_PLUGIN_ENV 12

/* Path of the plug-in built for `version` (0: one without a symbol), in a static buffer. */
const char *net_plugin_path(int version);
/* An environment for ranks: that plug-in, `transports`, then "NAME=VALUE" of `more`, which is NULL-terminated (or NULL). In static
 * memory, until the next call. */
const char *const *net_plugin_env(int version, const char *transports, const char *const *more);

#endif
