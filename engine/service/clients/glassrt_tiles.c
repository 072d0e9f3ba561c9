/* What goes to the server: the overview picture, and tiles through its socket or memory shared with it. */
#include "glassrt_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_SIDE = 1 << 16, MOST_WAIT_MS = 60000 }; /* of a tile in pixels; both are the server's, too */

static const struct {
    const char *name, *type;
    size_t channels; /* bytes a pixel; 0 where it is encoded */
} formats[] = {
    {"rgb", "application/octet-stream", 3},  {"bgr", "application/octet-stream", 3},
    {"rgba", "application/octet-stream", 4}, {"bgra", "application/octet-stream", 4},
    {"jpeg", "image/jpeg", 0},               {"jp2", "image/jp2", 0},
};

glassrt_status glassrt_overview(glassrt_session *session, const void *picture, size_t length, int64_t left,
                                int64_t top, int64_t right, int64_t bottom) {
    glassrt_fault fault = {GLASSRT_OK, ""};
    glassrt_request request;
    int64_t until;
    if (!session) {
        return GLASSRT_MISUSE;
    }
    until = glassrt_now() + session->client->timeout_ms;
    if (!picture || !length) {
        glassrt_fail(&fault, GLASSRT_MISUSE, "an overview is a picture, PNG or JPEG");
    } else if (glassrt_gate_enter(&session->pushing, until, &fault) == GLASSRT_OK) {
        if (left || top || right || bottom) {
            glassrt_request_make(&request, "PUT", session, "/overview?left=%lld&top=%lld&right=%lld&bottom=%lld",
                                 (long long)left, (long long)top, (long long)right, (long long)bottom);
        } else {
            glassrt_request_make(&request, "PUT", session, "%s", "/overview");
        }
        request.type = *(const unsigned char *)picture == 0xff ? "image/jpeg" : "image/png";
        request.body = picture;
        request.length = length;
        glassrt_ask_session(session, &request, until, NULL, &fault);
        glassrt_gate_leave(&session->pushing);
    }
    return glassrt_tell(session->client, &fault);
}

/* Ask the server for memory and map it. */
static glassrt_status share_memory(glassrt_session *session, size_t bytes, int64_t until, glassrt_fault *fault) {
    glassrt_request request;
    glassrt_answer answer;
    glassrt_span whole, value;
    char body[64], path[256];
    int64_t given = -1;
    glassrt_request_make(&request, "POST", session, "/memory");
    sprintf(body, "{\"bytes\": %llu}", (unsigned long long)bytes);
    request.type = "application/json";
    request.body = body;
    request.length = strlen(body);
    if (glassrt_ask_session(session, &request, until, &answer, fault) != GLASSRT_OK) {
        return fault->status;
    }
    whole = glassrt_json_whole(answer.body, answer.length);
    if (glassrt_json_find(whole, "bytes", &value)) {
        given = glassrt_json_number(value);
    }
    if (given < 1 || (uint64_t)given < bytes || !glassrt_json_find(whole, "path", &value) ||
        glassrt_json_text(value, path, sizeof path) < 1) {
        glassrt_fail(fault, GLASSRT_LOST, "the server's answer names no memory of %llu bytes",
                     (unsigned long long)bytes);
    } else {
        session->memory = glassrt_memory_map(path, bytes, fault);
        session->memory_bytes = session->memory ? bytes : 0;
    }
    free(answer.body);
    return fault->status;
}

glassrt_status glassrt_memory(glassrt_session *session, size_t bytes) {
    glassrt_fault fault = {GLASSRT_OK, ""};
    int64_t until;
    if (!session) {
        return GLASSRT_MISUSE;
    }
    until = glassrt_now() + session->client->timeout_ms;
    if (!bytes || bytes > (size_t)1 << 30) {
        glassrt_fail(&fault, GLASSRT_MISUSE, "memory for tiles is 1 byte to 1 GiB");
    } else if (glassrt_gate_enter(&session->pushing, until, &fault) == GLASSRT_OK) {
        if (session->memory) {
            glassrt_fail(&fault, GLASSRT_MISUSE, "the session has its memory already");
        } else {
            share_memory(session, bytes, until, &fault);
        }
        glassrt_gate_leave(&session->pushing);
    }
    return glassrt_tell(session->client, &fault);
}

/* A tile as it was given, and what it has without gaps between its rows. */
struct tile {
    const char *pixels;
    size_t stride, row, rows, bytes;
};

/* Describe a tile; an encoded one is one row. */
static glassrt_status read_tile(struct tile *tile, int width, int height, size_t stride, glassrt_format format,
                                const void *pixels, size_t length, glassrt_fault *fault) {
    if ((int)format < 0 || (size_t)format >= sizeof formats / sizeof *formats) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "%d is no format of tiles", (int)format);
    }
    if (!pixels || !length) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "a tile without content");
    }
    if (width < 1 || height < 1 || width > LONGEST_SIDE || height > LONGEST_SIDE) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "a tile of %d x %d pixels", width, height);
    }
    tile->pixels = pixels;
    tile->row = formats[format].channels ? formats[format].channels * (size_t)width : length;
    tile->rows = formats[format].channels ? (size_t)height : 1;
    tile->stride = formats[format].channels && stride ? stride : tile->row;
    if (tile->stride < tile->row) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "rows of %lu bytes cannot lie %lu bytes apart",
                            (unsigned long)tile->row, (unsigned long)stride);
    }
    if (tile->row > length || tile->rows - 1 > (length - tile->row) / tile->stride) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "%lu bytes are too few for a tile of %d x %d pixels",
                            (unsigned long)length, width, height);
    }
    tile->bytes = tile->row * tile->rows;
    return GLASSRT_OK;
}

static void copy_rows(const struct tile *tile, char *to) {
    if (tile->stride == tile->row) {
        memcpy(to, tile->pixels, tile->bytes);
        return;
    }
    for (size_t row = 0; row < tile->rows; row++) {
        memcpy(to + row * tile->row, tile->pixels + row * tile->stride, tile->row);
    }
}

/* Put a tile's bytes where its request takes them from. *packed is the caller's to free. */
static glassrt_status place_tile(glassrt_session *session, const struct tile *tile, glassrt_request *request,
                                 char **packed, glassrt_fault *fault) {
    size_t end = strlen(request->target);
    if (session->memory && tile->bytes <= session->memory_bytes) {
        copy_rows(tile, session->memory);
        snprintf(request->target + end, sizeof request->target - end, "&offset=0&length=%llu",
                 (unsigned long long)tile->bytes);
        return GLASSRT_OK;
    }
    request->body = tile->pixels;
    request->length = tile->bytes;
    if (tile->stride != tile->row && tile->rows > 1) {
        *packed = malloc(tile->bytes);
        if (!*packed) {
            return glassrt_fail(fault, GLASSRT_NO_MEMORY, "no memory for a tile of %lu bytes",
                                (unsigned long)tile->bytes);
        }
        copy_rows(tile, *packed);
        request->body = *packed;
    }
    return GLASSRT_OK;
}

glassrt_status glassrt_push(glassrt_session *session, int level, int64_t x, int64_t y, int width, int height,
                            size_t stride, glassrt_format format, const void *pixels, size_t length, int wait_ms) {
    glassrt_fault fault = {GLASSRT_OK, ""};
    glassrt_request request;
    struct tile tile = {NULL, 0, 0, 0, 0};
    char *packed = NULL;
    int64_t start = glassrt_now(), until;
    if (!session) {
        return GLASSRT_MISUSE;
    }
    until = start + wait_ms + session->client->timeout_ms;
    if (wait_ms < 0 || wait_ms > MOST_WAIT_MS) {
        glassrt_fail(&fault, GLASSRT_MISUSE, "to wait for room takes 0 to %d ms", MOST_WAIT_MS);
    } else if (read_tile(&tile, width, height, stride, format, pixels, length, &fault) == GLASSRT_OK &&
               glassrt_gate_enter(&session->pushing, until, &fault) == GLASSRT_OK) {
        int64_t left = start + wait_ms - glassrt_now();
        glassrt_request_make(&request, "PUT", session,
                             "/tiles?level=%d&x=%lld&y=%lld&width=%d&height=%d&format=%s&wait_ms=%d", level,
                             (long long)x, (long long)y, width, height, formats[format].name, left > 0 ? (int)left : 0);
        request.type = formats[format].type;
        if (place_tile(session, &tile, &request, &packed, &fault) == GLASSRT_OK) {
            glassrt_ask_session(session, &request, until, NULL, &fault);
        }
        glassrt_gate_leave(&session->pushing);
        free(packed);
    }
    return glassrt_tell(session->client, &fault);
}
