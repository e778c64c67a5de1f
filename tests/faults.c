/* Loaded before the C library (tests/test_crew.py): from the n-th write into a folder on, calls fail as on a full disk.

   FAULT_FOLDER names the folder, FAULT_CALLS says how many calls succeed, FAULT_ERRNO is what all later ones give. */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

static int lies_there(int descriptor)
{
    char link[64], path[PATH_MAX];
    const char *const folder = getenv("FAULT_FOLDER");
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t size = readlink(link, path, sizeof path - 1);
    if (folder == NULL || size < 0)
        return 0;
    path[size] = '\0';
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fails(int descriptor)
{
    if (!lies_there(descriptor) || atomic_fetch_add(&calls, 1) < atoi(getenv("FAULT_CALLS")))
        return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "write");
    if (size > 100 && lies_there(descriptor) && atomic_load(&calls) == atoi(getenv("FAULT_CALLS")))
        size /= 2; /* the last one is cut short */
    return fails(descriptor) ? -1 : real(descriptor, data, size);
}

int close(int descriptor)
{
    static int (*real)(int);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "close");
    const int failed = fails(descriptor), error = errno;
    const int closed = real(descriptor);
    errno = failed ? error : errno;
    return failed ? -1 : closed;
}

int renameat(int from, const char *old, int to, const char *new)
{
    static int (*real)(int, const char *, int, const char *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "renameat");
    return fails(from) ? -1 : real(from, old, to, new);
}
