/* What differs between systems: the clock, gates, sockets, memory of another process. Not for hosts. */
#ifndef GLASSRT_SYSTEM_H
#define GLASSRT_SYSTEM_H

#ifdef _WIN32
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0600
#endif
#include <winsock2.h>
#include <windows.h>
#include <ws2tcpip.h>
typedef SOCKET glassrt_socket;
#define GLASSRT_NO_SOCKET INVALID_SOCKET
#else
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <pthread.h>
#include <netdb.h>
#include <sys/socket.h>
typedef int glassrt_socket;
#define GLASSRT_NO_SOCKET (-1)
#endif

#include <stddef.h>
#include <stdint.h>

#include "glassrt.h"

/* Why a call failed; it lies on the stack of the call until that hands it to its client. */
typedef struct glassrt_fault {
    glassrt_status status;
    char text[512];
} glassrt_fault;

/* Fill a fault as printf does; what cannot be printed becomes a question mark. Returns the status. */
glassrt_status glassrt_fail(glassrt_fault *fault, glassrt_status status, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* Milliseconds of a clock that never goes back. Limits are moments of it, called `until`. */
int64_t glassrt_now(void);

/* A door for one thread at a time, at which the others wait no longer than they want to. */
typedef struct glassrt_gate {
#ifdef _WIN32
    SRWLOCK lock;
    CONDITION_VARIABLE left;
#else
    pthread_mutex_t lock;
    pthread_cond_t left;
#endif
    int taken;
} glassrt_gate;

int glassrt_gate_make(glassrt_gate *gate); /* 0 where the system has none left */
void glassrt_gate_remove(glassrt_gate *gate);
glassrt_status glassrt_gate_enter(glassrt_gate *gate, int64_t until, glassrt_fault *fault);
void glassrt_gate_leave(glassrt_gate *gate);

typedef struct glassrt_address {
    struct sockaddr_storage name;
    int length;
    char text[160]; /* as the user wrote it */
} glassrt_address;

/* Sockets need to be started once for each client, and stopped again. */
glassrt_status glassrt_sockets_start(glassrt_fault *fault);
void glassrt_sockets_stop(void);

glassrt_status glassrt_address_read(const char *text, glassrt_address *address, glassrt_fault *fault);
glassrt_status glassrt_socket_open(const glassrt_address *address, int64_t until, glassrt_socket *made,
                                   glassrt_fault *fault);
void glassrt_socket_close(glassrt_socket *socket);

/* What a socket is waited for, and what it then is ready for; a closed one is ready to be read. */
enum { GLASSRT_READ = 1, GLASSRT_WRITE = 2 };
int glassrt_socket_wait(glassrt_socket socket, int wanted, int64_t until); /* 0 after that moment */

/* Bytes moved, 0 where none can be at present, -1 where the other side is gone. */
ptrdiff_t glassrt_socket_send(glassrt_socket socket, const char *bytes, size_t length);
ptrdiff_t glassrt_socket_receive(glassrt_socket socket, char *bytes, size_t room);

/* Map memory that a server on this machine made. Taken only if it can neither be cut short nor be anything else than
 * memory, since to touch what is no longer there would kill the host. NULL, with a fault, where it cannot be had. */
void *glassrt_memory_map(const char *path, size_t bytes, glassrt_fault *fault);
void glassrt_memory_unmap(void *memory, size_t bytes);

#endif
