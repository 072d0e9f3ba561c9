/* Sockets that never block, never raise a signal, and are not handed on to the host's child processes. */
#include "glassrt_system.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#ifndef _WIN32
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>
#include <unistd.h>
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* where SO_NOSIGPIPE, or that there are no signals, does the same */
#endif

enum { LONGEST_CALL = 1 << 30 }; /* bytes; Winsock and some others count in an int */

#ifdef _WIN32

glassrt_status glassrt_sockets_start(glassrt_fault *fault) {
    WSADATA found;
    if (WSAStartup(MAKEWORD(2, 2), &found)) {
        return glassrt_fail(fault, GLASSRT_LOST, "Windows gives no sockets");
    }
    return GLASSRT_OK;
}

void glassrt_sockets_stop(void) {
    WSACleanup();
}

static int last_error(void) {
    return WSAGetLastError();
}

static int is_later(int error) {
    return error == WSAEWOULDBLOCK || error == WSAEINPROGRESS || error == WSAEINTR;
}

static void describe(int error, char *text, size_t size) {
    snprintf(text, size, error == WSAECONNREFUSED ? "connection refused" : "Winsock error %d", error);
}

static int make_steady(glassrt_socket socket) {
    u_long on = 1;
    return ioctlsocket(socket, FIONBIO, &on) == 0;
}

static void close_socket(glassrt_socket socket) {
    closesocket(socket);
}

/* WSAPoll says nothing of connections that were refused (Windows before 2004), so: select. */
static int wait_once(glassrt_socket socket, int wanted, int left_ms) {
    fd_set read, write, broken;
    struct timeval left;
    int ready;
    left.tv_sec = left_ms / 1000;
    left.tv_usec = left_ms % 1000 * 1000;
    FD_ZERO(&read);
    FD_ZERO(&write);
    FD_ZERO(&broken);
    if (wanted & GLASSRT_READ) {
        FD_SET(socket, &read);
    }
    if (wanted & GLASSRT_WRITE) {
        FD_SET(socket, &write);
    }
    FD_SET(socket, &broken);
    if (select(0, &read, &write, &broken, &left) < 0) {
        return wanted;
    }
    ready = (FD_ISSET(socket, &read) ? GLASSRT_READ : 0) | (FD_ISSET(socket, &write) ? GLASSRT_WRITE : 0);
    return FD_ISSET(socket, &broken) ? wanted : ready & wanted;
}

#else

glassrt_status glassrt_sockets_start(glassrt_fault *fault) {
    (void)fault;
    return GLASSRT_OK;
}

void glassrt_sockets_stop(void) {
}

static int last_error(void) {
    return errno;
}

static int is_later(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINPROGRESS || error == EINTR;
}

static void describe(int error, char *text, size_t size) {
    if (strerror_r(error, text, size)) {
        snprintf(text, size, "error %d", error);
    }
}

static int make_steady(glassrt_socket socket) {
    int flags = fcntl(socket, F_GETFL);
#ifdef SO_NOSIGPIPE
    int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    return fcntl(socket, F_SETFD, FD_CLOEXEC) != -1 && flags != -1 && fcntl(socket, F_SETFL, flags | O_NONBLOCK) != -1;
}

static void close_socket(glassrt_socket socket) {
    close(socket);
}

static int wait_once(glassrt_socket socket, int wanted, int left_ms) {
    struct pollfd one;
    int ready = 0;
    one.fd = socket;
    one.events = (short)((wanted & GLASSRT_READ ? POLLIN : 0) | (wanted & GLASSRT_WRITE ? POLLOUT : 0));
    one.revents = 0;
    if (poll(&one, 1, left_ms) < 0) {
        return errno == EINTR ? 0 : wanted;
    }
    if (one.revents & (POLLERR | POLLHUP | POLLNVAL)) {
        return wanted;
    }
    ready |= one.revents & POLLIN ? GLASSRT_READ : 0;
    ready |= one.revents & POLLOUT ? GLASSRT_WRITE : 0;
    return ready;
}

#endif

/* What a socket is ready for among what is wanted; a broken one is ready for all of it, and says so when used. */
int glassrt_socket_wait(glassrt_socket socket, int wanted, int64_t until) {
    for (;;) {
        int64_t left = until - glassrt_now();
        int ready = wait_once(socket, wanted, left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left);
        if (ready || left <= 0) {
            return ready;
        }
    }
}

ptrdiff_t glassrt_socket_send(glassrt_socket socket, const char *bytes, size_t length) {
    ptrdiff_t sent = send(socket, bytes, length > LONGEST_CALL ? LONGEST_CALL : length, MSG_NOSIGNAL);
    if (sent < 0) {
        return is_later(last_error()) ? 0 : -1;
    }
    return sent;
}

ptrdiff_t glassrt_socket_receive(glassrt_socket socket, char *bytes, size_t room) {
    ptrdiff_t got = recv(socket, bytes, room > LONGEST_CALL ? LONGEST_CALL : room, 0);
    if (got < 0) {
        return is_later(last_error()) ? 0 : -1;
    }
    return got ? got : -1;
}

void glassrt_socket_close(glassrt_socket *socket) {
    if (*socket != GLASSRT_NO_SOCKET) {
        close_socket(*socket);
        *socket = GLASSRT_NO_SOCKET;
    }
}

static glassrt_status read_path(const char *path, glassrt_address *address, glassrt_fault *fault) {
#ifdef _WIN32
    (void)address;
    return glassrt_fail(fault, GLASSRT_MISUSE, "unix:%s: Windows takes an address such as 127.0.0.1:8080", path);
#else
    struct sockaddr_un name;
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    if (!*path || strlen(path) >= sizeof name.sun_path) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "a socket's path has 1 to %d characters",
                            (int)sizeof name.sun_path - 1);
    }
    strcpy(name.sun_path, path);
    memcpy(&address->name, &name, sizeof name);
    address->length = (int)sizeof name;
    return GLASSRT_OK;
#endif
}

/* "127.0.0.1:8080", "[::1]:8080", "localhost:8080": a host of which no other machine has to be asked, and a port. */
static glassrt_status read_host(const char *text, glassrt_address *address, glassrt_fault *fault) {
    char host[64];
    const char *colon = strrchr(text, ':');
    int bracketed = *text == '[' && colon > text + 1 && colon[-1] == ']';
    const char *first = text + bracketed;
    size_t length = colon ? (size_t)(colon - first) - (size_t)bracketed : 0;
    struct addrinfo wanted, *found = NULL;
    if (!length || length >= sizeof host || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        strlen(colon + 1) < 1 || strlen(colon + 1) > 5) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "%.100s is no address such as 127.0.0.1:8080", text);
    }
    memcpy(host, first, length);
    host[length] = '\0';
    memset(&wanted, 0, sizeof wanted);
    wanted.ai_family = bracketed ? AF_INET6 : AF_INET;
    wanted.ai_socktype = SOCK_STREAM;
    wanted.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    if (getaddrinfo(strcmp(host, "localhost") ? host : "127.0.0.1", colon + 1, &wanted, &found) || !found) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "%.100s: a host is given by its number or as localhost", text);
    }
    memcpy(&address->name, found->ai_addr, found->ai_addrlen);
    address->length = (int)found->ai_addrlen;
    freeaddrinfo(found);
    return GLASSRT_OK;
}

glassrt_status glassrt_address_read(const char *text, glassrt_address *address, glassrt_fault *fault) {
    memset(address, 0, sizeof *address);
    if (strlen(text) >= sizeof address->text) {
        return glassrt_fail(fault, GLASSRT_MISUSE, "an address has fewer than %d characters",
                            (int)sizeof address->text);
    }
    strcpy(address->text, text);
    return strncmp(text, "unix:", 5) ? read_host(text, address, fault) : read_path(text + 5, address, fault);
}

/* The error of connect(), 0 where it is done. A Unix socket that many wait at is tried again: poll() says nothing. */
static int start_connecting(glassrt_socket socket, const glassrt_address *address, int64_t until) {
    while (connect(socket, (const struct sockaddr *)&address->name, (socklen_t)address->length)) {
        int error = last_error();
#ifndef _WIN32
        if (error == EAGAIN && address->name.ss_family == AF_UNIX && glassrt_now() < until) {
            poll(NULL, 0, 5);
            continue;
        }
#endif
        return error;
    }
    (void)until;
    return 0;
}

glassrt_status glassrt_socket_open(const glassrt_address *address, int64_t until, glassrt_socket *made,
                                   glassrt_fault *fault) {
    int on = 1, error = 0;
    socklen_t size = sizeof error;
    char why[128];
    *made = socket(address->name.ss_family, SOCK_STREAM, 0);
    if (*made == GLASSRT_NO_SOCKET || !make_steady(*made)) {
        error = last_error();
    } else {
        error = start_connecting(*made, address, until);
        if (is_later(error)) {
            if (!glassrt_socket_wait(*made, GLASSRT_WRITE, until)) {
                glassrt_socket_close(made);
                return glassrt_fail(fault, GLASSRT_TIMEOUT, "%s does not answer", address->text);
            }
            error = 0;
            if (getsockopt(*made, SOL_SOCKET, SO_ERROR, (void *)&error, &size)) {
                error = last_error();
            }
        }
    }
    if (error) {
        glassrt_socket_close(made);
        describe(error, why, sizeof why);
        return glassrt_fail(fault, GLASSRT_LOST, "no server at %s: %s", address->text, why);
    }
    if (address->name.ss_family != AF_UNIX) {
        setsockopt(*made, IPPROTO_TCP, TCP_NODELAY, (const void *)&on, sizeof on);
    }
    return GLASSRT_OK;
}
