/* SPDX-License-Identifier: Apache-2.0 */
/* transports.h: finding transports by name or from a shared object, and completing their tables. */
#ifndef HOST_TRANSPORTS_H
#define HOST_TRANSPORTS_H

#include "base/base.h"
#include "choir_transport.h"

/* Copies `from` over a table of "not supported" entries; false: it lacks what no transport can do without. */
bool transports_complete(const struct choir_transport_ops *from, struct choir_transport_ops *to);
const struct choir_transport_ops *transports_find(const char *name, size_t bytes);
const struct choir_transport_ops *transports_load(const char *path); /* stays loaded */

#endif
