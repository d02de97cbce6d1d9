/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Descriptors and credentials on their way through unix sockets, clients that wait to be accepted, netlink, packet, raw and
 * UDP-lite sockets. "check" looks at all and leaves all as it was; "take" accepts the clients and reads what was sent, and starts anew.
 * With a second argument, only what CRIU carries too is there. */
#include "victim.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CLIENTS 3
#define PROTOCOL 0x88b5
#define UDPLITE 136

static int shared, stream[2], credentials[2], held, listening, clients[CLIENTS], netlink, member, packet, raw, lite;

/* Send TEXT through FD with COUNT descriptors. */
static void send_files(int fd, const char *text, const int *files, int count)
{
	char control[CMSG_SPACE(4 * sizeof(int))] = "";
	struct iovec data = { (void *)text, strlen(text) };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	*head = (struct cmsghdr){ CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(head), files, count * sizeof(int));
	MUST(sendmsg(fd, &message, 0));
}

/* Look at what FD would receive into TEXT, and at up to four descriptors; return how many. */
static int look_at_files(int fd, char *text, size_t size, int *files)
{
	char control[CMSG_SPACE(4 * sizeof(int))];
	struct iovec data = { text, size - 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	int count = 0;

	text[got < 0 ? 0 : got] = 0;
	if (got >= 0 && head && head->cmsg_type == SCM_RIGHTS) {
		count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(files, CMSG_DATA(head), count * sizeof(int));
	}
	return count;
}

static void make_files(void)
{
	int pipes[2], nested[2], null = MUST(open("/dev/null", O_RDONLY));

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
	MUST(pipe(pipes));
	MUST(write(pipes[1], "in a pipe", 9));
	held = MUST(open(in_directory("held"), O_RDWR | O_CREAT, 0600));
	MUST(write(held, "0123456789", 10));
	MUST(lseek(held, 3, SEEK_SET));
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, nested));
	send_files(nested[0], "nested", &null, 1);
	MUST(write(stream[0], "plain ", 6));
	send_files(stream[0], "with", (int[]){ pipes[0], nested[1], held }, 3);
	MUST(write(stream[0], " more", 5));
	close(pipes[0]);
	close(pipes[1]);
	close(nested[0]);
	if (!shared)  /* CRIU wants a descriptor of a socket that descriptors wait in */
		close(nested[1]);
	close(null);
}

static void make_credentials(void)
{
	char control[CMSG_SPACE(sizeof(struct ucred))] = "";
	struct iovec data = { "signed", 6 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	struct ucred sender = { getpid(), 12, 34 };
	int one = 1;

	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, credentials));
	MUST(setsockopt(credentials[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	*head = (struct cmsghdr){ CMSG_LEN(sizeof(sender)), SOL_SOCKET, SCM_CREDENTIALS };
	memcpy(CMSG_DATA(head), &sender, sizeof(sender));
	MUST(sendmsg(credentials[0], &message, 0));
}

static struct sockaddr_un name_of(int number)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%d", directory, number);
	return address;
}

static void connect_clients(void)
{
	struct sockaddr_un listener = name_of(0);

	for (int i = CLIENTS - 1; i >= 0; i--) {
		struct sockaddr_un own = name_of(i + 1);

		unlink(own.sun_path);
		clients[i] = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
		MUST(bind(clients[i], (struct sockaddr *)&own, sizeof(own)));
	}
	for (int i = 0; i < CLIENTS; i++)  /* not in the order of their descriptors */
		MUST(connect(clients[(i + 1) % CLIENTS], (struct sockaddr *)&listener, sizeof(listener)));
}

static void make_others(void)
{
	struct sockaddr_nl port = { .nl_family = AF_NETLINK, .nl_groups = 1 << 4 };
	struct sockaddr_ll link = { .sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL), .sll_ifindex = MUST(if_nametoindex("lo")) };
	struct tpacket_req ring = { PAGE, 2, 1024, 8 };
	struct packet_mreq all = { .mr_ifindex = link.sll_ifindex, .mr_type = PACKET_MR_ALLMULTI };
	int version = TPACKET_V2, group = RTNLGRP_BRVLAN, coverage = 20;
	unsigned filter = 1 << 13;

	netlink = MUST(socket(AF_NETLINK, shared ? SOCK_RAW : SOCK_DGRAM, NETLINK_USERSOCK));
	MUST(bind(netlink, (struct sockaddr *)&port, sizeof(port)));
	member = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	if (!shared)
		MUST(setsockopt(member, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)));
	packet = MUST(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	MUST(setsockopt(packet, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)));
	MUST(setsockopt(packet, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)));
	MUST(bind(packet, (struct sockaddr *)&link, sizeof(link)));
	MUST(setsockopt(packet, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)));
	raw = MUST(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	MUST(setsockopt(raw, SOL_RAW, 1, &filter, sizeof(filter)));
	lite = shared ? -1 : socket(AF_INET, SOCK_DGRAM, UDPLITE);  /* not in every kernel */
	if (lite >= 0)
		MUST(setsockopt(lite, UDPLITE, 10, &coverage, sizeof(coverage)));
}

static void check_files(void)
{
	char text[64], inside[64];
	int files[4], null[4], count, waiting = 0;

	count = look_at_files(stream[1], text, sizeof(text), files);
	CHECK(count == 3 && !strcmp(text, "plain with"));
	if (count != 3)
		return;
	CHECK(ioctl(files[0], FIONREAD, &waiting) == 0 && waiting == 9);
	CHECK(look_at_files(files[1], inside, sizeof(inside), null) == 1 && !strcmp(inside, "nested"));
	CHECK(read(null[0], inside, 1) == 0);
	close(null[0]);
	CHECK(lseek(files[2], 2, SEEK_CUR) == 5 && lseek(held, -2, SEEK_CUR) == 3);
	for (int i = 0; i < count; i++)
		close(files[i]);
	CHECK(ioctl(stream[1], FIONREAD, &waiting) == 0 && waiting == 15);
}

static void check_credentials(void)
{
	char control[CMSG_SPACE(sizeof(struct ucred))], text[16];
	struct iovec data = { text, sizeof(text) };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *head;
	struct ucred sender;

	CHECK(recvmsg(credentials[1], &message, MSG_PEEK | MSG_DONTWAIT) == 6);
	head = CMSG_FIRSTHDR(&message);
	CHECK(head && head->cmsg_type == SCM_CREDENTIALS);
	if (!head)
		return;
	memcpy(&sender, CMSG_DATA(head), sizeof(sender));
	CHECK(sender.pid == getpid() && sender.uid == 12 && sender.gid == 34);
}

static void check_others(void)
{
	struct sockaddr_nl port;
	struct sockaddr_ll link;
	unsigned groups[8] = { 0 }, filter = 0;
	int value = 0, type = 0;
	socklen_t size = sizeof(port);

	CHECK(getsockname(netlink, (struct sockaddr *)&port, &size) == 0 && port.nl_pid && port.nl_groups == 1 << 4);
	size = sizeof(type);
	CHECK(getsockopt(netlink, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == (shared ? SOCK_RAW : SOCK_DGRAM));
	size = sizeof(groups);
	CHECK(getsockopt(member, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &size) == 0 && groups[0] == 0 && groups[1] == !shared);
	size = sizeof(port);
	CHECK(getsockname(member, (struct sockaddr *)&port, &size) == 0);
	size = sizeof(link);
	CHECK(getsockname(packet, (struct sockaddr *)&link, &size) == 0 && ntohs(link.sll_protocol) == PROTOCOL);
	CHECK(link.sll_ifindex == (int)if_nametoindex("lo"));
	size = sizeof(value);
	CHECK(getsockopt(packet, SOL_PACKET, PACKET_VERSION, &value, &size) == 0 && value == TPACKET_V2);
	CHECK(fcntl(packet, F_GETFL) & O_NONBLOCK);
	size = sizeof(filter);
	CHECK(getsockopt(raw, SOL_RAW, 1, &filter, &size) == 0 && filter == 1 << 13);
	size = sizeof(value);
	CHECK(lite < 0 || (getsockopt(lite, UDPLITE, 10, &value, &size) == 0 && value == 20));
}

static void accept_clients(void)
{
	for (int i = 0; i < CLIENTS; i++) {
		struct sockaddr_un own, wanted = name_of((i + 1) % CLIENTS + 1);
		socklen_t size = sizeof(own);
		int server = accept(listening, NULL, NULL);

		CHECK(server >= 0 && getpeername(server, (struct sockaddr *)&own, &size) == 0 && !strcmp(own.sun_path, wanted.sun_path));
		close(server);
	}
	for (int i = 0; i < CLIENTS; i++)
		close(clients[i]);
	connect_clients();
}

/* The descriptors come with the bytes that they were sent with, neither before nor after. */
static void take_files(const char *expected)
{
	char text[16] = "";
	int files[4], count;

	if (!shared)
		CHECK(recv(stream[1], text, 6, 0) == 6 && !strcmp(text, "plain "));
	count = look_at_files(stream[1], text, sizeof(text), files);
	CHECK(count == 3 && !strcmp(text, expected));
	for (int i = 0; i < count; i++)
		close(files[i]);
	close(stream[0]);
	close(stream[1]);
	close(held);
	make_files();
}

static void obey(const char *line)
{
	if (!strcmp(line, "take")) {
		if (!shared)
			accept_clients();
		take_files(shared ? "plain with" : "with");
	}
	check_files();
	if (!shared)
		check_credentials();
	check_others();
}

int main(int argc, char **argv)
{
	struct sockaddr_un address;

	begin(argv);
	shared = argc > 2;
	address = name_of(0);
	listening = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	MUST(bind(listening, (struct sockaddr *)&address, sizeof(address)));
	MUST(listen(listening, CLIENTS));
	make_files();
	if (!shared) {
		connect_clients();
		make_credentials();
	}
	make_others();
	serve(obey);
}
