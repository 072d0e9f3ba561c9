/* Clients, and the beginning and end of sessions. */
#include "glassrt_session.h"

#include <stdlib.h>
#include <string.h>

int glassrt_abi_version(void) {
    return GLASSRT_ABI_VERSION;
}

void glassrt_free(void *memory) {
    free(memory);
}

glassrt_status glassrt_tell(glassrt_client *client, const glassrt_fault *fault) {
    glassrt_fault unheard;
    if (fault->status != GLASSRT_OK && fault->status != GLASSRT_NONE &&
        glassrt_gate_enter(&client->state, glassrt_now() + client->timeout_ms, &unheard) == GLASSRT_OK) {
        memcpy(client->error, fault->text, sizeof client->error);
        glassrt_gate_leave(&client->state);
    }
    return fault->status;
}

size_t glassrt_error(glassrt_client *client, char *buffer, size_t size) {
    const char *text = "no client";
    glassrt_fault unheard;
    size_t length;
    int entered = client && glassrt_gate_enter(&client->state, glassrt_now() + client->timeout_ms, &unheard) == 0;
    if (client) {
        text = entered ? client->error : "";
    }
    length = strlen(text);
    if (buffer && size) {
        size_t copied = length < size ? length : size - 1;
        memcpy(buffer, text, copied);
        buffer[copied] = '\0';
    }
    if (entered) {
        glassrt_gate_leave(&client->state);
    }
    return length;
}

glassrt_status glassrt_judge(const glassrt_answer *answer, int ending, glassrt_fault *fault) {
    int code = answer->code;
    int busy = code == 429 || (code == 503 && answer->again);
    int ended = ending && (code == 404 || code == 409 || code == 410);
    glassrt_status status = busy ? GLASSRT_BUSY : ended ? GLASSRT_ENDED : code < 400 ? GLASSRT_LOST : GLASSRT_REFUSED;
    glassrt_span line;
    char text[400];
    if (code >= 200 && code < 300) {
        return GLASSRT_OK;
    }
    if (answer->body && glassrt_json_find(glassrt_json_whole(answer->body, answer->length), "error", &line) &&
        glassrt_json_text(line, text, sizeof text) > 0) {
        return glassrt_fail(fault, status, "%s", text);
    }
    return glassrt_fail(fault, status, "the server answered with the code %d", code);
}

glassrt_status glassrt_ask_client(glassrt_client *client, const glassrt_request *request, int64_t until,
                                  glassrt_answer *answer, glassrt_fault *fault) {
    memset(answer, 0, sizeof *answer);
    if (glassrt_gate_enter(&client->calling, until, fault) == GLASSRT_OK) {
        fault->status = glassrt_exchange(&client->connection, request, until, answer, fault);
        glassrt_gate_leave(&client->calling);
    }
    return fault->status;
}

/* Copy a token that can stand in a header. */
static glassrt_status take_token(glassrt_client *client, const char *token, glassrt_fault *fault) {
    if (!token) {
        return GLASSRT_OK;
    }
    if (!*token || strlen(token) > 1024) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "a token has 1 to 1024 characters");
    }
    for (const char *each = token; *each; each++) {
        if (*each <= ' ' || *each > '~') {
            return glassrt_fail(fault, GLASSRT_MISUSE, "a token is of letters, digits and signs, without spaces");
        }
    }
    client->token = malloc(strlen(token) + 1);
    if (!client->token) {
        return glassrt_fail(fault, GLASSRT_NO_MEMORY, "no memory for a client");
    }
    strcpy(client->token, token);
    return GLASSRT_OK;
}

/* Read the arguments, and ask the server whether it is there. */
static glassrt_status reach_server(glassrt_client *client, const char *address, const char *token, int timeout_ms,
                                   glassrt_fault *fault) {
    glassrt_request request = {"GET", "/healthz", NULL, NULL, 0};
    glassrt_answer answer;
    client->timeout_ms = timeout_ms;
    if (timeout_ms < 1 || timeout_ms > GLASSRT_LONGEST_WAIT_MS) {
        client->timeout_ms = 1;
        return glassrt_fail(fault, GLASSRT_MISUSE, "a time limit is 1 to %d ms", GLASSRT_LONGEST_WAIT_MS);
    }
    if (!address) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "no address was given");
    }
    if (glassrt_sockets_start(fault) != GLASSRT_OK) {
        return fault->status;
    }
    client->started = 1;
    if (take_token(client, token, fault) != GLASSRT_OK ||
        glassrt_address_read(address, &client->address, fault) != GLASSRT_OK) {
        return fault->status;
    }
    glassrt_connection_make(&client->connection, &client->address, client->token);
    if (glassrt_ask_client(client, &request, glassrt_now() + timeout_ms, &answer, fault) == GLASSRT_OK) {
        fault->status = glassrt_judge(&answer, 0, fault);
        free(answer.body);
    }
    return fault->status;
}

glassrt_status glassrt_connect(const char *address, const char *token, int timeout_ms, glassrt_client **client) {
    glassrt_fault fault = {GLASSRT_OK, ""};
    glassrt_client *made;
    if (!client) {
        return GLASSRT_MISUSE;
    }
    *client = NULL;
    made = calloc(1, sizeof *made);
    if (!made || !glassrt_gate_make(&made->state)) {
        free(made);
        return GLASSRT_NO_MEMORY;
    }
    if (!glassrt_gate_make(&made->calling)) {
        glassrt_gate_remove(&made->state);
        free(made);
        return GLASSRT_NO_MEMORY;
    }
    glassrt_connection_make(&made->connection, &made->address, NULL);
    reach_server(made, address, token, timeout_ms, &fault);
    *client = made;
    return glassrt_tell(made, &fault);
}

void glassrt_close(glassrt_client *client) {
    if (!client) {
        return;
    }
    while (client->sessions) {
        glassrt_end(client->sessions);
    }
    glassrt_connection_close(&client->connection);
    if (client->started) {
        glassrt_sockets_stop();
    }
    glassrt_gate_remove(&client->state);
    glassrt_gate_remove(&client->calling);
    free(client->token);
    free(client);
}
