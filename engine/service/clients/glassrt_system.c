/* The clock, gates, and memory of another process. */
#include "glassrt_system.h"

#include <stdarg.h>
#include <stdio.h>

#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#endif

glassrt_status glassrt_fail(glassrt_fault *fault, glassrt_status status, const char *format, ...) {
    va_list values;
    va_start(values, format);
    fault->status = status;
    if (vsnprintf(fault->text, sizeof fault->text, format, values) < 0) {
        fault->text[0] = '\0';
    }
    va_end(values);
    for (char *each = fault->text; *each; each++) {
        if ((unsigned char)*each < ' ' || *each == 127) {
            *each = '?';
        }
    }
    return status;
}

#ifdef _WIN32

int64_t glassrt_now(void) {
    return (int64_t)GetTickCount64();
}

int glassrt_gate_make(glassrt_gate *gate) {
    InitializeSRWLock(&gate->lock);
    InitializeConditionVariable(&gate->left);
    gate->taken = 0;
    return 1;
}

void glassrt_gate_remove(glassrt_gate *gate) {
    (void)gate;
}

static void gate_lock(glassrt_gate *gate) {
    AcquireSRWLockExclusive(&gate->lock);
}

static void gate_unlock(glassrt_gate *gate) {
    ReleaseSRWLockExclusive(&gate->lock);
}

static int gate_wait(glassrt_gate *gate, int64_t until) {
    int64_t left = until - glassrt_now();
    return left > 0 && SleepConditionVariableSRW(&gate->left, &gate->lock, (DWORD)left, 0);
}

static void gate_wake(glassrt_gate *gate) {
    WakeConditionVariable(&gate->left);
}

void *glassrt_memory_map(const char *path, size_t bytes, glassrt_fault *fault) {
    (void)path;
    (void)bytes;
    glassrt_fail(fault, GLASSRT_REFUSED, "shared memory is not there on Windows; tiles go through the socket");
    return NULL;
}

void glassrt_memory_unmap(void *memory, size_t bytes) {
    (void)memory;
    (void)bytes;
}

#else

int64_t glassrt_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int glassrt_gate_make(glassrt_gate *gate) {
    pthread_condattr_t steady;
    int made;
    gate->taken = 0;
    if (pthread_condattr_init(&steady)) {
        return 0;
    }
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    made = !pthread_cond_init(&gate->left, &steady);
    pthread_condattr_destroy(&steady);
    if (made && pthread_mutex_init(&gate->lock, NULL)) {
        pthread_cond_destroy(&gate->left);
        made = 0;
    }
    return made;
}

void glassrt_gate_remove(glassrt_gate *gate) {
    pthread_cond_destroy(&gate->left);
    pthread_mutex_destroy(&gate->lock);
}

static void gate_lock(glassrt_gate *gate) {
    pthread_mutex_lock(&gate->lock);
}

static void gate_unlock(glassrt_gate *gate) {
    pthread_mutex_unlock(&gate->lock);
}

static int gate_wait(glassrt_gate *gate, int64_t until) {
    struct timespec moment;
    moment.tv_sec = (time_t)(until / 1000);
    moment.tv_nsec = (long)(until % 1000) * 1000000;
    return pthread_cond_timedwait(&gate->left, &gate->lock, &moment) == 0;
}

static void gate_wake(glassrt_gate *gate) {
    pthread_cond_signal(&gate->left);
}

/* Whether a file is memory of which nobody can take anything away. */
static int is_sealed(int file) {
#ifdef __linux__
    enum { GET_SEALS = 1034, SEAL_SHRINK = 2 }; /* linux/fcntl.h, which shows them to GNU programs alone */
    int seals = fcntl(file, GET_SEALS);
    return seals != -1 && (seals & SEAL_SHRINK);
#else
    (void)file;
    return 0;
#endif
}

void *glassrt_memory_map(const char *path, size_t bytes, glassrt_fault *fault) {
    struct stat found;
    void *memory = MAP_FAILED;
    int file = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0) {
        glassrt_fail(fault, GLASSRT_REFUSED, "%s, the memory to share, cannot be opened: %s", path, strerror(errno));
        return NULL;
    }
    if (fstat(file, &found) || !S_ISREG(found.st_mode) || found.st_size < 0 || (uintmax_t)found.st_size < bytes ||
        !is_sealed(file)) {
        glassrt_fail(fault, GLASSRT_REFUSED, "%s is no sealed memory of %lu bytes", path, (unsigned long)bytes);
    } else {
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (memory == MAP_FAILED) {
            glassrt_fail(fault, GLASSRT_REFUSED, "%s cannot be mapped: %s", path, strerror(errno));
        }
    }
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

void glassrt_memory_unmap(void *memory, size_t bytes) {
    munmap(memory, bytes);
}

#endif

glassrt_status glassrt_gate_enter(glassrt_gate *gate, int64_t until, glassrt_fault *fault) {
    int entered;
    gate_lock(gate);
    while (gate->taken && gate_wait(gate, until)) {
    }
    entered = !gate->taken;
    gate->taken = 1;
    gate_unlock(gate);
    if (!entered) {
        return glassrt_fail(fault, GLASSRT_TIMEOUT, "another thread has not finished its call within the time limit");
    }
    return GLASSRT_OK;
}

void glassrt_gate_leave(glassrt_gate *gate) {
    gate_lock(gate);
    gate->taken = 0;
    gate_wake(gate);
    gate_unlock(gate);
}
