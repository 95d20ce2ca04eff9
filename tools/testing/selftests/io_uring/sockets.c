// SPDX-License-Identifier: GPL-2.0
/*
 * Pairs of connected sockets
 */
#include <fcntl.h>
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <linux/tls.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "sockets.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

static void lo_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
}

static int stream_pair(int protocol, int sock[2])
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);
	int one = 1, fd;

	lo_up();
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM, protocol);
	if (fd < 0)
		return -1;
	sock[0] = socket(AF_INET, SOCK_STREAM, protocol);
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

int tcp_pair(int sock[2])
{
	return stream_pair(0, sock);
}

int tls_pair(int sock[2])
{
	/* one key, which is 0, for both ways */
	const struct tls12_crypto_info_aes_gcm_128 info = {
		.info.version = TLS_1_2_VERSION,
		.info.cipher_type = TLS_CIPHER_AES_GCM_128,
	};
	int i;

	if (tcp_pair(sock))
		return -1;
	for (i = 0; i < 2; i++) {
		if (setsockopt(sock[i], IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) ||
		    setsockopt(sock[i], SOL_TLS, TLS_TX, &info, sizeof(info)) ||
		    setsockopt(sock[i], SOL_TLS, TLS_RX, &info, sizeof(info))) {
			close2(sock);
			return -1;
		}
	}
	return 0;
}

int stuck_tcp_pair(int sock[2])
{
	int small = 4096, big = 4 << 20, flags;
	static const char data[512] = { 1 };

	if (tcp_pair(sock))
		return -1;
	setsockopt(sock[1], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	flags = fcntl(sock[0], F_GETFL);
	fcntl(sock[0], F_SETFL, flags | O_NONBLOCK);
	while (write(sock[0], data, sizeof(data)) > 0)
		;
	fcntl(sock[0], F_SETFL, flags);
	return setsockopt(sock[0], SOL_SOCKET, SO_SNDBUF, &big, sizeof(big));
}

void reset_by(int fd)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd);
}

/* Each is connected to the other. */
static int udp_pair(int sock[2])
{
	struct sockaddr_in addr[2];
	socklen_t len = sizeof(addr[0]);
	int i;

	lo_up();
	for (i = 0; i < 2; i++) {
		addr[i] = (struct sockaddr_in) {
			.sin_family = AF_INET,
			.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		};
		sock[i] = socket(AF_INET, SOCK_DGRAM, 0);
		if (bind(sock[i], (void *)&addr[i], len) ||
		    getsockname(sock[i], (void *)&addr[i], &len))
			return -1;
	}
	return connect(sock[0], (void *)&addr[1], len) ||
		connect(sock[1], (void *)&addr[0], len) ? -1 : 0;
}

int sockets(enum kind kind, int sock[2])
{
	switch (kind) {
	case UNIX_STREAM:
		return socketpair(AF_UNIX, SOCK_STREAM, 0, sock);
	case UNIX_DGRAM:
		return socketpair(AF_UNIX, SOCK_DGRAM, 0, sock);
	case UDP:
		return udp_pair(sock);
	case MPTCP:
		return stream_pair(IPPROTO_MPTCP, sock);
	default:
		return tcp_pair(sock);
	}
}

bool is_stream(enum kind kind)
{
	return kind != UNIX_DGRAM && kind != UDP;
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
