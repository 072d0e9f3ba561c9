/* A host that makes the calls it reads, one a line, and prints what each returned: status, milliseconds, text. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "glassrt.h"

static glassrt_client *client;
static glassrt_session *session;

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A tile whose every byte tells its place. */
static unsigned char *paint(size_t length) {
    unsigned char *pixels = malloc(length ? length : 1);
    for (size_t each = 0; each < length; each++) {
        pixels[each] = (unsigned char)(each * 7 + each / 251);
    }
    return pixels;
}

static glassrt_status push(const char *line) {
    long long x = 0, y = 0;
    int width = 0, height = 0, format = 0, wait_ms = 0;
    unsigned long stride = 0, length = 0;
    unsigned char *pixels;
    glassrt_status status;
    sscanf(line, "%lld %lld %d %d %lu %d %lu %d", &x, &y, &width, &height, &stride, &format, &length, &wait_ms);
    pixels = paint(length);
    status = glassrt_push(session, 0, x, y, width, height, stride, (glassrt_format)format, pixels, length, wait_ms);
    free(pixels);
    return status;
}

static void *push_many(void *count) {
    for (int each = 0; each < *(int *)count; each++) {
        char line[80];
        snprintf(line, sizeof line, "%d 0 64 64 0 0 12288 1000", each * 64);
        if (push(line) != GLASSRT_OK) {
            return count;
        }
    }
    return NULL;
}

/* Threads that push beside each other; the status of the one that fared worst, or OK. */
static glassrt_status push_from_threads(int threads, int each) {
    pthread_t running[64];
    glassrt_status worst = GLASSRT_OK;
    for (int one = 0; one < threads; one++) {
        pthread_create(&running[one], NULL, push_many, &each);
    }
    for (int one = 0; one < threads; one++) {
        void *failed;
        pthread_join(running[one], &failed);
        worst = failed ? GLASSRT_REFUSED : worst;
    }
    return worst;
}

static void *finish(void *status) {
    *(glassrt_status *)status = glassrt_finish(session, 60000, NULL);
    return NULL;
}

/* Cancel while another thread waits in finish. */
static glassrt_status cancel_a_finish(void) {
    struct timespec moment = {0, 300000000};
    glassrt_status finished = GLASSRT_OK, cancelled;
    pthread_t waiting;
    pthread_create(&waiting, NULL, finish, &finished);
    nanosleep(&moment, NULL);
    cancelled = glassrt_cancel(session);
    pthread_join(waiting, NULL);
    return cancelled ? cancelled : finished;
}

static glassrt_status call(char *line) {
    char address[256] = "", token[256] = "", *result = NULL;
    int first = 0, second = 0;
    glassrt_status status = GLASSRT_MISUSE;
    char *rest = strchr(line, ' ');
    rest = rest ? rest + 1 : line + strlen(line);
    sscanf(rest, "%d %d", &first, &second);
    if (!strncmp(line, "connect ", 8)) {
        glassrt_close(client);
        sscanf(rest, "%255s %255s %d", address, token, &first);
        session = NULL;
        return glassrt_connect(address, strcmp(token, "-") ? token : NULL, first, &client);
    }
    if (!strncmp(line, "begin ", 6)) {
        return glassrt_begin(client, rest, &session);
    }
    if (!strncmp(line, "overview ", 9)) {
        return glassrt_overview(session, rest, strlen(rest), first, 0, 100, 100);
    }
    if (!strncmp(line, "memory ", 7)) {
        return glassrt_memory(session, (size_t)first);
    }
    if (!strncmp(line, "push ", 5)) {
        return push(rest);
    }
    if (!strncmp(line, "threads ", 8)) {
        return push_from_threads(first, second);
    }
    if (!strncmp(line, "event ", 6)) {
        glassrt_event event;
        status = glassrt_next_event(session, first, &event);
        if (event.data) {
            printf("%lld %s %lu %.200s\n", (long long)event.number, event.kind, (unsigned long)event.length, event.data);
        }
        glassrt_free(event.data);
        return status;
    }
    if (!strncmp(line, "finish ", 7)) {
        status = glassrt_finish(session, first, &result);
        if (result) {
            printf("%.2000s\n", result);
        }
        glassrt_free(result);
        return status;
    }
    if (!strcmp(line, "cancel a finish")) {
        return cancel_a_finish();
    }
    if (!strcmp(line, "cancel")) {
        return glassrt_cancel(session);
    }
    if (!strcmp(line, "end")) {
        glassrt_end(session);
        session = NULL;
        return GLASSRT_OK;
    }
    return status;
}

int main(void) {
    static char line[1 << 16];
    while (fgets(line, sizeof line, stdin)) {
        char text[512] = "";
        long long start = now_ms();
        glassrt_status status;
        line[strcspn(line, "\n")] = '\0';
        status = call(line);
        if (status) {
            glassrt_error(client, text, sizeof text);
        }
        printf("= %d %lld %s\n", (int)status, now_ms() - start, text);
        fflush(stdout);
    }
    glassrt_close(client);
    return 0;
}
