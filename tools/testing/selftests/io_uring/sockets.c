// SPDX-License-Identifier: GPL-2.0
/*
 * Pairs of connected sockets
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "sockets.h"

static void lo_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
}

int tcp_pair(int sock[2])
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);
	int one = 1, fd;

	lo_up();
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	sock[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(fd, (void *)&addr, sizeof(addr)) || listen(fd, 1) ||
	    getsockname(fd, (void *)&addr, &len) ||
	    connect(sock[0], (void *)&addr, len))
		return -1;
	sock[1] = accept(fd, NULL, NULL);
	close(fd);
	setsockopt(sock[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(sock[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return sock[1] < 0 ? -1 : 0;
}

int sockets(enum kind kind, int sock[2])
{
	switch (kind) {
	case UNIX_STREAM:
		return socketpair(AF_UNIX, SOCK_STREAM, 0, sock);
	case UNIX_DGRAM:
		return socketpair(AF_UNIX, SOCK_DGRAM, 0, sock);
	default:
		return tcp_pair(sock);
	}
}

void close2(int sock[2])
{
	close(sock[0]);
	close(sock[1]);
}

int recv_all(int fd, void *buf, int len)
{
	int ret, done = 0;

	while (done < len) {
		ret = recv(fd, buf + done, len - done, 0);
		if (ret <= 0)
			break;
		done += ret;
	}
	return done;
}
