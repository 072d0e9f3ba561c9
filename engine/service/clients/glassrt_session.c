/* Sessions: beginning, finishing, cancelling, and the lease by which the server sees that their host lives. */
#include "glassrt_session.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void glassrt_request_make(glassrt_request *request, const char *method, const glassrt_session *session,
                          const char *rest, ...) {
    va_list values;
    int length;
    memset(request, 0, sizeof *request);
    request->method = method;
    length = snprintf(request->target, sizeof request->target, "/slides/%s", session->id);
    va_start(values, rest);
    vsnprintf(request->target + length, sizeof request->target - (size_t)length, rest, values);
    va_end(values);
}

void glassrt_keep_lease(glassrt_session *session) {
    glassrt_fault unheard;
    if (glassrt_gate_enter(&session->leasing, glassrt_now(), &unheard) == GLASSRT_OK) {
        glassrt_drain(&session->lease);
        glassrt_gate_leave(&session->leasing);
    }
}

glassrt_status glassrt_ask_session(glassrt_session *session, const glassrt_request *request, int64_t until,
                                   glassrt_answer *answer, glassrt_fault *fault) {
    glassrt_answer got;
    glassrt_keep_lease(session);
    if (answer) {
        memset(answer, 0, sizeof *answer);
    }
    fault->status = glassrt_exchange(&session->tiles, request, until, &got, fault);
    if (fault->status == GLASSRT_OK) {
        fault->status = glassrt_judge(&got, 1, fault);
    }
    if (fault->status == GLASSRT_OK && answer) {
        *answer = got;
    } else {
        free(got.body);
    }
    return fault->status;
}

/* Free a session of which the server knows nothing, or nothing any more. */
static void free_session(glassrt_session *session) {
    glassrt_connection_close(&session->tiles);
    glassrt_connection_close(&session->events);
    glassrt_connection_close(&session->lease);
    glassrt_gate_remove(&session->pushing);
    glassrt_gate_remove(&session->taking);
    glassrt_gate_remove(&session->leasing);
    if (session->memory) {
        glassrt_memory_unmap(session->memory, session->memory_bytes);
    }
    free(session->received.body);
    free(session);
}

static glassrt_session *make_session(glassrt_client *client) {
    glassrt_session *session = calloc(1, sizeof *session);
    glassrt_gate *gates[3];
    int made = 0;
    if (!session) {
        return NULL;
    }
    gates[0] = &session->pushing;
    gates[1] = &session->taking;
    gates[2] = &session->leasing;
    while (made < 3 && glassrt_gate_make(gates[made])) {
        made++;
    }
    if (made < 3) {
        while (made--) {
            glassrt_gate_remove(gates[made]);
        }
        free(session);
        return NULL;
    }
    session->client = client;
    glassrt_connection_make(&session->tiles, &client->address, client->token);
    glassrt_connection_make(&session->events, &client->address, client->token);
    glassrt_connection_make(&session->lease, &client->address, client->token);
    return session;
}

static glassrt_status delete_session(glassrt_session *session, int64_t until, glassrt_fault *fault) {
    glassrt_request request;
    glassrt_answer answer;
    glassrt_request_make(&request, "DELETE", session, "%s", "");
    if (glassrt_ask_client(session->client, &request, until, &answer, fault) == GLASSRT_OK) {
        fault->status = glassrt_judge(&answer, 1, fault);
        free(answer.body);
    }
    return fault->status;
}

/* The body of POST /slides with "lease": true, freed by the caller; as it is where it says something of a lease. */
static char *add_lease(const char *json, int *leased, glassrt_fault *fault) {
    static const char lease[] = "\"lease\":true";
    glassrt_span whole = glassrt_json_whole(json, strlen(json)), value, inside;
    int told, empty;
    char *body;
    if (!glassrt_json_is_object(whole)) {
        glassrt_fail(fault, GLASSRT_MISUSE, "what a session is begun with is no JSON object");
        return NULL;
    }
    told = glassrt_json_find(whole, "lease", &value);
    inside = glassrt_json_whole(whole.from + 1, (size_t)(whole.to - whole.from) - 2);
    empty = inside.from == inside.to;
    *leased = !told || glassrt_json_is(value, "true");
    body = malloc((size_t)(whole.to - whole.from) + sizeof lease + 2);
    if (!body) {
        glassrt_fail(fault, GLASSRT_NO_MEMORY, "no memory for a session");
        return NULL;
    }
    sprintf(body, "{%s%s", told ? "" : lease, told || empty ? "" : ",");
    strncat(body, whole.from + 1, (size_t)(whole.to - whole.from) - 1);
    return body;
}

/* Take the session's name out of the server's answer; it comes to stand in the addresses of its requests. */
static glassrt_status take_id(glassrt_session *session, const glassrt_answer *answer, glassrt_fault *fault) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
    glassrt_span id;
    if (!glassrt_json_find(glassrt_json_whole(answer->body, answer->length), "id", &id) ||
        glassrt_json_text(id, session->id, sizeof session->id) < 1 ||
        strspn(session->id, allowed) != strlen(session->id) || session->id[0] == '.') {
        return glassrt_fail(fault, GLASSRT_LOST, "the server's answer names no session");
    }
    return GLASSRT_OK;
}

static glassrt_status take_lease(glassrt_session *session, int64_t until, glassrt_fault *fault) {
    glassrt_request request;
    glassrt_answer answer;
    glassrt_fault unheard = {GLASSRT_OK, ""};
    glassrt_request_make(&request, "GET", session, "/lease");
    if (glassrt_listen(&session->lease, &request, until, &answer, fault) == GLASSRT_OK) {
        fault->status = glassrt_judge(&answer, 1, fault);
        free(answer.body);
    }
    if (fault->status != GLASSRT_OK) {
        delete_session(session, until, &unheard);
    }
    return fault->status;
}

static glassrt_status start_session(glassrt_session *session, const char *json, glassrt_fault *fault) {
    int64_t until = glassrt_now() + session->client->timeout_ms;
    glassrt_request request = {"POST", "/slides", "application/json", NULL, 0};
    glassrt_answer answer;
    int leased = 0;
    char *body = add_lease(json, &leased, fault);
    if (!body) {
        return fault->status;
    }
    request.body = body;
    request.length = strlen(body);
    if (glassrt_ask_client(session->client, &request, until, &answer, fault) == GLASSRT_OK &&
        glassrt_judge(&answer, 0, fault) == GLASSRT_OK) {
        take_id(session, &answer, fault);
    }
    free(body);
    free(answer.body);
    if (fault->status == GLASSRT_OK && leased) {
        take_lease(session, until, fault);
    }
    return fault->status;
}

glassrt_status glassrt_begin(glassrt_client *client, const char *json, glassrt_session **session) {
    glassrt_fault fault = {GLASSRT_OK, ""};
    glassrt_session *made;
    if (session) {
        *session = NULL;
    }
    if (!client) {
        return GLASSRT_MISUSE;
    }
    if (!client->address.length) {
        glassrt_fail(&fault, GLASSRT_MISUSE, "the client was given no address to connect to");
        return glassrt_tell(client, &fault);
    }
    if (!json || !session) {
        glassrt_fail(&fault, GLASSRT_MISUSE, "a session needs JSON to begin with and a place for its handle");
        return glassrt_tell(client, &fault);
    }
    made = make_session(client);
    if (!made) {
        glassrt_fail(&fault, GLASSRT_NO_MEMORY, "no memory for a session");
    } else if (start_session(made, json, &fault) == GLASSRT_OK &&
               glassrt_gate_enter(&client->state, glassrt_now() + client->timeout_ms, &fault) == GLASSRT_OK) {
        made->next = client->sessions;
        client->sessions = made;
        glassrt_gate_leave(&client->state);
        *session = made;
    }
    if (made && fault.status != GLASSRT_OK) {
        free_session(made);
    }
    return glassrt_tell(client, &fault);
}

void glassrt_end(glassrt_session *session) {
    glassrt_fault unheard = {GLASSRT_OK, ""};
    glassrt_client *client;
    if (!session) {
        return;
    }
    client = session->client;
    delete_session(session, glassrt_now() + client->timeout_ms, &unheard);
    while (glassrt_gate_enter(&client->state, glassrt_now() + client->timeout_ms, &unheard) != GLASSRT_OK) {
    } /* nobody keeps it */
    for (glassrt_session **each = &client->sessions; *each; each = &(*each)->next) {
        if (*each == session) {
            *each = session->next;
            break;
        }
    }
    glassrt_gate_leave(&client->state);
    free_session(session);
}

glassrt_status glassrt_cancel(glassrt_session *session) {
    glassrt_fault fault = {GLASSRT_OK, ""};
    if (!session) {
        return GLASSRT_MISUSE;
    }
    delete_session(session, glassrt_now() + session->client->timeout_ms, &fault);
    return glassrt_tell(session->client, &fault);
}

glassrt_status glassrt_finish(glassrt_session *session, int timeout_ms, char **result) {
    glassrt_fault fault = {GLASSRT_OK, ""};
    glassrt_request request;
    glassrt_answer answer;
    int64_t until = glassrt_now() + timeout_ms;
    if (result) {
        *result = NULL;
    }
    if (!session) {
        return GLASSRT_MISUSE;
    }
    if (timeout_ms < 1 || timeout_ms > GLASSRT_LONGEST_WAIT_MS) {
        glassrt_fail(&fault, GLASSRT_MISUSE, "a time limit is 1 to %d ms", GLASSRT_LONGEST_WAIT_MS);
    } else if (glassrt_gate_enter(&session->pushing, until, &fault) == GLASSRT_OK) {
        glassrt_request_make(&request, "POST", session, "/finish");
        if (glassrt_ask_session(session, &request, until, &answer, &fault) == GLASSRT_OK) {
            if (result) {
                *result = answer.body;
            } else {
                free(answer.body);
            }
        }
        glassrt_gate_leave(&session->pushing);
    }
    return glassrt_tell(session->client, &fault);
}
