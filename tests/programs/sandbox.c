/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Seccomp filters: one that all threads have and a child inherited, one more of the child's, and one that is added when it
 * is asked for. A second child is in strict mode. */
#include "victim.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

static int thread_in[2], thread_out[2], child_in[2], child_out[2], strict_in[2], strict_out[2];
static int added;

static long refuse(int number, int error, int flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, code };

	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int refused(int number, int error)
{
	errno = 0;
	return syscall(number, 0, 0, 0, 0, 0, 0) == -1 && errno == error;
}

/* Exactly those filters bind this thread that should. */
static int bound(int in_child)
{
	return refused(SYS_getpgid, ENOTTY) && refused(SYS_swapoff, EXDEV) &&
	       refused(SYS_getpriority, EDOM) == in_child && refused(SYS_getppid, ERANGE) == added;
}

static void *run_thread(void *arg)
{
	char letter;

	while (read(thread_in[0], &letter, 1) == 1)
		MUST(write(thread_out[1], bound(0) ? "g" : "b", 1));
	return arg;
}

static void run_child(void)
{
	char letter;

	MUST(refuse(SYS_getpriority, EDOM, SECCOMP_FILTER_FLAG_LOG));
	do
		MUST(write(child_out[1], bound(1) ? "g" : "b", 1));
	while (read(child_in[0], &letter, 1) == 1);
	_exit(0);
}

static void run_strict(void)
{
	char letter;

	MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
	do
		write(strict_out[1], "g", 1);
	while (read(strict_in[0], &letter, 1) == 1 && letter == '?');
	syscall(SYS_getpid); /* its end */
}

static int answers_well(int in, int out)
{
	char letter = 'b';

	if (in >= 0)
		MUST(write(in, "?", 1));
	MUST(read(out, &letter, 1));
	return letter == 'g';
}

static void obey(const char *line)
{
	int status;

	if (!strcmp(line, "add")) {
		CHECK(refuse(SYS_getppid, ERANGE, SECCOMP_FILTER_FLAG_TSYNC) == 0);
		added = 1;
	}
	CHECK(bound(0));
	CHECK(answers_well(thread_in[1], thread_out[0]));
	CHECK(answers_well(child_in[1], child_out[0]));
	CHECK(answers_well(strict_in[1], strict_out[0]));
	if (!strcmp(line, "break")) {
		MUST(write(strict_in[1], "!", 1));
		MUST(wait(&status));
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
}

int main(int argc, char **argv)
{
	pthread_t thread;

	begin(argv);
	MUST(pipe(strict_in));
	MUST(pipe(strict_out));
	MUST(pipe(thread_in));
	MUST(pipe(thread_out));
	MUST(pipe(child_in));
	MUST(pipe(child_out));
	if (!MUST(fork()))
		run_strict();
	pthread_create(&thread, NULL, run_thread, NULL);
	MUST(refuse(SYS_getpgid, ENOTTY, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG));
	MUST(refuse(SYS_swapoff, EXDEV, SECCOMP_FILTER_FLAG_TSYNC));
	if (!MUST(fork()))
		run_child();
	if (!answers_well(-1, child_out[0]) || !answers_well(-1, strict_out[0]))
		return 1;
	serve(obey);
}
