/* SPDX-License-Identifier: Apache-2.0 */
/* process.h: between process.c (this process), cards.c, peers.c (tables, frames), reach.c (other processes) and service.c. */
#ifndef HOST_PROCESS_H
#define HOST_PROCESS_H

#include "host/host.h"

/* Upcalls of the transports (peers.c, reach.c); context is the transport's index. */
void *process_accepted(void *context, const struct choir_process *id,
                       struct choir_endpoint *endpoint);
void *process_place(void *context, void *cookie, const struct choir_frame *frame);
void process_arrived(void *context, void *cookie, const struct choir_frame *frame, void *where);
void process_failed(void *context, void *cookie, enum choir_status status, int sys_errno,
                    const char *text);
void peers_tell_death(struct host_peer *peer, enum choir_status status, const char *text);
void peers_say_goodbye(void); /* to the peers of all communicators: this process ends */
void reach_disconnect(struct host_peer *peer);
void reach_forget(struct host_peer *peer); /* frees what reaching it took */
/* A frame without payload, also over endpoints of which we do not know yet that they are joined: the peer may. */
void reach_send_last(struct host_peer *peer, const struct choir_frame *frame);
void process_disconnect(void); /* from every process; no communicator is left */
void process_forget(void);     /* frees peers and early frames; transports are closed */
void process_forked(void);     /* in the child: forgets without freeing what other threads held */
void service_forked(void);
/* The address of the named transport on a learned peer's card, which is put into `card`; NULL: there is none. */
const void *cards_address(const struct host_peer *peer, const char *name,
                          uint8_t card[HOST_CARD_MOST], size_t *bytes);
void cards_forget(void); /* peers have been freed, and their cards with them */
void cards_forked(void);

#endif
