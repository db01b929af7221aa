/* Load for one server over a Unix socket: the same loop for Redis and for udsbus.
 *
 *     loadgen SOCKET redis|udsbus get|set CONNECTIONS DEPTH SECONDS
 *
 * Each connection sends DEPTH requests at once, waits for their DEPTH replies and starts again
 * (as `redis-benchmark -P DEPTH` does). Requests are built once. One thread, one epoll. After a
 * warm-up of WARM_UP seconds it counts for SECONDS and prints "REPLIES SECONDS CPU_SECONDS ALL":
 * CPU_SECONDS is what this process itself used meanwhile, ALL the replies with those of the warm-up.
 * Anything but the expected kind of reply ends it with a message and status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 0.2
#define KEY "bench/key"
#define VALUE "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" /* 64 bytes */
#define LENGTH(literal) (sizeof(literal) - 1)

struct connection {
    int fd;
    int awaited;          /* replies still to come for the requests sent */
    size_t used;          /* bytes in `buffer`: whole replies are taken out at once */
    char buffer[16384];
};

/* One request, and the length of the reply at `at` (0: not all there yet, -1: not a good one). */
struct protocol {
    const char *name, *get, *set;
    size_t get_size, set_size;
    long (*reply)(const unsigned char *at, size_t size);
};

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

/* RESP: "+OK\r\n" or "$64\r\n...\r\n". */
static long redis_reply(const unsigned char *at, size_t size)
{
    const unsigned char *end = memchr(at, '\n', size);
    long length;
    if (*at != '+' && *at != '$')
        return -1;
    if (end == NULL)
        return 0;
    length = end + 1 - at;
    if (*at == '$')
        length += strtol((const char *)at + 1, NULL, 10) + 2;
    return (size_t)length <= size ? length : 0;
}

/* MessagePack-RPC: [1, 7, nil, result] with a result that is an unsigned integer or a short bin. */
static long udsbus_reply(const unsigned char *at, size_t size)
{
    static const unsigned char head[] = {0x94, 1, 7, 0xc0};
    size_t length = sizeof head + 1;
    if (memcmp(at, head, size < sizeof head ? size : sizeof head))
        return -1;
    if (size < length + 1)
        return size == length && at[4] < 0x80 ? (long)length : 0;
    switch (at[4]) {
    case 0xc4: length += 1 + at[5]; break;              /* bin 8 */
    case 0xcc: length += 1; break;                      /* uint 8, 16, 32, 64 */
    case 0xcd: length += 2; break;
    case 0xce: length += 4; break;
    case 0xcf: length += 8; break;
    default: if (at[4] >= 0x80) return -1;              /* positive fixint */
    }
    return length <= size ? (long)length : 0;
}

#define REDIS_GET "*2\r\n$3\r\nGET\r\n$9\r\n" KEY "\r\n"
#define REDIS_SET "*3\r\n$3\r\nSET\r\n$9\r\n" KEY "\r\n$64\r\n" VALUE "\r\n"
/* The value is a bin of 66 bytes: the MessagePack form (bin 8) of 64 bytes. */
#define UDSBUS_GET "\x94\x00\x07\xa3" "get" "\x91\xa9" KEY
#define UDSBUS_SET "\x94\x00\x07\xa3" "set" "\x92\xa9" KEY "\xc4\x42\xc4\x40" VALUE

static const struct protocol protocols[] = {
    {"redis", REDIS_GET, REDIS_SET, LENGTH(REDIS_GET), LENGTH(REDIS_SET), redis_reply},
    {"udsbus", UDSBUS_GET, UDSBUS_SET, LENGTH(UDSBUS_GET), LENGTH(UDSBUS_SET), udsbus_reply},
};

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof address.sun_path)
        fail("the socket path is too long: %s", path);
    strcpy(address.sun_path, path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("%s: %s", path, strerror(errno));
    return fd;
}

static void send_batch(struct connection *to, const char *batch, size_t size, int depth)
{
    while (size) {
        ssize_t sent = send(to->fd, batch, size, MSG_NOSIGNAL);
        if (sent < 0)
            fail("send: %s", strerror(errno));
        batch += sent;
        size -= (size_t)sent;
    }
    to->awaited = depth;
}

/* Take what has come; returns the number of whole replies. Called when there is something. */
static int receive(struct connection *from, const struct protocol *protocol)
{
    const unsigned char *at = (unsigned char *)from->buffer;
    ssize_t got = recv(from->fd, from->buffer + from->used, sizeof from->buffer - from->used, 0);
    int replies = 0;
    if (got <= 0)
        fail("the server closed a connection");
    from->used += (size_t)got;
    while (from->used) {
        long length = protocol->reply(at, from->used);
        if (length < 0 || replies == from->awaited)
            fail("unexpected reply: %.*s", (int)(from->used < 80 ? from->used : 80), at);
        if (length == 0)
            break;
        at += length;
        from->used -= (size_t)length;
        replies++;
    }
    memmove(from->buffer, at, from->used);
    from->awaited -= replies;
    return replies;
}

int main(int argc, char **argv)
{
    const struct protocol *protocol = NULL;
    if (argc != 7)
        fail("usage: loadgen SOCKET redis|udsbus get|set CONNECTIONS DEPTH SECONDS");
    for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++)
        if (!strcmp(argv[2], protocols[i].name))
            protocol = &protocols[i];
    int set = !strcmp(argv[3], "set"), many = atoi(argv[4]), depth = atoi(argv[5]);
    double wanted = atof(argv[6]);
    if (!protocol || (!set && strcmp(argv[3], "get")) || many < 1 || depth < 1 || depth > 128)
        fail("bad arguments");

    size_t size = set ? protocol->set_size : protocol->get_size;
    char *batch = malloc(size * (size_t)depth);
    for (int i = 0; i < depth; i++)
        memcpy(batch + size * (size_t)i, set ? protocol->set : protocol->get, size);

    struct connection *connections = calloc((size_t)many, sizeof *connections);
    struct epoll_event event = {.events = EPOLLIN}, ready[64];
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < many; i++) {
        connections[i].fd = connect_to(argv[1]);
        event.data.ptr = &connections[i];
        epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event);
    }
    send_batch(&connections[0], protocol->set, protocol->set_size, 1); /* so that there is one */
    while (connections[0].awaited)
        receive(&connections[0], protocol);
    for (int i = 0; i < many; i++)
        send_batch(&connections[i], batch, size * (size_t)depth, depth);

    double start = 0, cpu = 0, now = seconds(CLOCK_MONOTONIC), next = now + WARM_UP;
    uint64_t replies = 0, before = 0;
    for (;;) {
        int n = epoll_wait(epoll, ready, 64, 1000);
        for (int i = 0; i < n; i++) {
            struct connection *connection = ready[i].data.ptr;
            replies += (uint64_t)receive(connection, protocol);
            if (!connection->awaited)
                send_batch(connection, batch, size * (size_t)depth, depth);
        }
        now = seconds(CLOCK_MONOTONIC);
        if (now < next)
            continue;
        if (start)
            break;
        start = now, next = now + wanted, before = replies;
        cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    }
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%llu %.6f %.6f %llu\n", (unsigned long long)(replies - before), now - start, cpu,
           (unsigned long long)replies);
    return 0;
}
