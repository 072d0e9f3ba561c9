/* What comes from the server: events, asked for as many at once as it has and handed out one by one. */
#include "glassrt_session.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST_POLL_MS = 10000 };

static const char *const last_kinds[] = {"finished", "failed", "cancelled"};

/* Ask for the events after the last one that was taken; there may be none within wait_ms. */
static glassrt_status receive_events(glassrt_session *session, int64_t wait_ms, int64_t until, glassrt_fault *fault) {
    glassrt_request request;
    glassrt_span events;
    free(session->received.body);
    session->received.body = NULL;
    session->waiting.from = session->waiting.to = NULL;
    glassrt_request_make(&request, "GET", session, "/events?after=%lld&wait_ms=%lld", (long long)session->last_event,
                         (long long)wait_ms);
    if (glassrt_exchange(&session->events, &request, until, &session->received, fault) != GLASSRT_OK ||
        glassrt_judge(&session->received, 1, fault) != GLASSRT_OK) {
        return fault->status;
    }
    if (!glassrt_json_find(glassrt_json_whole(session->received.body, session->received.length), "events", &events) ||
        !glassrt_json_open(events, &session->waiting)) {
        return glassrt_fail(fault, GLASSRT_LOST, "the server's answer holds no events");
    }
    return GLASSRT_OK;
}

/* Copy an event out of what was received. */
static glassrt_status copy_event(glassrt_session *session, glassrt_span element, glassrt_event *event,
                                 glassrt_fault *fault) {
    glassrt_span number, kind, data;
    if (!glassrt_json_find(element, "number", &number) || !glassrt_json_find(element, "event", &kind) ||
        !glassrt_json_find(element, "data", &data) || glassrt_json_number(number) <= session->last_event ||
        glassrt_json_text(kind, event->kind, sizeof event->kind) < 1) {
        session->waiting.from = session->waiting.to;
        return glassrt_fail(fault, GLASSRT_LOST, "the server's answer holds an event without number, kind or data");
    }
    event->length = (size_t)(data.to - data.from);
    event->data = malloc(event->length + 1);
    if (!event->data) {
        return glassrt_fail(fault, GLASSRT_NO_MEMORY, "no memory for an event of %lu bytes",
                            (unsigned long)event->length);
    }
    memcpy(event->data, data.from, event->length);
    event->data[event->length] = '\0';
    event->number = session->last_event = glassrt_json_number(number);
    for (size_t each = 0; each < sizeof last_kinds / sizeof *last_kinds; each++) {
        if (!strcmp(event->kind, last_kinds[each])) {
            strcpy(session->over, event->kind);
        }
    }
    return GLASSRT_OK;
}

/* Take an event that waits here, or ask for more until `wanted` has passed. */
static glassrt_status take_event(glassrt_session *session, int64_t wanted, int64_t until, glassrt_event *event,
                                 glassrt_fault *fault) {
    for (;;) {
        glassrt_span rest = session->waiting, element;
        int64_t left = wanted - glassrt_now();
        if (rest.from != rest.to && glassrt_json_next(&rest, &element)) {
            if (copy_event(session, element, event, fault) == GLASSRT_OK) {
                session->waiting = rest;
            }
            return fault->status;
        }
        if (session->over[0]) {
            return glassrt_fail(fault, GLASSRT_ENDED, "the session has %s; there are no more events",
                                strcmp(session->over, "cancelled") ? session->over : "been cancelled");
        }
        left = left < 0 ? 0 : left > LONGEST_POLL_MS ? LONGEST_POLL_MS : left;
        if (receive_events(session, left, until, fault) != GLASSRT_OK) {
            return fault->status;
        }
        rest = session->waiting;
        if (!glassrt_json_next(&rest, &element) && glassrt_now() >= wanted) {
            return fault->status = GLASSRT_NONE;
        }
    }
}

glassrt_status glassrt_next_event(glassrt_session *session, int timeout_ms, glassrt_event *event) {
    glassrt_fault fault = {GLASSRT_OK, ""};
    int64_t wanted = glassrt_now() + timeout_ms, until;
    if (event) {
        memset(event, 0, sizeof *event);
    }
    if (!session) {
        return GLASSRT_MISUSE;
    }
    until = wanted + session->client->timeout_ms;
    if (!event || timeout_ms < 0 || timeout_ms > GLASSRT_LONGEST_WAIT_MS) {
        glassrt_fail(&fault, GLASSRT_MISUSE, "an event needs a place, and 0 to %d ms to come", GLASSRT_LONGEST_WAIT_MS);
    } else if (glassrt_gate_enter(&session->taking, until, &fault) == GLASSRT_OK) {
        glassrt_keep_lease(session);
        take_event(session, wanted, until, event, &fault);
        glassrt_gate_leave(&session->taking);
    }
    return glassrt_tell(session->client, &fault);
}
