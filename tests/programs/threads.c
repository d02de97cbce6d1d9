/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Many threads, each with its own thread-local data, signal mask, name and niceness, waiting in all kinds of system
 * calls; each goes on correctly, and finds its own still there, when it is woken. With a second argument the calls that a mere
 * stop may end with EINTR (signal(7)) are made again then: an engine that is killed cannot see to that. */
#include "victim.h"
#include <linux/futex.h>
#include <linux/rseq.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/rseq.h>

#define COUNT 12

enum { FUTEX, POLL, EPOLL, NANOSLEEP, READ, CONDITION, SIGWAIT, SELECT };

static __thread uint64_t own[64];
static __thread char *name_of_own;
static pthread_t threads[COUNT];
static pthread_barrier_t started;
static uint32_t words[COUNT];
static int events[COUNT], epolls[COUNT];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, robust;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int generation, lenient;
static char failures[COUNT][200];
static pthread_mutex_t failing = PTHREAD_MUTEX_INITIALIZER;
static pthread_t holder;
static uint32_t holding, let_go;

static void fail_in(long number, const char *what)
{
	pthread_mutex_lock(&failing);
	snprintf(failures[number], sizeof(failures[number]), "thread %ld: %s (errno %d)", number, what, errno);
	pthread_mutex_unlock(&failing);
}

#define NEED(condition)               \
	do {                              \
		if (!(condition))             \
			fail_in(number, #condition); \
	} while (0)

static void look(long number)
{
	sigset_t mask;
	char name[16], wanted[16];
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	NEED(wrong_at(own, sizeof(own), 1000 + number) == -1);
	NEED(name_of_own == failures[number]);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	NEED(sigismember(&mask, SIGRTMIN + number) == 1);
	NEED(sigismember(&mask, SIGRTMIN + (number + 1) % COUNT) == 0);
	prctl(PR_GET_NAME, name);
	snprintf(wanted, sizeof(wanted), "thread %ld", number);
	NEED(!strcmp(name, wanted));
	NEED(getpriority(PRIO_PROCESS, syscall(SYS_gettid)) == number);
	errno = 0;
	NEED(__rseq_size && (int32_t)area->cpu_id >= 0);
	/* Registered: the same again is refused so, by EBUSY, and anything else by another error. */
	NEED(syscall(SYS_rseq, area, 32, 0, 0x53053053) == -1 && errno == EBUSY);
}

static void wait_once(long number, int seen)
{
	uint64_t value;
	struct pollfd pollfd = { events[number], POLLIN, 0 };
	struct epoll_event event;
	struct timespec second = { 1, 0 };
	fd_set set;
	sigset_t signals;
	int found;

	switch (number % 8) {
	case FUTEX:
		while (__atomic_load_n(&words[number], __ATOMIC_SEQ_CST) == (uint32_t)seen)
			if (syscall(SYS_futex, &words[number], FUTEX_WAIT, seen, NULL, NULL, 0) < 0 && errno != EAGAIN)
				fail_in(number, "futex");
		break;
	case POLL:
		NEED(poll(&pollfd, 1, -1) == 1);
		NEED(read(events[number], &value, 8) == 8 && value == 1);
		break;
	case EPOLL:
		do
			found = epoll_wait(epolls[number], &event, 1, 3600000);
		while (lenient && found < 0 && errno == EINTR);
		NEED(found == 1 && event.data.u64 == 0x1234500000000ul + number);
		NEED(read(events[number], &value, 8) == 8 && value == 1);
		break;
	case NANOSLEEP:
		while (__atomic_load_n(&words[number], __ATOMIC_SEQ_CST) == (uint32_t)seen)
			NEED(nanosleep(&second, NULL) == 0);
		break;
	case READ:
		NEED(read(events[number], &value, 8) == 8 && value == 1);
		break;
	case CONDITION:
		pthread_mutex_lock(&mutex);
		while (generation == seen)
			pthread_cond_wait(&condition, &mutex);
		pthread_mutex_unlock(&mutex);
		break;
	case SIGWAIT:
		sigemptyset(&signals);
		sigaddset(&signals, SIGRTMIN + number);
		do
			found = sigwaitinfo(&signals, NULL);
		while (lenient && found < 0 && errno == EINTR);
		NEED(found == SIGRTMIN + number);
		break;
	case SELECT:
		FD_ZERO(&set);
		FD_SET(events[number], &set);
		NEED(select(events[number] + 1, &set, NULL, NULL, NULL) == 1);
		NEED(read(events[number], &value, 8) == 8 && value == 1);
		break;
	}
}

static void *run(void *argument)
{
	long number = (long)argument;
	sigset_t mask;
	char name[16];

	fill(own, sizeof(own), 1000 + number);
	name_of_own = failures[number];
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + number);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	snprintf(name, sizeof(name), "thread %ld", number);
	prctl(PR_SET_NAME, name);
	MUST(setpriority(PRIO_PROCESS, syscall(SYS_gettid), number));
	for (int seen = 0;; seen++) {
		pthread_barrier_wait(&started);
		wait_once(number, seen);
		look(number);
	}
	return NULL;
}

static void futex_until(uint32_t *word, uint32_t wanted)
{
	while (__atomic_load_n(word, __ATOMIC_SEQ_CST) != wanted)
		syscall(SYS_futex, word, FUTEX_WAIT, !wanted, NULL, NULL, 0);
}

static void futex_set(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Dies with the robust mutex in hand: the kernel finds it in the thread's robust list and tells the next owner. */
static void *hold(void *argument)
{
	pthread_mutex_lock(&robust);
	futex_set(&holding, 1);
	futex_until(&let_go, 1);
	return NULL;
}

static void start_holder(void)
{
	holding = let_go = 0;
	pthread_create(&holder, NULL, hold, NULL);
	futex_until(&holding, 1);
}

static void check_robust(void)
{
	CHECK(pthread_mutex_trylock(&robust) == EBUSY);
	futex_set(&let_go, 1);
	pthread_join(holder, NULL);
	CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD);
	pthread_mutex_consistent(&robust);
	pthread_mutex_unlock(&robust);
	start_holder();
}

static void wake(void)
{
	uint64_t one = 1;

	pthread_mutex_lock(&mutex);
	generation++;
	pthread_cond_broadcast(&condition);
	pthread_mutex_unlock(&mutex);
	for (int number = 0; number < COUNT; number++) {
		__atomic_store_n(&words[number], generation, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &words[number], FUTEX_WAKE, 1, NULL, NULL, 0);
		if (number % 8 == SIGWAIT)
			pthread_kill(threads[number], SIGRTMIN + number);
		else if (number % 8 != FUTEX && number % 8 != NANOSLEEP && number % 8 != CONDITION)
			MUST(write(events[number], &one, 8));
	}
}

static void obey(const char *line)
{
	wake();
	pthread_barrier_wait(&started); /* all have looked, and will wait again */
	pthread_mutex_lock(&failing);
	for (int number = 0; number < COUNT; number++) {
		if (failures[number][0])
			problem("%s", failures[number]);
		failures[number][0] = 0;
	}
	pthread_mutex_unlock(&failing);
	check_robust();
}

int main(int argc, char **argv)
{
	pthread_mutexattr_t attributes;

	begin(argv);
	lenient = argc > 2;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attributes);
	pthread_barrier_init(&started, NULL, COUNT + 1);
	for (long number = 0; number < COUNT; number++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u64 = 0x1234500000000ul + number };

		events[number] = MUST(eventfd(0, 0));
		epolls[number] = MUST(epoll_create1(0));
		MUST(epoll_ctl(epolls[number], EPOLL_CTL_ADD, events[number], &event));
		pthread_create(&threads[number], NULL, run, (void *)number);
	}
	pthread_barrier_wait(&started);
	start_holder();
	serve(obey);
}
