/* Stands between a process and the disk: records what is done to the files of one folder, and makes
 * the disk slow, full or broken on command. Loaded with LD_PRELOAD on Linux.
 *
 * SITQ_DISK_FOLDER   the folder, without a slash at its end
 * SITQ_DISK_LOG      where the records go, in the order of the calls; none are written without it
 * SITQ_DISK_CONTROL  a file of 64-bit numbers (struct control), shared by everybody who maps it
 *
 * Files whose names end in -shm are left alone: they are mapped memory, of no worth after a loss of
 * power. disk.py holds the other side of the two formats below.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FD 4096
#define LOG_FD 1000

enum kind { WRITE = 1, TRUNCATE, SYNC_BEGINS, SYNC_ENDS, SYNC_FAILS, CREATE, LINK, RENAME, UNLINK };

struct record { /* then the name or names, each ended by a zero byte, then the bytes of a write */
    uint32_t kind, names;
    uint64_t inode, offset, size, sync; /* inode 0: the folder; sync: pairs its begin with its end */
};

struct control {
    volatile int64_t sync_delay; /* microseconds */
    volatile int64_t sync_error; /* an errno that every sync fails with; 0: none */
    volatile int64_t write_error;
    volatile int64_t kill_at; /* the number of the write before which the process is killed */
    volatile int64_t writes, syncs, failures;
};

static const char *folder;
static size_t folder_length;
static int logging;
static struct control none, *control = &none;
static char watched[MAX_FD];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("SITQ_DISK_LOG"), *page = getenv("SITQ_DISK_CONTROL");
    folder = getenv("SITQ_DISK_FOLDER");
    folder_length = folder ? strlen(folder) : 0;
    if (log) {
        int fd = REAL(open)(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        logging = fd >= 0 && fcntl(fd, F_DUPFD_CLOEXEC, LOG_FD) == LOG_FD;
        REAL(close)(fd);
    }
    if (page) {
        int fd = REAL(open)(page, O_RDWR | O_CLOEXEC);
        void *map = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED)
            control = map;
        REAL(close)(fd);
    }
}

static int is_ours(const char *path) {
    size_t length = strlen(path);
    if (!folder || strncmp(path, folder, folder_length))
        return 0;
    if (path[folder_length] && path[folder_length] != '/')
        return 0;
    return length < 4 || strcmp(path + length - 4, "-shm");
}

static int is_watched(int fd) {
    return fd >= 0 && fd < MAX_FD && watched[fd];
}

static uint64_t inode_of(int fd) {
    struct stat status;
    if (fstat(fd, &status) || S_ISDIR(status.st_mode))
        return 0;
    return status.st_ino;
}

static const char *name_of(const char *path) {
    return path + folder_length + (path[folder_length] == '/');
}

static void record(struct record head, const char *name, const char *other, const void *bytes) {
    struct iovec parts[4] = {
        {&head, sizeof head},
        {(void *)name, name ? strlen(name) + 1 : 0},
        {(void *)other, other ? strlen(other) + 1 : 0},
        {(void *)bytes, bytes ? head.size : 0},
    };
    int before = errno;
    if (!logging)
        return;
    head.names = parts[1].iov_len + parts[2].iov_len;
    if (writev(LOG_FD, parts, 4) < 0) /* one append, so that threads and processes do not mix */
        abort();
    errno = before;
}

static void record_entry(enum kind kind, uint64_t inode, const char *path, const char *other) {
    record((struct record){.kind = kind, .inode = inode}, name_of(path),
           other ? name_of(other) : NULL, NULL);
}

static int fails(int64_t error) {
    if (!error)
        return 0;
    __sync_fetch_and_add(&control->failures, 1);
    errno = (int)error;
    return 1;
}

/* Opening: exclusively at first, to know for sure who created a file. */

static int opened(const char *path, int flags, mode_t mode) {
    int fd = -1, creates = (flags & O_CREAT) && is_ours(path);
    if (creates)
        fd = REAL(open)(path, flags | O_EXCL, mode);
    if (fd >= 0)
        record_entry(CREATE, inode_of(fd), path, NULL);
    else if (!creates || (errno == EEXIST && !(flags & O_EXCL)))
        fd = REAL(open)(path, flags, mode);
    if (fd >= 0 && fd < MAX_FD) {
        watched[fd] = is_ours(path);
        if (watched[fd] && (flags & O_TRUNC))
            record((struct record){.kind = TRUNCATE, .inode = inode_of(fd)}, NULL, NULL, NULL);
    }
    return fd;
}

static mode_t mode_from(int flags, va_list rest) {
    return (flags & O_CREAT) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = mode_from(flags, rest);                                                      \
        va_end(rest);                                                                              \
        return opened(path, flags, mode);                                                          \
    }

OPEN(open)
OPEN(open64)

int creat(const char *path, mode_t mode) {
    return opened(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int close(int fd) {
    if (fd == LOG_FD && logging)
        return 0;
    if (fd >= 0 && fd < MAX_FD)
        watched[fd] = 0;
    return REAL(close)(fd);
}

/* Writing: recorded when it is done, so that a sync which begins later is known to cover it. */

static void before_write(void) {
    if (__sync_add_and_fetch(&control->writes, 1) == control->kill_at)
        raise(SIGKILL);
}

static ssize_t written(int fd, const void *bytes, ssize_t size, off_t offset) {
    if (size > 0)
        record((struct record){.kind = WRITE, .inode = inode_of(fd), .offset = offset,
                               .size = size}, NULL, NULL, bytes);
    return size;
}

#define PWRITE(name)                                                                               \
    ssize_t name(int fd, const void *bytes, size_t size, off_t offset) {                           \
        if (!is_watched(fd))                                                                       \
            return REAL(name)(fd, bytes, size, offset);                                            \
        before_write();                                                                            \
        if (fails(control->write_error))                                                           \
            return -1;                                                                             \
        return written(fd, bytes, REAL(name)(fd, bytes, size, offset), offset);                    \
    }

PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t write(int fd, const void *bytes, size_t size) {
    if (!is_watched(fd))
        return REAL(write)(fd, bytes, size);
    before_write();
    if (fails(control->write_error))
        return -1;
    off_t offset = lseek(fd, 0, SEEK_CUR);
    return written(fd, bytes, REAL(write)(fd, bytes, size), offset);
}

#define FTRUNCATE(name)                                                                            \
    int name(int fd, off_t size) {                                                                 \
        int result = REAL(name)(fd, size);                                                         \
        if (!result && is_watched(fd))                                                             \
            record((struct record){.kind = TRUNCATE, .inode = inode_of(fd), .offset = size},       \
                   NULL, NULL, NULL);                                                              \
        return result;                                                                             \
    }

FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define SYNC(name)                                                                                 \
    int name(int fd) {                                                                             \
        if (!is_watched(fd))                                                                       \
            return REAL(name)(fd);                                                                 \
        struct record head = {.kind = SYNC_BEGINS, .inode = inode_of(fd),                          \
                              .sync = __sync_add_and_fetch(&control->syncs, 1)};                   \
        record(head, NULL, NULL, NULL);                                                            \
        if (control->sync_delay)                                                                   \
            usleep(control->sync_delay);                                                           \
        int result = fails(control->sync_error) ? -1 : REAL(name)(fd);                             \
        head.kind = result ? SYNC_FAILS : SYNC_ENDS;                                               \
        record(head, NULL, NULL, NULL);                                                            \
        return result;                                                                             \
    }

SYNC(fsync)
SYNC(fdatasync)

/* Entries of the folder. */

int link(const char *path, const char *other) {
    struct stat status;
    int result = REAL(link)(path, other);
    if (!result && is_ours(other) && !stat(other, &status))
        record_entry(LINK, status.st_ino, other, NULL);
    return result;
}

int rename(const char *path, const char *other) {
    int result = REAL(rename)(path, other);
    if (!result && is_ours(path) && is_ours(other))
        record_entry(RENAME, 0, path, other);
    return result;
}

int unlink(const char *path) {
    int result = REAL(unlink)(path);
    if (!result && is_ours(path))
        record_entry(UNLINK, 0, path, NULL);
    return result;
}
