/* Requests, and connections that are kept from one to the next. */
#include "glassrt_http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_HEAD = 2048 };

void glassrt_connection_make(glassrt_connection *connection, const glassrt_address *address, const char *token) {
    connection->address = address;
    connection->token = token;
    connection->socket = GLASSRT_NO_SOCKET;
    connection->kept = 0;
    connection->from = connection->to = 0;
}

void glassrt_connection_close(glassrt_connection *connection) {
    glassrt_socket_close(&connection->socket);
    connection->kept = 0;
    connection->from = connection->to = 0;
}

/* Send all bytes, or as many as the server takes before it answers: then it has refused the rest. */
static glassrt_status send_bytes(glassrt_connection *connection, const char *bytes, size_t length, int64_t until,
                                 int *answered, glassrt_fault *fault) {
    while (length && !*answered) {
        int ready = glassrt_socket_wait(connection->socket, GLASSRT_READ | GLASSRT_WRITE, until);
        ptrdiff_t sent = 0;
        if (!ready) {
            return glassrt_fail(fault, GLASSRT_TIMEOUT, "%s took no more bytes within the time limit",
                                connection->address->text);
        }
        if (ready & GLASSRT_READ) { /* an answer, or the end */
            *answered = 1;
        } else {
            sent = glassrt_socket_send(connection->socket, bytes, length);
            *answered = sent < 0;
        }
        if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        }
    }
    return GLASSRT_OK;
}

static glassrt_status send_request(glassrt_connection *connection, const glassrt_request *request, int64_t until,
                                   int *answered, glassrt_fault *fault) {
    char head[LONGEST_HEAD], sizes[80] = "", type[64] = "";
    const char *host = strncmp(connection->address->text, "unix:", 5) ? connection->address->text : "localhost";
    const char *token = connection->token;
    int length;
    if (strcmp(request->method, "GET") && strcmp(request->method, "DELETE")) {
        snprintf(sizes, sizeof sizes, "Content-Length: %llu\r\n", (unsigned long long)request->length);
    }
    if (request->type) {
        snprintf(type, sizeof type, "Content-Type: %s\r\n", request->type);
    }
    length = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\n%s%s%s%s%s\r\n",
                      request->method, request->target, host, type, sizes, token ? "Authorization: Bearer " : "",
                      token ? token : "", token ? "\r\n" : "");
    if (length < 0 || length >= (int)sizeof head) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "a request with more than %d bytes of headers", LONGEST_HEAD);
    }
    fault->status = send_bytes(connection, head, (size_t)length, until, answered, fault);
    if (fault->status == GLASSRT_OK && request->length) {
        return send_bytes(connection, request->body, request->length, until, answered, fault);
    }
    return fault->status;
}

/* Have an open socket: the kept one, unless the server closed it or sent what nobody asked for. */
static glassrt_status have_socket(glassrt_connection *connection, int64_t until, glassrt_fault *fault) {
    if (connection->socket != GLASSRT_NO_SOCKET &&
        (connection->from != connection->to || glassrt_socket_wait(connection->socket, GLASSRT_READ, 0))) {
        glassrt_connection_close(connection);
    }
    connection->from = connection->to = 0;
    if (connection->socket != GLASSRT_NO_SOCKET) {
        return GLASSRT_OK;
    }
    return glassrt_socket_open(connection->address, until, &connection->socket, fault);
}

/* Whether a request may be sent again of which nobody knows whether the server has acted on it. */
static int is_repeatable(const glassrt_request *request) {
    return strcmp(request->method, "POST") != 0;
}

/* Send a request and read the head of its answer; once more where a kept connection ended before that came. */
static glassrt_status ask(glassrt_connection *connection, const glassrt_request *request, int64_t until,
                          glassrt_answer *answer, glassrt_fault *fault) {
    for (;;) {
        int answered = 0, kept;
        if (have_socket(connection, until, fault) != GLASSRT_OK) {
            return fault->status;
        }
        kept = connection->kept;
        if (send_request(connection, request, until, &answered, fault) == GLASSRT_OK &&
            glassrt_read_head(connection, until, answer, fault) == GLASSRT_OK) {
            connection->kept++;
            answer->closes |= answered; /* the rest of the request was not sent */
            return GLASSRT_OK;
        }
        if (fault->status != GLASSRT_LOST || !kept || connection->to || !is_repeatable(request)) {
            glassrt_connection_close(connection);
            return fault->status;
        }
        glassrt_connection_close(connection);
    }
}

glassrt_status glassrt_exchange(glassrt_connection *connection, const glassrt_request *request, int64_t until,
                                glassrt_answer *answer, glassrt_fault *fault) {
    memset(answer, 0, sizeof *answer);
    if (ask(connection, request, until, answer, fault) != GLASSRT_OK) {
        return fault->status;
    }
    if (glassrt_read_body(connection, until, answer, fault) != GLASSRT_OK) {
        glassrt_connection_close(connection);
        memset(answer, 0, sizeof *answer);
        return fault->status;
    }
    if (answer->closes) {
        glassrt_connection_close(connection);
    }
    return GLASSRT_OK;
}

glassrt_status glassrt_listen(glassrt_connection *connection, const glassrt_request *request, int64_t until,
                              glassrt_answer *answer, glassrt_fault *fault) {
    memset(answer, 0, sizeof *answer);
    if (ask(connection, request, until, answer, fault) != GLASSRT_OK) {
        return fault->status;
    }
    if (answer->code != 200) {
        fault->status = glassrt_read_body(connection, until, answer, fault);
        glassrt_connection_close(connection);
    }
    return answer->code == 200 ? GLASSRT_OK : fault->status;
}

void glassrt_drain(glassrt_connection *connection) {
    while (connection->socket != GLASSRT_NO_SOCKET) {
        ptrdiff_t got = glassrt_socket_receive(connection->socket, connection->in, sizeof connection->in);
        if (got < 0) {
            glassrt_connection_close(connection);
        }
        if (got <= 0 || (size_t)got < sizeof connection->in) {
            return;
        }
    }
}
