/* Notes every change of the files below OC2D_DISK in OC2D_DISK_LOG, in the order in which it happens,
 * and which of them were synced: `disk.py` makes of it what a disk may hold after a power loss.
 * OC2D_DISK_DEATH=N kills the process in its Nth sync, when nothing of that is on the disk yet. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); \
  if (!real) real = dlsym(RTLD_NEXT, name)
#define FILES 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static size_t root_length;
static int out = -1;
static long death;
static char watched[FILES]; /* 2: opened with O_APPEND */

struct head { uint8_t op; uint8_t pad[3]; int32_t fd; int64_t at; uint32_t first, second; };

static void note(char op, int fd, int64_t at, const void *a, size_t n, const void *b, size_t m) {
  struct head head = {(uint8_t)op, {0}, fd, at, (uint32_t)n, (uint32_t)m};
  struct iovec parts[] = {{&head, sizeof head}, {(void *)a, n}, {(void *)b, m}};
  if (writev(out, parts, 3) != (ssize_t)(sizeof head + n + m)) abort();
}

static int below(const char *path) {
  return out >= 0 && path && !strncmp(path, root, root_length) &&
         (path[root_length] == '/' || !path[root_length]);
}

static int is_watched(int fd) { return out >= 0 && fd >= 0 && fd < FILES && watched[fd]; }

__attribute__((constructor)) static void begin(void) {
  root = getenv("OC2D_DISK");
  const char *log = getenv("OC2D_DISK_LOG"), *when = getenv("OC2D_DISK_DEATH");
  if (!root || !log || getenv("OC2D_DISK_OFF")) return;
  root_length = strlen(root);
  death = when ? atol(when) : 0;
  setenv("OC2D_DISK_OFF", "1", 1); /* for whatever it starts */
  out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (out < 0) abort();
  note('p', -1, 0, NULL, 0, NULL, 0);
}

static int opened(int fd, const char *path, int flags) {
  if (fd >= 0 && fd < FILES) {
    watched[fd] = below(path) ? (flags & O_APPEND ? 2 : 1) : 0;
    if (watched[fd]) note('o', fd, flags, path, strlen(path), NULL, 0);
  }
  return fd;
}

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, #name, const char *, int, ...); \
    va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
    pthread_mutex_lock(&lock); \
    int fd = opened(real(path, flags, mode), path, flags); \
    pthread_mutex_unlock(&lock); \
    return fd; \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int dir, const char *path, int flags, ...) { \
    REAL(int, #name, int, const char *, int, ...); \
    va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
    pthread_mutex_lock(&lock); \
    int fd = opened(real(dir, path, flags, mode), path, flags); \
    pthread_mutex_unlock(&lock); \
    return fd; \
  }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
  REAL(int, "close", int);
  if (!is_watched(fd)) return real(fd);
  pthread_mutex_lock(&lock);
  watched[fd] = 0;
  note('c', fd, 0, NULL, 0, NULL, 0);
  int result = real(fd);
  pthread_mutex_unlock(&lock);
  return result;
}

/* Changes are noted before they happen, syncs after: a kill in between must not make it look safer
 * than it is. */
ssize_t write(int fd, const void *data, size_t size) {
  REAL(ssize_t, "write", int, const void *, size_t);
  if (!is_watched(fd)) return real(fd, data, size);
  pthread_mutex_lock(&lock);
  off_t at = lseek(fd, 0, watched[fd] == 2 ? SEEK_END : SEEK_CUR);
  note('w', fd, at, data, size, NULL, 0);
  ssize_t done = real(fd, data, size);
  pthread_mutex_unlock(&lock);
  return done;
}

#define PWRITE(name) \
  ssize_t name(int fd, const void *data, size_t size, off_t at) { \
    REAL(ssize_t, #name, int, const void *, size_t, off_t); \
    if (!is_watched(fd)) return real(fd, data, size, at); \
    pthread_mutex_lock(&lock); \
    note('w', fd, at, data, size, NULL, 0); \
    ssize_t done = real(fd, data, size, at); \
    pthread_mutex_unlock(&lock); \
    return done; \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATE(name) \
  int name(int fd, off_t size) { \
    REAL(int, #name, int, off_t); \
    if (!is_watched(fd)) return real(fd, size); \
    pthread_mutex_lock(&lock); \
    note('t', fd, size, NULL, 0, NULL, 0); \
    int result = real(fd, size); \
    pthread_mutex_unlock(&lock); \
    return result; \
  }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define SYNC(name) \
  int name(int fd) { \
    REAL(int, #name, int); \
    if (!is_watched(fd)) return real(fd); \
    pthread_mutex_lock(&lock); \
    if (death && !--death) kill(getpid(), SIGKILL); \
    int result = real(fd); \
    if (!result) note('s', fd, 0, NULL, 0, NULL, 0); \
    pthread_mutex_unlock(&lock); \
    return result; \
  }
SYNC(fsync)
SYNC(fdatasync)

#define NAME(name, op) \
  int name(const char *path) { \
    REAL(int, #name, const char *); \
    if (!below(path)) return real(path); \
    pthread_mutex_lock(&lock); \
    note(op, -1, 0, path, strlen(path), NULL, 0); \
    int result = real(path); \
    pthread_mutex_unlock(&lock); \
    return result; \
  }
NAME(unlink, 'u')
NAME(rmdir, 'u')

int rename(const char *old, const char *new) {
  REAL(int, "rename", const char *, const char *);
  if (!below(old)) return real(old, new);
  pthread_mutex_lock(&lock);
  note('r', -1, 0, old, strlen(old), new, strlen(new));
  int result = real(old, new);
  pthread_mutex_unlock(&lock);
  return result;
}
