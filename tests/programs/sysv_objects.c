/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Holds System V semaphores, one of them taken with SEM_UNDO if the further argument is "undo", and a queue with messages, both
 * with a key. Asked to "change" it uses them; "changed" is how it left them. A thread waits for a semaphore. */
#include "victim.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

struct text {
	long type;
	char content[600];
};

static int semaphores, queue;
static volatile int passed;

static void operate(int number, int by, int flags)
{
	struct sembuf operation = { number, by, flags };

	while (semop(semaphores, &operation, 1))
		MUST(errno == EINTR ? 0 : -1);
}

static void *wait_for_one(void *unused)
{
	(void)unused;
	operate(3, -1, 0);
	passed = 1;
	return NULL;
}

static void send(long type, size_t length)
{
	struct text text = { .type = type };

	memset(text.content, 'a' + type, sizeof(text.content));
	MUST(msgsnd(queue, &text, length, IPC_NOWAIT));
}

static void check_message(int place, long type, ssize_t length)
{
	struct text text = { 0 };

	CHECK(msgrcv(queue, &text, sizeof(text.content), place, MSG_COPY | IPC_NOWAIT) == length && text.type == type);
	CHECK(!length || (text.content[0] == 'a' + type && text.content[length - 1] == 'a' + type));
}

static void check_values(const unsigned short *wanted)
{
	unsigned short found[4];

	CHECK(semctl(semaphores, 0, GETALL, found) == 0 && !memcmp(found, wanted, sizeof(found)));
}

static void check_all(int changed)
{
	struct msqid_ds about;

	CHECK(semget(getpid(), 4, 0) == semaphores && msgget(getpid() + 1, 0) == queue);
	check_values(changed ? (unsigned short[]){ 6, 1, 6, 0 } : (unsigned short[]){ 5, 1, 6, 0 });
	CHECK(msgctl(queue, IPC_STAT, &about) == 0 && about.msg_qbytes == 2000 && about.msg_qnum == 3 && about.msg_perm.mode == 0640);
	check_message(0, changed ? 2 : 1, changed ? 0 : 10);
	check_message(1, changed ? 9 : 2, changed ? 600 : 0);
	check_message(2, changed ? 4 : 9, changed ? 44 : 600);
	CHECK(!passed);
}

static void change(void)
{
	struct text text;

	operate(0, 1, 0);
	CHECK(msgrcv(queue, &text, sizeof(text.content), 0, IPC_NOWAIT) == 10);
	send(4, 44);
}

static void obey(const char *question)
{
	if (!strcmp(question, "change"))
		change();
	else if (!strcmp(question, "pass")) {
		operate(3, 1, 0);
		while (!passed)
			sched_yield();
		passed = 0;
	} else
		check_all(!strcmp(question, "changed"));
}

int main(int argc, char **argv)
{
	unsigned short values[] = { 5, 1, 7, 0 };
	struct msqid_ds about;
	pthread_t thread;

	begin(argv);
	semaphores = MUST(semget(getpid(), 4, IPC_CREAT | IPC_EXCL | 0600));
	MUST(semctl(semaphores, 0, SETALL, values));
	operate(2, -1, argc > 2 && !strcmp(argv[2], "undo") ? SEM_UNDO : 0);
	queue = MUST(msgget(getpid() + 1, IPC_CREAT | IPC_EXCL | 0600));
	MUST(msgctl(queue, IPC_STAT, &about));
	about.msg_qbytes = 2000;
	about.msg_perm.mode = 0640;
	MUST(msgctl(queue, IPC_SET, &about));
	send(1, 10);
	send(2, 0);
	send(9, 600);
	MUST(-pthread_create(&thread, NULL, wait_for_one, NULL));
	serve(obey);
}
