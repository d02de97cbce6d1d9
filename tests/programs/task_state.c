/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* A process with two threads that holds most kinds of state that a task can have besides memory and descriptors.
 * Prints "ready" when all is set, then waits. Arguments: "full"; "root": as full, but the credentials stay;
 * "plain": sets nothing, a stub to be given another's state. */
#define _GNU_SOURCE
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>


static enum { FULL, ROOT, PLAIN } mode;
static char stacks[2][1 << 16];
static pthread_barrier_t barrier;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

#define MUST(call)              \
	do {                        \
		if ((call) < 0)         \
			fail(#call);        \
	} while (0)

static void handler(int signo, siginfo_t *info, void *context)
{
}

static void fill_vector_registers(void)
{
	static const char content[64] = "the sixty-four bytes that are to be found in a register again.";

	if (__builtin_cpu_supports("avx512f")) {
		__asm__ volatile("vmovdqu64 (%0), %%zmm3\n vmovdqu64 (%0), %%zmm19\n kmovw %%eax, %%k3" ::"r"(content), "a"(0x1234));
	} else if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vmovdqu (%0), %%ymm3" ::"r"(content));
	__asm__ volatile("movdqu (%0), %%xmm5\n fldpi" ::"r"(content));
}

/* Wait with the registers as they are, for no function may be called in between. */
static void wait_for_ever(void)
{
	fill_vector_registers();
	for (;;)
		__asm__ volatile("syscall" ::"a"(SYS_pause) : "rcx", "r11", "memory");
}

static void set_stack(int number)
{
	stack_t stack = { .ss_sp = stacks[number], .ss_size = sizeof(stacks[number]) };

	MUST(sigaltstack(&stack, NULL));
}

static void set_capabilities(void)
{
	struct {
		unsigned version;
		int pid;
	} header = { 0x20080522, 0 };
	struct {
		unsigned effective, permitted, inheritable;
	} sets[2];

	MUST(prctl(PR_CAPBSET_DROP, 9, 0, 0, 0));
	MUST(syscall(SYS_capget, &header, sets));
	sets[0].inheritable = 1 << 10 | 1 << 13;
	sets[0].permitted = 1 << 10 | 1 << 13 | 1 << 5;
	sets[0].effective = 1 << 10;
	sets[1].effective = sets[1].permitted = sets[1].inheritable = 0;
	MUST(syscall(SYS_capset, &header, sets));
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 10, 0, 0));
}

static void *second_thread(void *unused)
{
	sigset_t blocked;

	if (mode != PLAIN) {
		cpu_set_t cpus;
		struct sched_param param = { .sched_priority = 0 };

		set_stack(1);
		pthread_setname_np(pthread_self(), "second one");
		sigemptyset(&blocked);
		sigaddset(&blocked, SIGRTMIN + 3);
		sigaddset(&blocked, SIGURG);
		sigaddset(&blocked, SIGWINCH);
		MUST(pthread_sigmask(SIG_BLOCK, &blocked, NULL));
		CPU_ZERO(&cpus);
		CPU_SET(0, &cpus);
		MUST(sched_setaffinity(0, sizeof(cpus), &cpus));
		MUST(sched_setscheduler(0, SCHED_BATCH, &param));
		MUST(setpriority(PRIO_PROCESS, syscall(SYS_gettid), 7));
		MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 3));
		MUST(prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0));
		if (mode == FULL)
			MUST(syscall(SYS_setresuid, 1000, 1001, 1002));
		MUST(raise(SIGWINCH));
	}
	pthread_barrier_wait(&barrier);
	wait_for_ever();
	return NULL;
}

static void set_limits(void)
{
	struct rlimit files = { 333, 444 }, core = { 0, 4096 };

	MUST(setrlimit(RLIMIT_NOFILE, &files));
	MUST(setrlimit(RLIMIT_CORE, &core));
}

static void set_signals(void)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };
	sigset_t blocked;

	sigaddset(&action.sa_mask, SIGUSR2);
	MUST(sigaction(SIGUSR1, &action, NULL));
	MUST(sigaction(SIGCHLD, &action, NULL));
	signal(SIGPIPE, SIG_IGN);
	set_stack(0);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMIN + 3);
	sigaddset(&blocked, SIGURG);
	sigaddset(&blocked, SIGHUP);
	MUST(sigprocmask(SIG_BLOCK, &blocked, NULL));
}

static void queue_signals(void)
{
	union sigval value = { .sival_int = 77 };

	MUST(raise(SIGURG));
	MUST(kill(getpid(), SIGURG));
	MUST(sigqueue(getpid(), SIGRTMIN + 3, value));
	value.sival_int = 78;
	MUST(sigqueue(getpid(), SIGRTMIN + 3, value));
	MUST(raise(SIGHUP));
}

static void set_timers(pid_t thread)
{
	struct itimerval interval = { { 500, 250 }, { 1000, 0 } };
	struct itimerspec spec = { { 3000, 5 }, { 4000, 7 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 5, .sigev_value.sival_ptr = stacks };
	int ids[6], number;

	MUST(setitimer(ITIMER_REAL, &interval, NULL));
	MUST(setitimer(ITIMER_PROF, &interval, NULL));
	for (number = 0; number < 5; number++)
		MUST(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &ids[number]));
	event.sigev_notify = SIGEV_THREAD_ID;
	event._sigev_un._tid = thread;
	MUST(syscall(SYS_timer_create, CLOCK_THREAD_CPUTIME_ID, &event, &ids[5]));
	MUST(syscall(SYS_timer_delete, ids[0]));
	MUST(syscall(SYS_timer_delete, ids[2]));
	MUST(syscall(SYS_timer_settime, ids[3], 0, &spec, NULL));
	MUST(syscall(SYS_timer_settime, ids[5], 0, &spec, NULL));
}

static void set_credentials(void)
{
	gid_t groups[] = { 7, 2000, 5 };

	MUST(syscall(SYS_setgroups, 3, groups));
	MUST(syscall(SYS_setresgid, 100, 101, 102));
	MUST(prctl(PR_SET_SECUREBITS, 1 << 2 | 1 << 0, 0, 0, 0));
	MUST(syscall(SYS_setresuid, 65534, 65533, 65532));
	set_capabilities();
}

static void set_process(void)
{
	set_limits();
	set_timers(syscall(SYS_gettid));
	MUST(prctl(PR_SET_NAME, "the \"state\"", 0, 0, 0));
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
	MUST(personality(personality(0xffffffff) | ADDR_COMPAT_LAYOUT));
	MUST(setpriority(PRIO_PROCESS, 0, -3));
	if (mode == FULL)
		set_credentials();
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2, 0, 0, 0));
}

int main(int argc, char **argv)
{
	pthread_t thread;

	mode = !strcmp(argv[1], "plain") ? PLAIN : !strcmp(argv[1], "root") ? ROOT : FULL;
	pthread_barrier_init(&barrier, NULL, 2);
	if (mode != PLAIN)
		set_signals();
	if (pthread_create(&thread, NULL, second_thread, NULL))
		fail("pthread_create");
	pthread_barrier_wait(&barrier);
	if (mode != PLAIN) {
		queue_signals();
		set_process();
	}
	puts("ready");
	fflush(stdout);
	wait_for_ever();
}
