/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* What a program waits on and talks through: pipes and sockets with data in them, epoll, eventfd, timerfd, signalfd,
 * listening sockets, files at an offset, a file without a name. "check" looks at all and leaves all as it was. */
#include "victim.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static int pipes[2], full_pipe[2], stream[2], packets[2], event, semaphore, timer, expired, signals, epoll, inner, listening, local, ghost, appended, same, duplicate;

static int listening_tcp(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), one = 1;

	MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	MUST(listen(fd, 17));
	return fd;
}

static int listening_unix(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", directory);
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	MUST(listen(fd, 5));
	return fd;
}

static void watch(int set, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event watched = { .events = events, .data.u64 = data };

	MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &watched));
}

static void send_packets(void)
{
	MUST(send(packets[0], "one", 3, 0));
	MUST(send(packets[0], "", 0, 0));
	MUST(send(packets[0], "three", 5, 0));
}

static void make(void)
{
	struct itimerspec often = { { 0, 30000000 }, { 0, 30000000 } }, soon = { { 0, 0 }, { 0, 1 } };
	struct pollfd wait;
	sigset_t mask;

	MUST(pipe2(pipes, O_NONBLOCK));
	MUST(write(pipes[1], "held in a pipe", 14));
	MUST(pipe(full_pipe));
	MUST(fcntl(full_pipe[1], F_SETFL, O_NONBLOCK));
	MUST(fcntl(full_pipe[1], F_SETPIPE_SZ, 1 << 17));
	while (write(full_pipe[1], "0123456789abcdef", 16) > 0)
		;
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
	MUST(write(stream[0], "in flight", 9));
	MUST(write(stream[1], "and back", 8));
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
	send_packets();
	event = MUST(eventfd(41, EFD_NONBLOCK));
	semaphore = MUST(eventfd(3, EFD_SEMAPHORE | EFD_CLOEXEC));
	timer = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
	MUST(timerfd_settime(timer, 0, &often, NULL));
	expired = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	MUST(timerfd_settime(expired, 0, &soon, NULL));
	wait = (struct pollfd){ expired, POLLIN, 0 };
	MUST(poll(&wait, 1, -1));
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	MUST(sigprocmask(SIG_BLOCK, &mask, NULL));
	signals = MUST(signalfd(-1, &mask, SFD_NONBLOCK));
	MUST(raise(SIGUSR1));
	listening = listening_tcp();
	local = listening_unix();
	epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
	inner = MUST(epoll_create1(0));
	watch(inner, pipes[0], EPOLLIN, 11);
	watch(epoll, inner, EPOLLIN, 12);
	watch(epoll, event, EPOLLIN | EPOLLET, 13);
	watch(epoll, listening, EPOLLIN | EPOLLEXCLUSIVE, 14);
	ghost = MUST(open(in_directory("ghost"), O_RDWR | O_CREAT, 0600));
	MUST(write(ghost, "seen by nobody", 14));
	MUST(unlink(in_directory("ghost")));
	appended = MUST(open(in_directory("log"), O_WRONLY | O_CREAT | O_APPEND, 0640));
	same = MUST(open(in_directory("data"), O_RDWR | O_CREAT, 0600));
	MUST(write(same, "0123456789", 10));
	MUST(lseek(same, 4, SEEK_SET));
	duplicate = MUST(fcntl(same, F_DUPFD_CLOEXEC, 200));
}

static void check_pipes(void)
{
	static char content[1 << 17];
	char text[64];

	CHECK(read(pipes[0], text, sizeof(text)) == 14 && !memcmp(text, "held in a pipe", 14));
	CHECK(read(pipes[0], text, sizeof(text)) == -1 && errno == EAGAIN);
	MUST(write(pipes[1], "held in a pipe", 14));
	CHECK(fcntl(full_pipe[0], F_GETPIPE_SZ) == 1 << 17);
	CHECK(write(full_pipe[1], "x", 1) == -1 && errno == EAGAIN);
	CHECK(read(full_pipe[0], content, sizeof(content)) == sizeof(content));
	for (size_t at = 0; at < sizeof(content); at++)
		if (content[at] != "0123456789abcdef"[at % 16]) {
			problem("full pipe is wrong at %zu", at);
			break;
		}
	MUST(write(full_pipe[1], content, sizeof(content)));
	CHECK(fcntl(full_pipe[1], F_GETFL) == (O_WRONLY | O_NONBLOCK) && fcntl(full_pipe[0], F_GETFL) == O_RDONLY);
}

static void check_sockets(void)
{
	char text[64];

	CHECK(recv(stream[1], text, sizeof(text), MSG_DONTWAIT) == 9 && !memcmp(text, "in flight", 9));
	CHECK(recv(stream[0], text, sizeof(text), MSG_DONTWAIT) == 8 && !memcmp(text, "and back", 8));
	MUST(write(stream[0], "in flight", 9));
	MUST(write(stream[1], "and back", 8));
	CHECK(recv(packets[1], text, sizeof(text), MSG_DONTWAIT) == 3 && !memcmp(text, "one", 3));
	CHECK(recv(packets[1], text, sizeof(text), MSG_DONTWAIT) == 0);
	CHECK(recv(packets[1], text, sizeof(text), MSG_DONTWAIT) == 5 && !memcmp(text, "three", 5));
	CHECK(recv(packets[1], text, sizeof(text), MSG_DONTWAIT) == -1 && errno == EAGAIN);
	send_packets();
}

static void check_connection(int listener, struct sockaddr *address, socklen_t size)
{
	int client = MUST(socket(address->sa_family, SOCK_STREAM, 0)), server;
	char text[8];

	CHECK(connect(client, address, size) == 0);
	server = accept(listener, NULL, NULL);
	CHECK(server >= 0);
	CHECK(write(client, "hello", 5) == 5 && read(server, text, 8) == 5);
	close(server);
	close(client);
}

static void check_listeners(void)
{
	struct sockaddr_in inet;
	struct sockaddr_un unix_address;
	socklen_t size = sizeof(inet);

	MUST(getsockname(listening, (struct sockaddr *)&inet, &size));
	check_connection(listening, (struct sockaddr *)&inet, size);
	size = sizeof(unix_address);
	MUST(getsockname(local, (struct sockaddr *)&unix_address, &size));
	check_connection(local, (struct sockaddr *)&unix_address, size);
	CHECK(fcntl(listening, F_GETFD) == FD_CLOEXEC && fcntl(local, F_GETFD) == 0);
}

static void check_counters(void)
{
	struct signalfd_siginfo info;
	uint64_t value;

	CHECK(read(event, &value, 8) == 8 && value == 41);
	MUST(write(event, &value, 8));
	for (int i = 0; i < 3; i++)
		CHECK(read(semaphore, &value, 8) == 8 && value == 1);
	value = 3;
	MUST(write(semaphore, &value, 8));
	CHECK(read(timer, &value, 8) == 8 && value >= 1);
	CHECK(read(timer, &value, 8) == 8 && value >= 1);
	CHECK(poll(&(struct pollfd){ expired, POLLIN, 0 }, 1, 0) == 1);
	CHECK(read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR1);
	MUST(raise(SIGUSR1));
}

static void check_epoll(void)
{
	struct epoll_event found[8];
	int count = epoll_wait(epoll, found, 8, 0), seen = 0;

	for (int i = 0; i < count; i++)
		seen |= 1 << (found[i].data.u64 - 11);
	CHECK(seen & 1 << 1);
	CHECK(epoll_wait(inner, found, 8, 0) == 1 && found[0].data.u64 == 11);
	CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, listening, NULL) == 0);
	watch(epoll, listening, EPOLLIN | EPOLLEXCLUSIVE, 14);
}

static void check_files(void)
{
	char text[32] = "";
	struct stat stat;

	CHECK(pread(ghost, text, sizeof(text), 0) == 14 && !memcmp(text, "seen by nobody", 14));
	CHECK(lseek(ghost, 0, SEEK_CUR) == 14 && fstat(ghost, &stat) == 0 && stat.st_nlink == 0);
	CHECK(fcntl(appended, F_GETFL) & O_APPEND);
	CHECK(lseek(same, 1, SEEK_CUR) == 5 && lseek(duplicate, -1, SEEK_CUR) == 4);
	CHECK(fcntl(duplicate, F_GETFD) == FD_CLOEXEC);
}

static void obey(const char *line)
{
	check_pipes();
	check_sockets();
	check_listeners();
	check_counters();
	check_epoll();
	check_files();
}

int main(int argc, char **argv)
{
	begin(argv);
	make();
	serve(obey);
}
