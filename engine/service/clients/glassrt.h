/* GlassRT for scanner software: push the tiles of a slide to a GlassRT server while it is scanned, and get its maps
 * and regions back while the stage still moves. The server is a process of its own (`glassrt serve`), so nothing that
 * happens in it can crash, stop or grow the host. C99; needs the C library and sockets alone. README.md says how to
 * build it.
 *
 * Results. Every call returns a glassrt_status. Where it is not GLASSRT_OK, glassrt_error() gives one line of text.
 * No call aborts, raises a signal, prints, or keeps what it was given: pixels and texts are the caller's again when
 * the call returns. What a call hands out is freed as its comment says.
 *
 * Time. Every call returns within its limit, whatever the server does: the client's timeout_ms, plus the time that the
 * call itself asks for (wait_ms of glassrt_push, timeout_ms of glassrt_next_event). timeout_ms of glassrt_finish
 * is its whole limit. The time in which one thread waits for another counts.
 *
 * Threads. A client and its sessions may be used from any number of threads at once. Calls that share a connection
 * wait for each other; there are three lines that never do:
 *   - glassrt_overview, glassrt_memory, glassrt_push and glassrt_finish of one session (one shared buffer, guarded),
 *   - glassrt_next_event of one session,
 *   - glassrt_begin and glassrt_cancel of one client: a cancel ends a push or finish that waits in another thread.
 * So: push from one thread, take events from another. Sessions do not wait for each other. Two calls may not run when
 * anything else uses the same object, or after it: glassrt_end (of a session) and glassrt_close (of a client).
 * glassrt_error tells of the client's latest failure, in whichever thread that was.
 *
 * Death. A session holds a connection on which the server sees that its host is gone; it is cancelled within seconds
 * then, and nothing of it is left.
 */
#ifndef GLASSRT_H
#define GLASSRT_H

#include <stddef.h>
#include <stdint.h>

#define GLASSRT_ABI_VERSION 1 /* counts changes after which a host has to be compiled again */

#if defined(_WIN32) && defined(GLASSRT_SHARED)
#define GLASSRT_API __declspec(dllexport)
#elif defined(__GNUC__)
#define GLASSRT_API __attribute__((visibility("default")))
#else
#define GLASSRT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum glassrt_status {
    GLASSRT_OK = 0,
    GLASSRT_NONE = 1,     /* no event came in time; the session goes on */
    GLASSRT_BUSY = 2,     /* the server has no room at present: nothing was taken, nothing is lost, try again */
    GLASSRT_REFUSED = 3,  /* the server refuses what was sent and says why; a session goes on without it */
    GLASSRT_ENDED = 4,    /* the session has ended: finished, failed, cancelled, or unknown to the server */
    GLASSRT_LOST = 5,     /* the server is not there, went away, or does not speak as a GlassRT server does */
    GLASSRT_TIMEOUT = 6,  /* the server did not answer within the limit */
    GLASSRT_MISUSE = 7,   /* an argument is wrong; nothing was sent */
    GLASSRT_NO_MEMORY = 8
} glassrt_status;

/* What stands in the memory of a tile. Raw pixels are 8 bits a channel, rows from the top. */
typedef enum glassrt_format {
    GLASSRT_RGB = 0,
    GLASSRT_BGR = 1,
    GLASSRT_RGBA = 2,
    GLASSRT_BGRA = 3,
    GLASSRT_JPEG = 4, /* as it stands in the scanner's file, so that the results are those of the file, to the bit */
    GLASSRT_JP2 = 5
} glassrt_format;

typedef struct glassrt_client glassrt_client;
typedef struct glassrt_session glassrt_session;

typedef struct glassrt_event {
    int64_t number; /* counts from 1 in each session */
    char kind[24];  /* "map", "region", "progress", "warning", "finished", "failed" or "cancelled" */
    char *data;     /* JSON, ends with a NUL; freed by glassrt_free */
    size_t length;  /* of data, without the NUL */
} glassrt_event;

/* The GLASSRT_ABI_VERSION that the library was compiled with: a host that loads it should compare. */
GLASSRT_API int glassrt_abi_version(void);

/* Connect to a server at "127.0.0.1:8080", "[::1]:8080", "localhost:8080" or "unix:/path/of/socket" (not on Windows).
 * Other names are refused: to look one up has no time limit. token: of a server that asks for one, else NULL.
 * timeout_ms: 1 to 86400000, the limit of each call. *client is set also where this fails, so that glassrt_error can
 * tell why, and has to be closed by glassrt_close; it is NULL only where memory is short or `client` itself was. */
GLASSRT_API glassrt_status glassrt_connect(const char *address, const char *token, int timeout_ms,
                                           glassrt_client **client);

/* End all sessions of a client as glassrt_end does, one timeout_ms for each at most, and free it. NULL is ignored. */
GLASSRT_API void glassrt_close(glassrt_client *client);

/* Copy the line that tells of the client's latest failure, "" before the first, cut to `size` bytes with its NUL.
 * Returns the length of the whole line. */
GLASSRT_API size_t glassrt_error(glassrt_client *client, char *buffer, size_t size);

/* Begin a slide. json: the body of POST /slides, as in
 *   {"bundle": "glas-glands", "levels": [[30000, 30000]], "mpp": 0.5, "tile": [1024, 1024], "name": "slide-7"}
 * GLASSRT_BUSY: as many sessions run as the server takes. *session is NULL where this fails; else it is freed by
 * glassrt_end, at the latest by glassrt_close of its client. */
GLASSRT_API glassrt_status glassrt_begin(glassrt_client *client, const char *json, glassrt_session **session);

/* Free a session. One that was not finished is cancelled; one that was is forgotten by the server, its files stay.
 * NULL is ignored. */
GLASSRT_API void glassrt_end(glassrt_session *session);

/* Send the scanner's picture of the whole slide, PNG or JPEG, before the first tile of a session that was begun with
 * "overview": true. The frame in level-0 pixels that it shows; four zeros: the whole slide. */
GLASSRT_API glassrt_status glassrt_overview(glassrt_session *session, const void *picture, size_t length, int64_t left,
                                            int64_t top, int64_t right, int64_t bottom);

/* Have tiles of up to `bytes` go through memory that is shared with the server, several times as fast as its socket.
 * GLASSRT_REFUSED: the server gives none (it needs `--shared-memory`, and the same Linux machine and user); tiles then
 * go through the socket, as they do without this call. Once a session. */
GLASSRT_API glassrt_status glassrt_memory(glassrt_session *session, size_t bytes);

/* Push a tile. x, y: its first pixel, in pixels of that level. stride: bytes from row to row, 0 where rows have no
 * gaps; ignored for encoded tiles. length: bytes at `pixels`. wait_ms: how long the server may wait for room, up to
 * 60000; GLASSRT_BUSY after that: push the tile again. Tiles may come in any order, twice, or never. */
GLASSRT_API glassrt_status glassrt_push(glassrt_session *session, int level, int64_t x, int64_t y, int width,
                                        int height, size_t stride, glassrt_format format, const void *pixels,
                                        size_t length, int wait_ms);

/* Take the next event, in order; GLASSRT_NONE if there is none after timeout_ms. After "finished", "failed" or
 * "cancelled" there are no more: GLASSRT_ENDED. event->data is NULL unless this returns GLASSRT_OK. */
GLASSRT_API glassrt_status glassrt_next_event(glassrt_session *session, int timeout_ms, glassrt_event *event);

/* Say that all tiles were pushed, and wait for the files to be written. *result: result.json, freed by glassrt_free;
 * NULL where this fails. `result` may be NULL. GLASSRT_TIMEOUT: it goes on; the events tell of its end. */
GLASSRT_API glassrt_status glassrt_finish(glassrt_session *session, int timeout_ms, char **result);

/* Cancel a session: nothing of it is left. The session still has to be freed by glassrt_end. */
GLASSRT_API glassrt_status glassrt_cancel(glassrt_session *session);

/* Free what a call handed out. NULL is ignored. */
GLASSRT_API void glassrt_free(void *memory);

#ifdef __cplusplus
}
#endif
#endif
