/* SPDX-License-Identifier: Apache-2.0 */
/* choir-run: runs a program as N ranks on this host. Everything of substance is in src/boot/local.c. */
#include "boot/local.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: choir-run -n N [options] PROGRAM [arguments]\n"
    "Runs PROGRAM as N processes of this host; choir_comm_create_auto joins them.\n"
    "  -n, --ranks N   how many\n"
    "      --hosts H   play H hosts: the ranks in H groups, each with a host id of its own\n"
    "  -l, --label     begin each line of output with the rank that wrote it\n"
    "      --bind      bind rank r to core r (modulo the cores there are)\n"
    "  -h, --help      this text\n"
    "The first rank that fails is named, the others are ended, and its exit status is choir-run's\n"
    "(128 + signal if a signal ended it). Rank 0 has the standard input.\n";

/* 1..100000, or an error that names the option. */
static int number(const char *option, const char *text)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || end == text || *end || v < 1 || v > 100000) {
        fprintf(stderr, "choir-run: %s %s: give a number from 1 to 100000\n", option, text);
        exit(2);
    }
    return (int)v;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"ranks", required_argument, NULL, 'n'}, {"hosts", required_argument, NULL, 'H'},
        {"label", no_argument, NULL, 'l'},       {"bind", no_argument, NULL, 'b'},
        {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0}};
    struct local_job job = {.hosts = 1, .name = "choir-run"};
    int c, rank;
    while ((c = getopt_long(argc, argv, "+n:lh", options, NULL)) != -1) {
        if (c == 'n')
            job.ranks = number("-n", optarg);
        else if (c == 'H')
            job.hosts = number("--hosts", optarg);
        else if (c == 'l')
            job.label = true;
        else if (c == 'b')
            job.bind = true;
        else if (c == 'h')
            return fputs(usage, stdout) < 0;
        else
            return fputs(usage, stderr), 2;
    }
    job.argv = argv + optind;
    if (!job.ranks || !job.argv[0] || job.hosts > job.ranks) {
        if (job.ranks && job.argv[0])
            fprintf(stderr, "choir-run: --hosts %d is more than the %d ranks\n", job.hosts,
                    job.ranks);
        else
            fputs(usage, stderr);
        return 2;
    }
    return local_run(&job, &rank);
}
