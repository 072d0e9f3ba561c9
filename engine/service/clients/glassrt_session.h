/* What the calls share: clients, sessions, and how an answer becomes a status. Not for hosts. */
#ifndef GLASSRT_SESSION_H
#define GLASSRT_SESSION_H

#include "glassrt_http.h"
#include "glassrt_json.h"

enum { GLASSRT_LONGEST_WAIT_MS = 86400000 };

struct glassrt_client {
    glassrt_address address;
    char *token;
    int timeout_ms, started; /* started: whether the system gave sockets */
    glassrt_gate state;      /* for the list of sessions and the text; nobody keeps it long */
    glassrt_session *sessions;
    char error[512];
    glassrt_gate calling; /* for the connection */
    glassrt_connection connection;
};

struct glassrt_session {
    glassrt_client *client;
    glassrt_session *next;
    char id[129];
    glassrt_gate pushing; /* for the connection that tiles take, and the shared memory */
    glassrt_connection tiles;
    char *memory; /* NULL where there is none */
    size_t memory_bytes;
    glassrt_gate taking; /* for the connection that events take, and those that wait here */
    glassrt_connection events;
    glassrt_answer received;
    glassrt_span waiting; /* events in `received` that were not taken yet */
    int64_t last_event;
    char over[24]; /* the kind of the event that ended the session; "" before */
    glassrt_gate leasing; /* for the connection on which the server sees that we live */
    glassrt_connection lease;
};

/* Hand a fault to the client; returns its status. */
glassrt_status glassrt_tell(glassrt_client *client, const glassrt_fault *fault);

/* Turn an answer's code and line of error into a status. ending: whether 404 and 409 say that a session has ended. */
glassrt_status glassrt_judge(const glassrt_answer *answer, int ending, glassrt_fault *fault);

/* Exchange a request on the client's own connection; answer->body is the caller's to free after success. */
glassrt_status glassrt_ask_client(glassrt_client *client, const glassrt_request *request, int64_t until,
                                  glassrt_answer *answer, glassrt_fault *fault);

/* Make a request without a body to /slides/ID and `rest`, which is formatted as printf does. */
void glassrt_request_make(glassrt_request *request, const char *method, const glassrt_session *session,
                          const char *rest, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 4, 5)))
#endif
    ;

/* Throw away what came on the lease, unless another thread does. */
void glassrt_keep_lease(glassrt_session *session);

/* Exchange a request of a session on the connection that tiles take; the gate `pushing` is the caller's. Where
 * `answer` is not NULL, its body is the caller's to free after success. */
glassrt_status glassrt_ask_session(glassrt_session *session, const glassrt_request *request, int64_t until,
                                   glassrt_answer *answer, glassrt_fault *fault);

#endif
