/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Pairs of connected sockets, of the kinds that tests send and receive on
 */
#ifndef SELFTESTS_IO_URING_SOCKETS_H
#define SELFTESTS_IO_URING_SOCKETS_H

#include <stdbool.h>

enum kind { UNIX_STREAM, UNIX_DGRAM, TCP, UDP, MPTCP, NR_KINDS };

/* 0, or -1 if the kernel has no such sockets */
int sockets(enum kind kind, int sock[2]);
bool is_stream(enum kind kind);
int tcp_pair(int sock[2]);
/* The same with kTLS, in software: 0, or -1 if the kernel has none */
int tls_pair(int sock[2]);
/*
 * One whose end @sock[1] is full and does not read: loopback copies what it
 * queues there, but what @sock[0] sends now stays in its send queue, pages and
 * all, until the connection breaks, as it does by reset_by(@sock[1]).
 */
int stuck_tcp_pair(int sock[2]);
void reset_by(int fd);
void close2(int sock[2]);

/* All of @len, from what may come in pieces */
int recv_all(int fd, void *buf, int len);

#endif
