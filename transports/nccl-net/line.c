/* SPDX-License-Identifier: Apache-2.0 */
/*
 * line.c: the line to a peer, an endpoint of a tcp transport of our own: it finds and proves the peer, keeps control frames
 * secret, and sees a death, none of which plug-ins do. Its upcalls come in any thread and leave what they bring in the
 * endpoint's inbox; the thread that drives takes it from there.
 */
#include "transports/nccl-net/net.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

extern const struct choir_transport_ops choir_transport_tcp;

void net_line_lose(struct choir_endpoint *e, enum choir_status status, const char *text)
{
    net_acquire(&e->t->lock);
    if (!e->down) {
        e->down = true;
        e->down_status = status;
        snprintf(e->down_text, sizeof(e->down_text), "%s", text);
    }
    net_release(&e->t->lock);
}

/* --- upcalls ------------------------------------------------------------------------------------------------ */
static void *line_accepted(void *context, const struct choir_process *peer,
                           struct choir_endpoint *line)
{
    struct choir_transport *t = context;
    struct choir_endpoint *made = net_endpoint_new(t, peer);
    net_acquire(&t->lock);
    struct choir_endpoint *e = net_endpoint_find(t, peer);
    bool ours = e && atomic_load(&e->state) == NET_JOINING && (!e->line || e->line == line);
    if (!ours && made && !t->closing) {
        if (e)
            e->listed = false; /* the peer has begun anew: this one's end will show */
        e = made, made = NULL;
        net_endpoint_list(e);
    } else if (!ours) {
        e = NULL;
    }
    if (e && !e->line)
        e->line = line;
    net_release(&t->lock);
    free(made);
    return e;
}

static void *line_place(void *context, void *cookie, const struct choir_frame *frame)
{
    (void)context, (void)cookie;
    return frame->bytes <= CHOIR_FRAME_MOST ? malloc(frame->bytes) : NULL;
}

static void line_arrived(void *context, void *cookie, const struct choir_frame *frame, void *where)
{
    struct choir_transport *t = context;
    struct choir_endpoint *e = cookie;
    struct net_word_in *w = malloc(sizeof(*w));
    if (!w || (frame->bytes && !where)) { /* a frame is lost, and with it the order */
        net_line_lose(e, CHOIR_ERR_NO_MEMORY, "no memory for a frame of the line");
        free(w);
        free(where);
        return;
    }
    *w = (struct net_word_in){NULL, *frame, where};
    net_acquire(&t->lock);
    *e->inbox_last = w;
    e->inbox_last = &w->next;
    net_release(&t->lock);
}

static void line_failed(void *context, void *cookie, enum choir_status status, int sys_errno,
                        const char *text)
{
    (void)context, (void)sys_errno;
    net_line_lose(cookie, status, text);
}

static enum choir_status line_watch(void *context, int fd, int writable, void (*fn)(void *arg),
                                    void *arg)
{
    struct choir_transport *t = context;
    struct epoll_event ev = {.events = writable ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.fd = fd};
    int op = !fn ? EPOLL_CTL_DEL : t->line_fn ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    t->line_fn = fn, t->line_arg = arg;
    return epoll_ctl(t->poll, op, fd, &ev)
               ? base_fail(CHOIR_ERR_SYSTEM, "", "epoll_ctl: %s", strerror(errno))
               : CHOIR_OK;
}

static int line_secret(void *context, const unsigned char *name, unsigned char name_out[16],
                       unsigned char secret[32])
{
    const struct choir_transport_host *h = ((struct choir_transport *)context)->host;
    return h->secret(h->context, name, name_out, secret);
}

static void line_log(void *context, int level, const char *text)
{
    const struct choir_transport_host *h = ((struct choir_transport *)context)->host;
    h->log(h->context, level, text);
}

/* One plain socket is enough. */
static const char *line_knob(void *context, const char *name)
{
    const struct choir_transport_host *h = ((struct choir_transport *)context)->host;
    if (!strcmp(name, "CHOIR_SOCKETS"))
        return "1";
    if (!strcmp(name, "CHOIR_ZEROCOPY"))
        return "0";
    return h->knob ? h->knob(h->context, name) : NULL;
}

enum choir_status net_line_open(struct choir_transport *t)
{
    t->line_ops = &choir_transport_tcp;
    t->line_host = (struct choir_transport_host){.bytes = sizeof(t->line_host),
                                                 .abi = CHOIR_TRANSPORT_ABI,
                                                 .context = t,
                                                 .host_id = t->host->host_id,
                                                 .self = t->host->self,
                                                 .accepted = line_accepted,
                                                 .place = line_place,
                                                 .arrived = line_arrived,
                                                 .failed = line_failed,
                                                 .watch = line_watch,
                                                 .secret = line_secret,
                                                 .log = line_log,
                                                 .knob = line_knob};
    return t->line_ops->open(&t->line_host, &t->line);
}

/* --- saying --------------------------------------------------------------------------------------------------- */
/* What cannot be said shows as the line's end. Without a request the payload is copied. */
void net_line_say(struct choir_endpoint *e, enum net_word word, uint64_t arg, const void *payload,
                  uint32_t bytes)
{
    struct choir_frame f = {.bytes = bytes, .kind = (uint16_t)word, .arg = {arg}};
    enum choir_status status = e->t->line_ops->send(e->line, &f, payload, NULL);
    if (status < 0)
        net_line_lose(e, status, "a frame could not be sent over the line");
}

/* --- hearing ---------------------------------------------------------------------------------------------------- */
static void on_offer(struct choir_endpoint *e, const struct net_word_in *w)
{
    struct choir_transport *t = e->t;
    struct net_offer *o = &e->other;
    if (e->offer_came || w->frame.bytes != sizeof(*o)) {
        net_endpoint_fail(e, CHOIR_ERR_PROTOCOL, true, "an offer of %u bytes", w->frame.bytes);
        return;
    }
    memcpy(o, w->payload, sizeof(*o));
    o->plugin[sizeof(o->plugin) - 1] = o->device[sizeof(o->device) - 1] = 0;
    if (o->magic != NET_MAGIC || o->version != NET_VERSION ||
        o->message_bytes < 2 * sizeof(struct net_record))
        net_endpoint_fail(e, CHOIR_ERR_UNSUPPORTED, true, "the peer is of another version");
    else if (strncmp(o->plugin, t->plugin.name, sizeof(o->plugin) - 1))
        net_endpoint_fail(e, CHOIR_ERR_UNSUPPORTED, true,
                          "the peer uses net plug-in %s, this process %s", o->plugin,
                          t->plugin.name);
    e->message_bytes = base_min(t->message_bytes, o->message_bytes);
    e->offer_came = true;
}

static void on_broken(struct choir_endpoint *e, const struct net_word_in *w)
{
    char text[160] = "";
    if (w->payload)
        snprintf(text, sizeof(text), "%.*s", (int)w->frame.bytes, (const char *)w->payload);
    enum choir_status status = (int64_t)w->frame.arg[0] == CHOIR_ERR_UNSUPPORTED
                                   ? CHOIR_ERR_UNSUPPORTED
                                   : CHOIR_ERR_NETWORK;
    net_endpoint_fail(e, status, false, "the peer says: %s", text);
}

static void on_frame(struct choir_endpoint *e, const struct net_word_in *w)
{
    struct choir_frame f;
    if (w->frame.bytes < sizeof(f)) {
        net_endpoint_fail(e, CHOIR_ERR_PROTOCOL, true, "a control frame of %u bytes",
                          w->frame.bytes);
        return;
    }
    memcpy(&f, w->payload, sizeof(f));
    if (f.bytes != w->frame.bytes - sizeof(f) || f.kind >= CHOIR_FRAME_DATA) {
        net_endpoint_fail(e, CHOIR_ERR_PROTOCOL, true, "a control frame that makes no sense");
        return;
    }
    e->controls_in++;
    net_receive_control(e, &f, (const char *)w->payload + sizeof(f));
}

static void hear(struct choir_endpoint *e, const struct net_word_in *w)
{
    uint64_t arg = w->frame.arg[0];
    switch ((enum net_word)w->frame.kind) {
    case NET_OFFER:
        on_offer(e, w);
        break;
    case NET_WELCOME:
        e->welcomed = true;
        break;
    case NET_FRAME:
        on_frame(e, w);
        break;
    case NET_ASLEEP: /* what was sent since rings at once */
        e->peer_asleep = e->tx.posted <= arg;
        if (!e->peer_asleep)
            net_line_say(e, NET_RING, e->tx.posted, NULL, 0);
        break;
    case NET_RING:
        e->told_asleep = false;
        e->owed = arg;
        break;
    case NET_LAST:
        e->last_came = true;
        e->last_in = arg;
        break;
    case NET_DONE:
        e->done_came = true;
        break;
    case NET_BROKEN:
        on_broken(e, w);
        break;
    case NET_ASK:
        net_line_say(e, NET_HERE, 0, NULL, 0);
        break;
    case NET_HERE:
        e->answered = true;
        break;
    default:
        net_endpoint_fail(e, CHOIR_ERR_PROTOCOL, true, "a word %u of the line", w->frame.kind);
    }
}

/* A control frame waits for the data frames that were sent before it. */
static bool waits(const struct choir_endpoint *e, const struct net_word_in *w)
{
    return w->frame.kind == NET_FRAME &&
           (atomic_load(&e->state) == NET_JOINING || e->frames_in < w->frame.arg[0]);
}

uint32_t net_line_hear(struct choir_endpoint *e)
{
    struct choir_transport *t = e->t;
    uint32_t heard = 0;
    while (atomic_load(&e->state) != NET_FAILED && heard < NET_BATCH) {
        net_acquire(&t->lock);
        struct net_word_in *w = e->inbox;
        e->waits = w && waits(e, w);
        if (e->waits)
            w = NULL;
        if (w && !(e->inbox = w->next))
            e->inbox_last = &e->inbox;
        net_release(&t->lock);
        if (!w)
            break;
        hear(e, w);
        free(w->payload);
        free(w);
        heard++;
    }
    return heard;
}

void net_line_forget(struct choir_endpoint *e)
{
    while (e->inbox) {
        struct net_word_in *w = e->inbox;
        e->inbox = w->next;
        free(w->payload);
        free(w);
    }
    e->inbox_last = &e->inbox;
}
