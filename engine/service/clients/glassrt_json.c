/* JSON, read where it stands. Brackets are counted and not matched: the server wrote them. */
#include "glassrt_json.h"

#include <string.h>

static const char *skip_space(const char *at, const char *to) {
    while (at < to && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) {
        at++;
    }
    return at;
}

/* Behind the string that begins at `at`, NULL where it does not end. */
static const char *skip_string(const char *at, const char *to) {
    for (at++; at < to; at++) {
        if (*at == '"') {
            return at + 1;
        }
        at += *at == '\\';
    }
    return NULL;
}

/* Behind the value that begins at `at`, NULL where it does not end; without recursion, however deep it is. */
static const char *skip_value(const char *at, const char *to) {
    const char *first = at;
    size_t depth = 0;
    while (at && at < to) {
        char here = *at;
        if (!depth && at > first && (here == ',' || here == ']' || here == '}' || here == ':' || here <= ' ')) {
            return at;
        }
        if (here == '"') {
            at = skip_string(at, to);
        } else {
            at++;
            if (here == '{' || here == '[') {
                depth++;
            } else if (here == '}' || here == ']') {
                if (!depth) {
                    return NULL;
                }
                depth--;
            }
        }
        if (at && !depth && (here == '"' || here == '}' || here == ']')) {
            return at;
        }
    }
    return at && !depth && at > first ? at : NULL;
}

glassrt_span glassrt_json_whole(const char *text, size_t length) {
    glassrt_span whole;
    whole.to = text + length;
    whole.from = skip_space(text, whole.to);
    while (whole.to > whole.from && skip_space(whole.to - 1, whole.to) == whole.to) {
        whole.to--;
    }
    return whole;
}

int glassrt_json_is_object(glassrt_span whole) {
    return whole.from < whole.to && *whole.from == '{' && skip_value(whole.from, whole.to) == whole.to;
}

int glassrt_json_open(glassrt_span array, glassrt_span *rest) {
    if (array.from >= array.to || *array.from != '[' || skip_value(array.from, array.to) != array.to) {
        return 0;
    }
    rest->from = array.from + 1;
    rest->to = array.to - 1;
    return 1;
}

int glassrt_json_next(glassrt_span *rest, glassrt_span *element) {
    const char *end;
    element->from = skip_space(rest->from, rest->to);
    end = element->from < rest->to ? skip_value(element->from, rest->to) : NULL;
    if (!end) {
        rest->from = rest->to;
        return 0;
    }
    element->to = end;
    end = skip_space(end, rest->to);
    rest->from = end < rest->to ? end + 1 : end; /* behind the comma, or the colon of an object's key */
    return 1;
}

int glassrt_json_find(glassrt_span object, const char *key, glassrt_span *value) {
    glassrt_span rest, name;
    size_t length = strlen(key);
    if (!glassrt_json_is_object(object)) {
        return 0;
    }
    rest.from = object.from + 1;
    rest.to = object.to - 1;
    while (glassrt_json_next(&rest, &name) && glassrt_json_next(&rest, value)) {
        if ((size_t)(name.to - name.from) == length + 2 && *name.from == '"' && !memcmp(name.from + 1, key, length)) {
            return 1;
        }
    }
    return 0;
}

int glassrt_json_is(glassrt_span value, const char *text) {
    return (size_t)(value.to - value.from) == strlen(text) && !memcmp(value.from, text, strlen(text));
}

int64_t glassrt_json_number(glassrt_span value) {
    int64_t number = 0;
    for (const char *at = value.from; at < value.to; at++) {
        if (*at < '0' || *at > '9' || number > ((int64_t)1 << 53) / 10) {
            return -1;
        }
        number = number * 10 + (*at - '0');
    }
    return value.from < value.to ? number : -1;
}

/* The character of four hexadecimal digits; a question mark for what is not ASCII, or no digits. */
static char read_hex(const char *at) {
    int number = 0;
    for (int each = 0; each < 4; each++) {
        const char *digits = "0123456789abcdef", *found = at[each] ? strchr(digits, at[each] | 32) : NULL;
        number = found ? number * 16 + (int)(found - digits) : 0x10000;
        if (number >= 0x10000) {
            return '?';
        }
    }
    return number && number < 128 ? (char)number : '?';
}

ptrdiff_t glassrt_json_text(glassrt_span value, char *buffer, size_t room) {
    size_t length = 0;
    if (value.to - value.from < 2 || *value.from != '"' || value.to[-1] != '"') {
        return -1;
    }
    for (const char *at = value.from + 1; at < value.to - 1; at++) {
        char here = *at;
        if (here == '\\') {
            const char *escaped = "nrtbf", *plain = "\n\r\t\b\f", *found;
            here = *++at;
            found = here ? strchr(escaped, here) : NULL;
            if (here == 'u') {
                if (value.to - 1 - at <= 4) {
                    return -1;
                }
                here = read_hex(at + 1);
                at += 4;
            } else if (found) {
                here = plain[found - escaped];
            }
        }
        if (length + 1 >= room) {
            return -1;
        }
        buffer[length++] = here;
    }
    buffer[length] = '\0';
    return (ptrdiff_t)length;
}
