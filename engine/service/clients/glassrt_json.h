/* As much of JSON as is needed to take the server's answers apart. Not for hosts. */
#ifndef GLASSRT_JSON_H
#define GLASSRT_JSON_H

#include <stddef.h>
#include <stdint.h>

/* A piece of a text that lies elsewhere. */
typedef struct glassrt_span {
    const char *from, *to;
} glassrt_span;

glassrt_span glassrt_json_whole(const char *text, size_t length); /* without the white space around it */
int glassrt_json_is_object(glassrt_span whole);                   /* whether it is one object and nothing more */
int glassrt_json_find(glassrt_span object, const char *key, glassrt_span *value); /* whether an object has the key */
int glassrt_json_open(glassrt_span array, glassrt_span *rest); /* whether it is an array; `rest` is its inside */
int glassrt_json_next(glassrt_span *rest, glassrt_span *element); /* takes the next element off; 0 at the end */
int glassrt_json_is(glassrt_span value, const char *text);        /* whether it stands there in these characters */
int64_t glassrt_json_number(glassrt_span value);                  /* a whole number from 0 to 2^53; else -1 */

/* A string without its quotes, its escapes undone; what is not ASCII stays as it is, \u above that becomes '?'.
 * Returns its length, -1 for anything that is no string or has no room. */
ptrdiff_t glassrt_json_text(glassrt_span value, char *buffer, size_t room);

#endif
