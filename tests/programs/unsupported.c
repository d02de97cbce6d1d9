/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Holds one thing that cannot be carried, the one that the second argument names, as descriptor 50 where it is one. */
#include "victim.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/socket.h>

static void hold(int fd)
{
	MUST(fd);
	MUST(dup2(fd, 50));
	close(fd);
}

static void io_uring(void)
{
	struct io_uring_params parameters = { 0 };

	hold(syscall(SYS_io_uring_setup, 4, &parameters));
	MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 50, IORING_OFF_SQ_RING));
}

static void fanotify(void)
{
	hold(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY));
}

static void established(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t size = sizeof(address);
	int listener = MUST(socket(AF_INET, SOCK_STREAM, 0)), client = MUST(socket(AF_INET, SOCK_STREAM, 0));

	MUST(bind(listener, (struct sockaddr *)&address, size));
	MUST(listen(listener, 1));
	MUST(getsockname(listener, (struct sockaddr *)&address, &size));
	MUST(connect(client, (struct sockaddr *)&address, size));
	MUST(accept(listener, NULL, NULL));
	hold(client);
}

static void uffd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = MUST(syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY));

	MUST(ioctl(fd, UFFDIO_API, &api));
	hold(fd);
}

static void system_v(void)
{
	int id = MUST(shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600));
	void *at = shmat(id, NULL, 0);

	shmctl(id, IPC_RMID, NULL);
	MUST((long)at);
	MUST(munmap(at, PAGE));
}

static void seccomp(void)
{
	struct sock_filter ask[] = { /* a supervisor, for one system call that nobody makes */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_quotactl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, ask };

	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void pty(void)
{
	hold(MUST(open("/dev/ptmx", O_PATH)));
}

static void namespace(void)
{
	MUST(unshare(0x08000000)); /* CLONE_NEWIPC */
}


static void lock(void)
{
	struct flock lock = { .l_type = F_WRLCK };
	int fd = MUST(open(in_directory("locked"), O_RDWR | O_CREAT, 0600));

	hold(fd);
	MUST(fcntl(50, F_SETLK, &lock));
}

static void ghost(void)
{
	int fd = MUST(open(in_directory("big"), O_RDWR | O_CREAT, 0600));

	MUST(unlink(in_directory("big")));
	for (int i = 0; i < 512; i++)
		MUST(write(fd, in_directory("x"), 512) + write(fd, problems, sizeof(problems)));
	hold(fd);
}

static const struct {
	const char *name;
	void (*make)(void);
} kinds[] = {
	{ "io_uring", io_uring }, { "fanotify", fanotify }, { "established", established }, { "userfaultfd", uffd }, { "system_v", system_v },
	{ "seccomp", seccomp }, { "pty", pty }, { "namespace", namespace }, { "lock", lock }, { "ghost", ghost },
};

static int netlink_with_an_answer(void)
{
	struct { struct nlmsghdr head; struct rtgenmsg body; } ask = {
		{ sizeof(ask), RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { AF_UNSPEC }
	};
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

	send(fd, &ask, sizeof(ask), 0);
	return fd;
}

static void obey(const char *line)
{
}

int main(int argc, char **argv)
{
	begin(argv);
	for (size_t kind = 0; kind < sizeof(kinds) / sizeof(*kinds); kind++)
		if (!strcmp(argv[2], kinds[kind].name))
			kinds[kind].make();
	if (!strcmp(argv[2], "pidfd"))
		hold(syscall(SYS_pidfd_open, 1, 0));
	else if (!strcmp(argv[2], "netlink"))
		hold(netlink_with_an_answer());
	serve(obey);
}
