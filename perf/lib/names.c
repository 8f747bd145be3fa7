/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names.c: types and operations by the names nccl-tests prints, and by Choir's own; numbers in its widths.
 */
#include "perf/lib/perf.h"
#include <math.h>
#include <string.h>

const uint32_t perf_types[] = {
    CHOIR_INT8,    CHOIR_UINT8,    CHOIR_INT16,       CHOIR_UINT16,      CHOIR_INT32,
    CHOIR_UINT32,  CHOIR_INT64,    CHOIR_UINT64,      CHOIR_FLOAT16,     CHOIR_FLOAT32,
    CHOIR_FLOAT64, CHOIR_BFLOAT16, CHOIR_FLOAT8_E4M3, CHOIR_FLOAT8_E5M2,
};
const size_t perf_type_count = base_count(perf_types);
static const char *const type_names[CHOIR_TYPES] = {
    [CHOIR_INT8] = "int8",          [CHOIR_UINT8] = "uint8",        [CHOIR_INT16] = "int16",
    [CHOIR_UINT16] = "uint16",      [CHOIR_INT32] = "int32",        [CHOIR_UINT32] = "uint32",
    [CHOIR_INT64] = "int64",        [CHOIR_UINT64] = "uint64",      [CHOIR_FLOAT16] = "half",
    [CHOIR_FLOAT32] = "float",      [CHOIR_FLOAT64] = "double",     [CHOIR_BFLOAT16] = "bfloat16",
    [CHOIR_FLOAT8_E4M3] = "f8e4m3", [CHOIR_FLOAT8_E5M2] = "f8e5m2",
};
static const struct {
    const char *name;
    uint32_t value;
} type_aliases[] = {
    {"float16", CHOIR_FLOAT16},         {"fp16", CHOIR_FLOAT16},
    {"float32", CHOIR_FLOAT32},         {"fp32", CHOIR_FLOAT32},
    {"float64", CHOIR_FLOAT64},         {"fp64", CHOIR_FLOAT64},
    {"bf16", CHOIR_BFLOAT16},           {"fp8_e4m3", CHOIR_FLOAT8_E4M3},
    {"fp8_e5m2", CHOIR_FLOAT8_E5M2},    {"float8_e4m3", CHOIR_FLOAT8_E4M3},
    {"float8_e5m2", CHOIR_FLOAT8_E5M2},
};

const uint32_t perf_ops[] = {
    CHOIR_SUM,  CHOIR_PROD, CHOIR_MAX,  CHOIR_MIN,  CHOIR_AVG, PERF_SCALED,
    CHOIR_BAND, CHOIR_BOR,  CHOIR_BXOR, CHOIR_LAND, CHOIR_LOR, CHOIR_LXOR,
};
const size_t perf_op_count = base_count(perf_ops);
static const char *const op_names[CHOIR_OPS] = {
    [CHOIR_SUM] = "sum",   [CHOIR_PROD] = "prod", [CHOIR_MIN] = "min",   [CHOIR_MAX] = "max",
    [CHOIR_AVG] = "avg",   [CHOIR_BAND] = "band", [CHOIR_BOR] = "bor",   [CHOIR_BXOR] = "bxor",
    [CHOIR_LAND] = "land", [CHOIR_LOR] = "lor",   [CHOIR_LXOR] = "lxor",
};

const char *perf_type_name(uint32_t type)
{
    return type < CHOIR_TYPES ? type_names[type] : "?";
}

const char *perf_op_name(uint32_t op)
{
    if (op == PERF_SCALED)
        return "mulsum";
    return op < CHOIR_OPS ? op_names[op] : "none";
}

bool perf_type_parse(const char *text, uint32_t *type)
{
    for (uint32_t i = 0; i < CHOIR_TYPES; i++)
        if (!strcmp(text, type_names[i])) {
            *type = i;
            return true;
        }
    for (size_t i = 0; i < base_count(type_aliases); i++)
        if (!strcmp(text, type_aliases[i].name)) {
            *type = type_aliases[i].value;
            return true;
        }
    return false;
}

bool perf_op_parse(const char *text, uint32_t *op)
{
    for (size_t i = 0; i < base_count(perf_ops); i++)
        if (!strcmp(text, perf_op_name(perf_ops[i]))) {
            *op = perf_ops[i];
            return true;
        }
    return false;
}

bool perf_op_defined(uint32_t op, uint32_t type)
{
    bool integer = type <= CHOIR_UINT64;
    return integer || op == PERF_SCALED || op <= CHOIR_AVG;
}

const char *perf_number(char *text, size_t bytes, double value, int width)
{
    if (!isfinite(value)) {
        snprintf(text, bytes, "%*s", width, "N/A");
        return text;
    }
    for (int decimals = 2; decimals >= 0; decimals--)
        if (snprintf(text, bytes, "%*.*f", width, decimals, value) <= width)
            return text;
    snprintf(text, bytes, "%*.*e", width, width >= 7 ? 1 : 0, value);
    return text;
}
