/* HTTP/1.1 over kept connections, as much of it as the server speaks. Not for hosts. */
#ifndef GLASSRT_HTTP_H
#define GLASSRT_HTTP_H

#include "glassrt_system.h"

/* One connection to a server; opened when it is used, and opened once more where the server closed it meanwhile. */
typedef struct glassrt_connection {
    const glassrt_address *address;
    const char *token; /* NULL where the server asks for none */
    glassrt_socket socket;
    int kept;        /* answers that came on this socket */
    size_t from, to; /* what was received and not yet read */
    char in[16384];
} glassrt_connection;

typedef struct glassrt_request {
    const char *method;
    char target[512];
    const char *type; /* of the body; NULL without one */
    const void *body;
    size_t length;
} glassrt_request;

typedef struct glassrt_answer {
    int code;
    char *body; /* ends with a NUL; never NULL where an answer came */
    size_t length;
    int again; /* whether the server says when to ask again */
    /* How the body comes: */
    int chunked, closes;
    int64_t told; /* Content-Length, -1 where the server did not say */
} glassrt_answer;

void glassrt_connection_make(glassrt_connection *connection, const glassrt_address *address, const char *token);
void glassrt_connection_close(glassrt_connection *connection);

/* Send a request and receive its answer, whatever its code. After a failure the connection is closed and `answer`
 * empty; after success the caller frees answer->body. */
glassrt_status glassrt_exchange(glassrt_connection *connection, const glassrt_request *request, int64_t until,
                                glassrt_answer *answer, glassrt_fault *fault);

/* The same where the answer never ends: its head alone is read, unless its code is not 200. */
glassrt_status glassrt_listen(glassrt_connection *connection, const glassrt_request *request, int64_t until,
                              glassrt_answer *answer, glassrt_fault *fault);

/* Throw away what came on a connection that is listened to. */
void glassrt_drain(glassrt_connection *connection);

/* glassrt_answer.c: what an answer holds. */
glassrt_status glassrt_read_head(glassrt_connection *connection, int64_t until, glassrt_answer *answer,
                                 glassrt_fault *fault);
glassrt_status glassrt_read_body(glassrt_connection *connection, int64_t until, glassrt_answer *answer,
                                 glassrt_fault *fault);

#endif
