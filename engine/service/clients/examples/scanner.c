/* A scanner simulator: pushes the tiles of a picture (PPM, P6, 8 bits) in snake order at a scanner's speed, prints the
 * events as they come and the result at the end.
 *
 *   cc -std=c99 -I.. scanner.c ../glassrt*.c -o scanner -lpthread
 *   ./scanner slide.ppm [--address 127.0.0.1:8080] [--token T] [--bundle glas-glands] [--name NAME] [--mpp 0.5]
 *             [--tile 1024] [--rate 14.3] [--timeout-ms 10000] [--memory 1]
 *
 * 14.3 tiles of 1024 x 1024 a second are a slide of 15 x 15 mm at 0.5 um in a minute; --rate 0 is as fast as it goes.
 */
#ifndef _WIN32
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _WIN32
#include <windows.h>
#endif

#include "glassrt.h"

struct options {
    const char *slide, *address, *token, *bundle, *name;
    double mpp, rate;
    int tile, timeout_ms, memory;
};

struct scan {
    glassrt_client *client;
    glassrt_session *session;
    int lost; /* the session cannot go on */
};

static int64_t now_ms(void) {
#ifdef _WIN32
    return (int64_t)GetTickCount64();
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
#endif
}

static void pause_ms(int64_t length) {
#ifdef _WIN32
    Sleep((DWORD)length);
#else
    struct timespec left = {(time_t)(length / 1000), (long)(length % 1000) * 1000000};
    nanosleep(&left, NULL);
#endif
}

/* Say what the client says of a failure. */
static void complain(glassrt_client *client, const char *doing, glassrt_status status) {
    char line[512];
    glassrt_error(client, line, sizeof line);
    fprintf(stderr, "scanner: %s: %s (%d)\n", doing, line, (int)status);
}

static int read_options(int count, char **given, struct options *options) {
    for (int each = 1; each < count; each++) {
        const char *name = given[each], *value = each + 1 < count ? given[each + 1] : NULL;
        if (strncmp(name, "--", 2)) {
            options->slide = name;
            continue;
        }
        if (!value) {
            return 0;
        }
        each++;
        if (!strcmp(name, "--address")) {
            options->address = value;
        } else if (!strcmp(name, "--token")) {
            options->token = value;
        } else if (!strcmp(name, "--bundle")) {
            options->bundle = value;
        } else if (!strcmp(name, "--name")) {
            options->name = value;
        } else if (!strcmp(name, "--mpp")) {
            options->mpp = atof(value);
        } else if (!strcmp(name, "--rate")) {
            options->rate = atof(value);
        } else if (!strcmp(name, "--tile")) {
            options->tile = atoi(value);
        } else if (!strcmp(name, "--timeout-ms")) {
            options->timeout_ms = atoi(value);
        } else if (!strcmp(name, "--memory")) {
            options->memory = atoi(value);
        } else {
            return 0;
        }
    }
    return options->slide && options->tile > 0 && options->tile <= 8192 && options->rate >= 0;
}

/* Print events until there are none for `wait_ms`, or the session is over: then this returns 0. */
static int print_events(struct scan *scan, int64_t wait_ms) {
    int64_t until = now_ms() + wait_ms;
    for (;;) {
        int64_t left = until - now_ms();
        glassrt_event event;
        glassrt_status status = glassrt_next_event(scan->session, left > 0 ? (int)left : 0, &event);
        if (status == GLASSRT_OK) {
            printf("%lld %s %.120s\n", (long long)event.number, event.kind, event.data);
            glassrt_free(event.data);
        } else {
            if (status > GLASSRT_ENDED) {
                complain(scan->client, "events", status);
                scan->lost = 1;
            }
            return status == GLASSRT_NONE;
        }
    }
}

/* Push one tile of a strip of rows; a server that has no room is asked until it has. */
static void push_tile(struct scan *scan, const uint8_t *strip, int slide_width, int x, int y, int width, int height) {
    size_t stride = (size_t)slide_width * 3;
    const uint8_t *first = strip + (size_t)x * 3;
    size_t length = stride * (size_t)(height - 1) + (size_t)width * 3;
    glassrt_status status;
    do {
        status = glassrt_push(scan->session, 0, x, y, width, height, stride, GLASSRT_RGB, first, length, 1000);
    } while (status == GLASSRT_BUSY);
    if (status != GLASSRT_OK) {
        complain(scan->client, "push", status);
        scan->lost = status != GLASSRT_REFUSED; /* a refused tile is missing, and the rest goes on */
    }
}

/* Push all tiles, strip by strip, every other one from right to left. */
static void scan_slide(struct scan *scan, const struct options *options, FILE *file, int width, int height) {
    int side = options->tile, across = (width + side - 1) / side;
    int64_t start = now_ms(), pushed = 0;
    uint8_t *strip = malloc((size_t)width * 3 * (size_t)side);
    if (!strip) {
        fprintf(stderr, "scanner: no memory for a strip of %d rows\n", side);
        scan->lost = 1;
    }
    for (int y = 0; y < height && !scan->lost; y += side) {
        int rows = height - y < side ? height - y : side;
        if (fread(strip, (size_t)width * 3, (size_t)rows, file) != (size_t)rows) {
            fprintf(stderr, "scanner: %s ends in row %d or later\n", options->slide, y);
            scan->lost = 1;
        }
        for (int step = 0; step < across && !scan->lost; step++) {
            int x = side * (y / side % 2 ? across - 1 - step : step);
            int64_t due = options->rate > 0 ? start + (int64_t)((double)pushed * 1000 / options->rate) : 0;
            print_events(scan, due - now_ms());
            if (!scan->lost) {
                push_tile(scan, strip, width, x, y, width - x < side ? width - x : side, rows);
                pushed++;
            }
        }
    }
    free(strip);
}

static int run_session(struct scan *scan, const struct options *options, FILE *file, int width, int height) {
    char json[1024], *result = NULL;
    glassrt_status status;
    snprintf(json, sizeof json,
             "{\"bundle\": \"%s\", \"levels\": [[%d, %d]], \"mpp\": %g, \"tile\": [%d, %d], \"name\": \"%s\"}",
             options->bundle, width, height, options->mpp, options->tile, options->tile, options->name);
    while ((status = glassrt_begin(scan->client, json, &scan->session)) == GLASSRT_BUSY) {
        pause_ms(500); /* other scanners take all places of the server */
    }
    if (status != GLASSRT_OK) {
        complain(scan->client, "begin", status);
        return 1;
    }
    if (options->memory) {
        status = glassrt_memory(scan->session, (size_t)options->tile * (size_t)options->tile * 3);
        if (status != GLASSRT_OK) {
            complain(scan->client, "no shared memory", status); /* the socket does it too */
        }
    }
    scan_slide(scan, options, file, width, height);
    if (scan->lost) {
        return 1;
    }
    status = glassrt_finish(scan->session, 120000, &result);
    if (status != GLASSRT_OK) {
        complain(scan->client, "finish", status);
        return 1;
    }
    while (print_events(scan, options->timeout_ms)) {
    }
    printf("%s\n", result);
    glassrt_free(result);
    return 0;
}

int main(int count, char **given) {
    struct options options = {NULL, "127.0.0.1:8080", NULL, "glas-glands", "scan", 0.5, 14.3, 1024, 10000, 0};
    struct scan scan = {NULL, NULL, 0};
    int width, height, code = 1;
    FILE *file;
    glassrt_status status;
    if (!read_options(count, given, &options)) {
        fprintf(stderr, "usage: scanner SLIDE.ppm [--address A] [--token T] [--bundle B] [--name N] [--mpp M]"
                        " [--tile SIDE] [--rate TILES_A_SECOND] [--timeout-ms T] [--memory 0|1]\n");
        return 2;
    }
    file = fopen(options.slide, "rb");
    if (!file || fscanf(file, "P6 %d %d 255", &width, &height) != 2 || width < 1 || height < 1 || width > 1 << 20 ||
        fgetc(file) == EOF) {
        fprintf(stderr, "scanner: %s is no picture in the format P6 with 8 bits\n", options.slide);
    } else if ((status = glassrt_connect(options.address, options.token, options.timeout_ms, &scan.client))) {
        complain(scan.client, "connect", status);
    } else {
        code = run_session(&scan, &options, file, width, height);
    }
    glassrt_end(scan.session);
    glassrt_close(scan.client);
    if (file) {
        fclose(file);
    }
    return code;
}
