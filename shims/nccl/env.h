/* SPDX-License-Identifier: Apache-2.0 */
/* env.h: the table of NCCL's environment variables (env.c). Names that Choir's table of knobs has as aliases need no row. */
#ifndef SHIMS_NCCL_ENV_H
#define SHIMS_NCCL_ENV_H

#include "base/base.h"

enum nccl_env_how {
    NCCL_ENV_PUT,  /* into Choir's words, if it has words for the value */
    NCCL_ENV_HERE, /* read by the stand-in where it matters */
    NCCL_ENV_NONE  /* without effect, and `text` says why */
};
struct nccl_env_row {
    const char *name;
    enum nccl_env_how how;
    const char *(*put)(const char *value); /* NULL: done; else why not */
    enum base_level level;                 /* of the line */
    const char *text;
};
const struct nccl_env_row *nccl_env_row(size_t index); /* NULL: no more */
bool nccl_env_is_setting(const char *name); /* Choir's table of knobs has it as an alias */
/* What NCCL_COMM_BLOCKING says, else fallback. */
bool nccl_env_blocking(bool fallback);

#endif
