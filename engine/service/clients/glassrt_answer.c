/* Answers: the head, and a body of a told length, in chunks, or up to the end of the connection. */
#include "glassrt_http.h"

#include <stdlib.h>
#include <string.h>

#define LONGEST_BODY ((int64_t)256 << 20) /* bytes; the events of the largest answer have a few */
enum { FIRST_ROOM = 4096, MOST_HEADS = 8 };

static glassrt_status is_garbage(glassrt_fault *fault, const char *what) {
    return glassrt_fail(fault, GLASSRT_LOST, "the server's answer %s", what);
}

/* Receive some bytes behind those that wait in connection->in, which must have room. */
static glassrt_status receive(glassrt_connection *connection, int64_t until, glassrt_fault *fault) {
    for (;;) {
        ptrdiff_t got;
        if (!glassrt_socket_wait(connection->socket, GLASSRT_READ, until)) {
            return glassrt_fail(fault, GLASSRT_TIMEOUT, "%s did not answer within the time limit",
                                connection->address->text);
        }
        got = glassrt_socket_receive(connection->socket, connection->in + connection->to,
                                     sizeof connection->in - connection->to);
        if (got < 0) {
            return glassrt_fail(fault, GLASSRT_LOST, "%s closed the connection before its answer was complete",
                                connection->address->text);
        }
        if (got > 0) {
            connection->to += (size_t)got;
            return GLASSRT_OK;
        }
    }
}

/* Read a line into the buffer, without its end; *line stays valid until the next call that receives. */
static glassrt_status read_line(glassrt_connection *connection, int64_t until, char **line, glassrt_fault *fault) {
    size_t looked = connection->from;
    for (;;) {
        char *end = memchr(connection->in + looked, '\n', connection->to - looked);
        if (end) {
            *line = connection->in + connection->from;
            connection->from = (size_t)(end - connection->in) + 1;
            if (end > *line && end[-1] == '\r') {
                end--;
            }
            *end = '\0';
            return strlen(*line) == (size_t)(end - *line) ? GLASSRT_OK : is_garbage(fault, "is no HTTP");
        }
        looked = connection->to;
        if (connection->to == sizeof connection->in) {
            if (!connection->from) {
                return is_garbage(fault, "has headers that are too long");
            }
            memmove(connection->in, connection->in + connection->from, connection->to - connection->from);
            connection->to -= connection->from;
            connection->from = 0;
            looked = connection->to;
        }
        if (receive(connection, until, fault) != GLASSRT_OK) {
            return fault->status;
        }
    }
}

/* Whether two texts are equal but for the case of letters. */
static int is_like(const char *one, const char *other) {
    for (; *one && *other; one++, other++) {
        char a = *one >= 'A' && *one <= 'Z' ? (char)(*one + 32) : *one;
        char b = *other >= 'A' && *other <= 'Z' ? (char)(*other + 32) : *other;
        if (a != b) {
            return 0;
        }
    }
    return *one == *other;
}

/* A number of digits alone, up to LONGEST_BODY; -1 for anything else. */
static int64_t read_number(const char *text, int base) {
    int64_t number = 0;
    if (!*text) {
        return -1;
    }
    for (; *text; text++) {
        int digit = *text >= '0' && *text <= '9'   ? *text - '0'
                    : *text >= 'a' && *text <= 'f' ? *text - 'a' + 10
                    : *text >= 'A' && *text <= 'F' ? *text - 'A' + 10
                                                   : base;
        if (digit >= base || number > LONGEST_BODY) {
            return -1;
        }
        number = number * base + digit;
    }
    return number <= LONGEST_BODY ? number : -1;
}

static glassrt_status take_header(char *line, glassrt_answer *answer, glassrt_fault *fault) {
    char *value = strchr(line, ':'), *end;
    if (!value) {
        return is_garbage(fault, "has a header without a colon");
    }
    *value++ = '\0';
    value += strspn(value, " \t");
    for (end = value + strlen(value); end > value && (end[-1] == ' ' || end[-1] == '\t');) {
        *--end = '\0';
    }
    if (is_like(line, "Content-Length")) {
        int64_t told = read_number(value, 10);
        if (told < 0 || (answer->told >= 0 && answer->told != told)) {
            return is_garbage(fault, "has a length that is none, or too long");
        }
        answer->told = told;
    } else if (is_like(line, "Transfer-Encoding")) {
        if (!is_like(value, "chunked")) {
            return is_garbage(fault, "is encoded in a way that nobody asked for");
        }
        answer->chunked = 1;
    } else if (is_like(line, "Retry-After")) {
        answer->again = 1;
    } else if (is_like(line, "Connection") && is_like(value, "close")) {
        answer->closes = 1;
    }
    return GLASSRT_OK;
}

static glassrt_status read_one_head(glassrt_connection *connection, int64_t until, glassrt_answer *answer,
                                    glassrt_fault *fault) {
    char *line;
    size_t read = 0;
    memset(answer, 0, sizeof *answer);
    answer->told = -1;
    if (read_line(connection, until, &line, fault) != GLASSRT_OK) {
        return fault->status;
    }
    if (strlen(line) < 12 || strncmp(line, "HTTP/1.", 7) || line[8] != ' ' || strspn(line + 9, "0123456789") != 3 ||
        line[9] < '1' || line[9] > '5' || (line[12] && line[12] != ' ')) {
        return is_garbage(fault, "is no HTTP");
    }
    answer->code = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
    answer->closes = line[7] == '0';
    for (;;) {
        if (read_line(connection, until, &line, fault) != GLASSRT_OK) {
            return fault->status;
        }
        if (!*line) {
            return GLASSRT_OK;
        }
        read += strlen(line);
        if (read > sizeof connection->in) {
            return is_garbage(fault, "has headers that are too long");
        }
        if (take_header(line, answer, fault) != GLASSRT_OK) {
            return fault->status;
        }
    }
}

glassrt_status glassrt_read_head(glassrt_connection *connection, int64_t until, glassrt_answer *answer,
                                 glassrt_fault *fault) {
    for (int heads = 0; heads < MOST_HEADS; heads++) {
        if (read_one_head(connection, until, answer, fault) != GLASSRT_OK || answer->code >= 200) {
            return fault->status; /* 1xx only says that an answer is coming */
        }
    }
    return is_garbage(fault, "never comes");
}

/* Move up to `most` bytes of what the server sends to the end of the body, and count down. */
static glassrt_status read_some(glassrt_connection *connection, int64_t until, int64_t *most, size_t *room,
                                glassrt_answer *answer, glassrt_fault *fault) {
    size_t here;
    if (connection->from == connection->to) {
        connection->from = connection->to = 0;
        if (receive(connection, until, fault) != GLASSRT_OK) {
            return fault->status;
        }
    }
    here = connection->to - connection->from;
    here = (int64_t)here > *most ? (size_t)*most : here;
    if ((int64_t)(answer->length + here) > LONGEST_BODY) {
        return is_garbage(fault, "is too long");
    }
    if (answer->length + here >= *room) {
        size_t larger = (answer->length + here) * 2 + FIRST_ROOM;
        char *moved = realloc(answer->body, larger);
        if (!moved) {
            return glassrt_fail(fault, GLASSRT_NO_MEMORY, "no memory for an answer of %lu bytes",
                                (unsigned long)larger);
        }
        answer->body = moved;
        *room = larger;
    }
    memcpy(answer->body + answer->length, connection->in + connection->from, here);
    answer->length += here;
    answer->body[answer->length] = '\0';
    connection->from += here;
    *most -= (int64_t)here;
    return GLASSRT_OK;
}

static glassrt_status read_chunks(glassrt_connection *connection, int64_t until, size_t *room, glassrt_answer *answer,
                                  glassrt_fault *fault) {
    for (;;) {
        char *line;
        int64_t left;
        if (read_line(connection, until, &line, fault) != GLASSRT_OK) {
            return fault->status;
        }
        line[strcspn(line, "; \t")] = '\0';
        left = read_number(line, 16);
        if (left < 0) {
            return is_garbage(fault, "has a chunk without a length");
        }
        if (!left) {
            break;
        }
        while (left) {
            if (read_some(connection, until, &left, room, answer, fault) != GLASSRT_OK) {
                return fault->status;
            }
        }
        if (read_line(connection, until, &line, fault) != GLASSRT_OK) {
            return fault->status;
        }
        if (*line) {
            return is_garbage(fault, "has a chunk of another length than it says");
        }
    }
    for (size_t read = 0; read < sizeof connection->in;) { /* trailers, up to an empty line */
        char *line;
        if (read_line(connection, until, &line, fault) != GLASSRT_OK || !*line) {
            return fault->status;
        }
        read += strlen(line);
    }
    return is_garbage(fault, "has headers that are too long");
}

static glassrt_status read_to_end(glassrt_connection *connection, int64_t until, size_t *room, glassrt_answer *answer,
                                  glassrt_fault *fault) {
    int64_t most = LONGEST_BODY + 1;
    answer->closes = 1;
    while (read_some(connection, until, &most, room, answer, fault) == GLASSRT_OK) {
    }
    if (fault->status == GLASSRT_LOST && most && connection->from == connection->to) {
        fault->status = GLASSRT_OK; /* the connection ended, as such an answer does */
    }
    return fault->status;
}

glassrt_status glassrt_read_body(glassrt_connection *connection, int64_t until, glassrt_answer *answer,
                                 glassrt_fault *fault) {
    size_t room = FIRST_ROOM;
    int64_t left = answer->told;
    answer->body = malloc(room);
    if (!answer->body) {
        return glassrt_fail(fault, GLASSRT_NO_MEMORY, "no memory for an answer");
    }
    answer->body[0] = '\0';
    fault->status = GLASSRT_OK;
    if (answer->code == 204 || answer->code == 304) {
        left = 0;
    } else if (answer->chunked) {
        left = 0;
        read_chunks(connection, until, &room, answer, fault);
    } else if (left < 0) {
        left = 0;
        read_to_end(connection, until, &room, answer, fault);
    }
    while (left && fault->status == GLASSRT_OK) {
        read_some(connection, until, &left, &room, answer, fault);
    }
    if (fault->status != GLASSRT_OK) {
        free(answer->body);
        answer->body = NULL;
        answer->length = 0;
    }
    return fault->status;
}
