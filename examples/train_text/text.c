/* SPDX-License-Identifier: Apache-2.0 */
/* text.c: reads the text, numbers its symbols, and says which places samples are taken from. */
#include "examples/train_text/train_text.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STRIPE 1024 /* bytes of text; every tenth stripe is held out */
#define TEXT_MOST (64u << 20)

struct text text;

static void append_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail("the text cannot be read");
    text.bytes += fread(text.id + text.bytes, 1, TEXT_MOST - text.bytes, f);
    fclose(f);
}

static int is_text(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && (!strcmp(dot, ".c") || !strcmp(dot, ".h") || !strcmp(dot, ".md"));
}

/* Directories in the order of their names, so that every run sees the same text. */
static void append_tree(const char *path, int depth)
{
    struct dirent **list;
    int n = depth < 8 ? scandir(path, &list, NULL, alphasort) : 0;
    for (int i = 0; i < n; i++) {
        char child[4096];
        struct stat st;
        const char *name = list[i]->d_name;
        snprintf(child, sizeof(child), "%s/%s", path, name);
        if (name[0] != '.' && strncmp(name, "build", 5) && !stat(child, &st)) {
            if (S_ISDIR(st.st_mode))
                append_tree(child, depth + 1);
            else if (is_text(name))
                append_file(child);
        }
        free(list[i]);
    }
    if (n > 0)
        free(list);
}

/* The repository: two levels above the executable, or the working directory. */
static void append_repository(void)
{
    char path[4096], probe[4160];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    for (int up = 0; up < 3 && strrchr(path, '/'); up++)
        *strrchr(path, '/') = 0;
    snprintf(probe, sizeof(probe), "%s/include/choir.h", path);
    append_tree(n > 0 && !access(probe, R_OK) ? path : ".", 0);
}

/* A context full of blanks says nothing: four spaces become a tab, a long run of them one space. */
static void fold_blanks(void)
{
    size_t to = 0;
    for (size_t i = 0, run; i < text.bytes; to++) {
        for (run = 0; i + run < text.bytes && text.id[i + run] == ' ';)
            run++;
        text.id[to] = run >= 4 && run < 24 ? '\t' : text.id[i];
        i += run >= 24 ? run : run >= 4 ? 4 : 1;
    }
    text.bytes = to;
}

void text_read(void)
{
    text.id = zeroed(TEXT_MOST, 1);
    if (args.text)
        append_file(args.text);
    else
        append_repository();
}

void text_number(void)
{
    int seen[256] = {0};
    fold_blanks();
    if (text.bytes < 20 * STRIPE)
        fail("the text is too short, 20 KiB at least; the repository was looked for above the "
             "program "
             "and in the working directory; --text FILE names another");
    for (size_t i = 0; i < text.bytes; i++)
        seen[text.id[i]] = 1;
    for (int b = 0; b < 256; b++)
        if (seen[b]) {
            text.byte_of[text.symbols] = (unsigned char)b;
            seen[b] = text.symbols++;
        }
    for (size_t i = 0; i < text.bytes; i++)
        text.id[i] = (unsigned char)seen[text.id[i]];
}

size_t text_position(uint64_t step, uint64_t i, bool held_out)
{
    size_t groups = text.bytes / (10 * STRIPE);
    uint64_t h = mix(step, i);
    size_t stripe = held_out ? 9 : h % 9, at = (h >> 8) % STRIPE;
    size_t p = ((h >> 24) % groups * 10 + stripe) * STRIPE + at;
    return p < (size_t)args.context ? (size_t)args.context : p;
}
