/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Holds many things at once that cannot be carried. It writes each that this kernel gives to DIRECTORY/held, a line
 * "PID<tab>WHERE<tab>WORD": whose, "fd N", "mapping" or what else, and a word of why. A thread waits where the kernel tells it of any stop; "check"
 * tells whether there was one. */
#include "victim.h"
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int held, watched, stops;

static void note(pid_t pid, const char *where, int fd, const char *why)
{
	if (fd >= 0)
		dprintf(held, "%d\tfd %d\t%s\n", pid, fd, why);
	else
		dprintf(held, "%d\t%s\t%s\n", pid, where, why);
}

/* Note descriptor FD, if the kernel gave one. */
static int file(int fd, const char *why)
{
	if (fd >= 0)
		note(getpid(), "", fd, why);
	return fd;
}

static void area(int fd, size_t size, off_t offset, const char *why)
{
	if (fd >= 0 && mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset) != MAP_FAILED)
		note(getpid(), "mapping", -1, why);
}

static void open_rings(void)
{
	struct io_uring_params parameters = { 0 };
	int fd = file(syscall(SYS_io_uring_setup, 4, &parameters), "io_uring");

	area(fd, PAGE, IORING_OFF_SQ_RING, "io_uring");
}

static void count_events(void)
{
	struct perf_event_attr attributes = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(attributes), .config = PERF_COUNT_SW_DUMMY };
	int fd = file(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0), "performance counter");

	area(fd, 2 * PAGE, 0, "perf_event");
}

static void keep_map(void)
{
	union bpf_attr attributes = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };

	file(syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes)), "BPF map");
}

static void catch_faults(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = file(syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY), "userfaultfd");

	if (fd >= 0)
		MUST(ioctl(fd, UFFDIO_API, &api));
}

static void ask_supervisor(void)
{
	struct sock_filter ask[] = { /* for one system call that nobody makes */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_quotactl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, ask };

	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	file(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program), "seccomp listener");
}

/* Start a child that leaves one of our namespaces. */
static void child_elsewhere(int flag, const char *name)
{
	int ready[2];
	char byte = 0;
	pid_t child;

	MUST(pipe2(ready, O_CLOEXEC));
	child = MUST(fork());
	if (!child) {
		MUST(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
		byte = !unshare(flag);
		MUST(write(ready[1], &byte, 1));
		close(ready[0]), close(ready[1]);
		for (;;)
			pause();
	}
	MUST(read(ready[0], &byte, 1));
	close(ready[0]), close(ready[1]);
	if (byte)
		note(child, name, -1, "namespace");
}

/* A stop, even one that nobody sees, ends epoll_wait(2) with EINTR (signal(7)). */
static void *notice_stops(void *unused)
{
	struct epoll_event event;

	for (;;)
		if (epoll_wait(watched, &event, 1, -1) < 0)
			stops++;
	return NULL;
}

static void obey(const char *line)
{
	CHECK(stops == 0);
}

int main(int argc, char **argv)
{
	aio_context_t context = 0;
	pthread_t thread;

	begin(argv);
	held = MUST(open(in_directory("held"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	watched = MUST(epoll_create1(EPOLL_CLOEXEC));
	child_elsewhere(CLONE_NEWUTS, "UTS namespace");
	child_elsewhere(CLONE_NEWNET, "network namespace");
	child_elsewhere(CLONE_NEWNS, "mount namespace");
	child_elsewhere(CLONE_NEWUSER, "user namespace");
	open_rings();
	count_events();
	keep_map();
	catch_faults();
	area(open("/dev/mem", O_RDWR | O_CLOEXEC), PAGE, 0xf0000, "device|mem");
	file(socket(38, SOCK_SEQPACKET, 0), "kernel cryptography"); /* AF_ALG */
	file(socket(40, SOCK_STREAM, 0), "vsock"); /* AF_VSOCK */
	file(syscall(SYS_fsopen, "tmpfs", 0), "filesystem that is being configured");
	file(syscall(447, 0), "secret memory"); /* memfd_secret */
	file(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY), "decides on accesses");
	file(syscall(SYS_pidfd_open, 1, 0), "pidfd|process");
	ask_supervisor();
	close(held);
	MUST(pthread_create(&thread, NULL, notice_stops, NULL) ? -1 : 0);
	serve(obey);
}
