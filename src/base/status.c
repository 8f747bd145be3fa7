/* SPDX-License-Identifier: Apache-2.0 */
/* status.c: names of status codes, types and operations, and the version. */
#include "base/base.h"

const char *choir_status_string(enum choir_status status)
{
    switch (status) {
#define TEXT(name, value, text)                                                                    \
    case CHOIR_##name:                                                                             \
        return text;
        CHOIR_STATUS_LIST(TEXT)
#undef TEXT
    }
    return "unknown status";
}

const char *choir_status_name(enum choir_status status)
{
    switch (status) {
#define NAME(name, value, text)                                                                    \
    case CHOIR_##name:                                                                             \
        return "CHOIR_" #name;
        CHOIR_STATUS_LIST(NAME)
#undef NAME
    }
    return "CHOIR_?";
}

uint32_t choir_version(void)
{
    return CHOIR_VERSION_MAJOR * 10000 + CHOIR_VERSION_MINOR * 100 + CHOIR_VERSION_PATCH;
}

size_t choir_type_bytes(enum choir_type type)
{
    static const uint8_t size[CHOIR_TYPES] = {
#define SIZE(name, value, bytes) [CHOIR_##name] = bytes,
        CHOIR_TYPE_LIST(SIZE)
#undef SIZE
    };
    return (unsigned)type < CHOIR_TYPES ? size[type] : 0;
}

const char *choir_type_name(enum choir_type type)
{
    static const char *const name[] = {
        [CHOIR_INT8] = "int8",
        [CHOIR_UINT8] = "uint8",
        [CHOIR_INT16] = "int16",
        [CHOIR_UINT16] = "uint16",
        [CHOIR_INT32] = "int32",
        [CHOIR_UINT32] = "uint32",
        [CHOIR_INT64] = "int64",
        [CHOIR_UINT64] = "uint64",
        [CHOIR_FLOAT16] = "float16",
        [CHOIR_BFLOAT16] = "bfloat16",
        [CHOIR_FLOAT32] = "float32",
        [CHOIR_FLOAT64] = "float64",
        [CHOIR_FLOAT8_E4M3] = "float8_e4m3",
        [CHOIR_FLOAT8_E5M2] = "float8_e5m2",
    };
    _Static_assert(base_count(name) == CHOIR_TYPES, "a type has no name");
    return (unsigned)type < CHOIR_TYPES ? name[type] : "unknown type";
}

const char *choir_op_name(choir_op op)
{
    static const char *const name[] = {
        [CHOIR_SUM] = "sum",   [CHOIR_PROD] = "prod", [CHOIR_MIN] = "min",   [CHOIR_MAX] = "max",
        [CHOIR_AVG] = "avg",   [CHOIR_BAND] = "band", [CHOIR_BOR] = "bor",   [CHOIR_BXOR] = "bxor",
        [CHOIR_LAND] = "land", [CHOIR_LOR] = "lor",   [CHOIR_LXOR] = "lxor",
    };
    _Static_assert(base_count(name) == CHOIR_OPS, "an operation has no name");
    return op < CHOIR_OPS ? name[op] : "created";
}
