/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Holds contexts of asynchronous I/O with events that nobody has fetched: one at its beginning, one that has gone round, one that
 * is empty. "fetch" fetches them. "poll" waits for the named pipe "wake", "fork" lets a child have the rings too. */
#include "victim.h"
#include <linux/aio_abi.h>

#define REQUESTS 40
#define LEFT 10

struct context {
	aio_context_t id;
	unsigned long long made, fetched;
};

static struct context fresh, round_, empty, big;
static int target;

static void submit(struct context *context, int count)
{
	struct iocb request = { .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = target, .aio_buf = (uintptr_t)"bytes", .aio_nbytes = 5 };
	struct iocb *requests[] = { &request };

	while (count--) {
		request.aio_data = context->made++;
		CHECK(syscall(SYS_io_submit, context->id, 1, requests) == 1);
	}
}

static void fetch(struct context *context, int count)
{
	struct timespec at_once = { 0, 0 };
	struct io_event event;

	while (count--) {
		CHECK(syscall(SYS_io_getevents, context->id, 1, 1, &event, &at_once) == 1);
		CHECK(event.data == context->fetched++ && event.res == 5);
	}
}

static void make(struct context *context, int requests)
{
	MUST(syscall(SYS_io_setup, requests, &context->id));
}

/* Let the ring go round, so that it ends with LEFT events across its end. */
static void go_round(struct context *context)
{
	unsigned nr = ((unsigned *)context->id)[1];

	for (unsigned i = 0; i < nr - LEFT / 2; i++) {
		submit(context, 1);
		fetch(context, 1);
	}
	submit(context, LEFT);
}

static void check_all(void)
{
	struct context *all[] = { &fresh, &round_, &empty, &big };
	struct timespec at_once = { 0, 0 };
	struct io_event event;

	for (size_t i = 0; i < 4; i++) {
		fetch(all[i], all[i]->made - all[i]->fetched);
		CHECK(syscall(SYS_io_getevents, all[i]->id, 0, 1, &event, &at_once) == 0);
	}
	go_round(&fresh);
	for (int i = 0; i < 5; i++) {
		submit(&big, REQUESTS);
		fetch(&big, REQUESTS);
	}
	submit(&round_, LEFT);
	submit(&empty, REQUESTS / 2);
}

static void poll_pipe(void)
{
	static struct iocb request = { .aio_lio_opcode = IOCB_CMD_POLL, .aio_buf = POLLIN };
	struct iocb *requests[] = { &request };

	request.aio_fildes = MUST(open(in_directory("wake"), O_RDONLY));
	CHECK(syscall(SYS_io_submit, empty.id, 1, requests) == 1);
}

static void obey(const char *question)
{
	if (!strcmp(question, "poll"))
		poll_pipe();
	else if (!strcmp(question, "fork") && !MUST(fork()))
		pause();
	else if (!strcmp(question, "fetch"))
		check_all();
}

int main(int argc, char **argv)
{
	(void)argc;
	begin(argv);
	target = MUST(open("/dev/null", O_WRONLY));
	make(&fresh, 1);
	make(&round_, REQUESTS);
	make(&empty, REQUESTS);
	make(&big, 2000);
	submit(&fresh, 3);
	fetch(&fresh, 1);
	go_round(&round_);
	CHECK(((unsigned *)round_.id)[3] < ((unsigned *)round_.id)[2]);
	submit(&big, 600);
	if (problems[0])
		return 1;
	serve(obey);
}
