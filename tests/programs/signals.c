/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Signals: what is done on each, what is blocked, what is queued, an alternate stack; and timers of every kind that go on
 * ticking. "take": take what is pending and queue it again. */
#include "victim.h"

#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000 /* set by the C library */
#endif

#define QUEUED 20
#define ONE_SHOT (3000 * 1000000000ul)

static char alternate[1 << 16], *volatile on_stack;
static volatile int handled, ticks[3];
static timer_t timers[3];
static int pending_rt;

static void handler(int signo, siginfo_t *info, void *context)
{
	char here;

	on_stack = &here;
	handled = info->si_value.sival_int;
}

static void tick(int signo, siginfo_t *info, void *context)
{
	ticks[info->si_code == SI_TIMER ? info->si_value.sival_int : 0]++;
}

static void queue(void)
{
	union sigval value;

	for (int i = 0; i < QUEUED; i++) {
		value.sival_int = 500 + i;
		MUST(sigqueue(getpid(), pending_rt, value));
	}
	value.sival_ptr = alternate;
	MUST(sigqueue(getpid(), SIGUSR2, value));
	MUST(raise(SIGTERM));
}

static void make(void)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof(alternate) };
	struct itimerval interval = { { 0, 50000 }, { 0, 50000 } }, distant = { { 4000, 0 }, { 5000, 0 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 6 };
	struct itimerspec fast = { { 0, 40000000 }, { 0, 40000000 } }, once = { { 0, 0 }, { 3000, 0 } };
	sigset_t blocked;

	pending_rt = SIGRTMIN + 4;
	sigaddset(&action.sa_mask, SIGHUP);
	MUST(sigaction(SIGUSR1, &action, NULL));
	MUST(sigaltstack(&stack, NULL));
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_DFL); /* it is ignored in what a shell runs in the background */
	action = (struct sigaction){ .sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART };
	MUST(sigaction(SIGALRM, &action, NULL));
	MUST(sigaction(SIGRTMIN + 6, &action, NULL));
	sigemptyset(&blocked);
	sigaddset(&blocked, pending_rt);
	sigaddset(&blocked, SIGUSR2);
	sigaddset(&blocked, SIGTERM);
	MUST(sigprocmask(SIG_BLOCK, &blocked, NULL));
	queue();
	MUST(setitimer(ITIMER_REAL, &interval, NULL));
	MUST(setitimer(ITIMER_VIRTUAL, &distant, NULL));
	event.sigev_value.sival_int = 1;
	MUST(timer_create(CLOCK_MONOTONIC, &event, &timers[0]));
	MUST(timer_create(CLOCK_REALTIME, &event, &timers[1]));
	event.sigev_value.sival_int = 2;
	MUST(timer_create(CLOCK_BOOTTIME, &event, &timers[2]));
	MUST(timer_settime(timers[0], 0, &fast, NULL));
	MUST(timer_settime(timers[2], 0, &once, NULL));
}

static void check_dispositions(void)
{
	struct sigaction action;
	stack_t stack;
	sigset_t blocked;

	MUST(sigaction(SIGUSR1, NULL, &action));
	CHECK(action.sa_sigaction == handler && (action.sa_flags & ~SA_RESTORER) == (SA_SIGINFO | SA_ONSTACK | SA_RESTART));
	CHECK(sigismember(&action.sa_mask, SIGHUP) == 1 && sigismember(&action.sa_mask, SIGINT) == 0);
	MUST(sigaction(SIGPIPE, NULL, &action));
	CHECK(action.sa_handler == SIG_IGN);
	MUST(sigaction(SIGINT, NULL, &action));
	CHECK(action.sa_handler == SIG_DFL);
	MUST(sigaltstack(NULL, &stack));
	CHECK(stack.ss_sp == alternate && stack.ss_size == sizeof(alternate) && stack.ss_flags == 0);
	MUST(sigprocmask(SIG_BLOCK, NULL, &blocked));
	for (int signo = 1; signo < SIGRTMIN; signo++)
		CHECK(sigismember(&blocked, signo) == (signo == SIGUSR2 || signo == SIGTERM));
}

static void check_handler(void)
{
	union sigval value = { .sival_int = 4711 };

	handled = 0;
	MUST(sigqueue(getpid(), SIGUSR1, value));
	CHECK(handled == 4711);
	CHECK(on_stack >= alternate && on_stack < alternate + sizeof(alternate));
}

static void take(void)
{
	const struct timespec none = { 0, 0 };
	sigset_t set;
	siginfo_t info;

	sigemptyset(&set);
	sigaddset(&set, pending_rt);
	for (int i = 0; i < QUEUED; i++) {
		CHECK(sigtimedwait(&set, &info, &none) == pending_rt && info.si_value.sival_int == 500 + i);
		CHECK(info.si_code == SI_QUEUE && info.si_pid == getpid() && info.si_uid == getuid());
	}
	CHECK(sigtimedwait(&set, &info, &none) == -1);
	sigaddset(&set, SIGUSR2);
	CHECK(sigtimedwait(&set, &info, &none) == SIGUSR2 && info.si_value.sival_ptr == alternate);
	sigaddset(&set, SIGTERM);
	/* The C library tells SI_TKILL as SI_USER here. */
	CHECK(sigtimedwait(&set, &info, &none) == SIGTERM && info.si_code == SI_USER);
	CHECK(sigtimedwait(&set, &info, &none) == -1);
	queue();
}

static void check_timers(void)
{
	struct itimerval value;
	struct itimerspec spec;
	struct timespec end, now;

	ticks[0] = ticks[1] = 0;
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += 20;
	do {
		pause();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((!ticks[0] || !ticks[1]) && now.tv_sec < end.tv_sec);
	CHECK(ticks[0] && ticks[1] && !ticks[2]);
	MUST(getitimer(ITIMER_REAL, &value));
	CHECK(value.it_interval.tv_usec == 50000);
	MUST(getitimer(ITIMER_VIRTUAL, &value));
	CHECK(value.it_interval.tv_sec == 4000 && value.it_value.tv_sec >= 4900 && value.it_value.tv_sec <= 5000);
	MUST(timer_gettime(timers[0], &spec));
	CHECK(spec.it_interval.tv_nsec == 40000000 && spec.it_interval.tv_sec == 0);
	MUST(timer_gettime(timers[1], &spec));
	CHECK(!spec.it_value.tv_sec && !spec.it_value.tv_nsec);
	MUST(timer_gettime(timers[2], &spec));
	CHECK(spec.it_value.tv_sec > 2000 && spec.it_value.tv_sec < 3000 && !spec.it_interval.tv_sec);
}

static void obey(const char *line)
{
	check_dispositions();
	check_handler();
	take();
	check_timers();
}

int main(int argc, char **argv)
{
	begin(argv);
	make();
	serve(obey);
}
