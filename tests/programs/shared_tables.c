/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes that share their descriptor table and their directories, a third that shares the table only, and one that
 * shares nothing and whose end its parent is told by another signal. */
#include "victim.h"

static int in[3][2], out[3][2];
static int shared[3] = { CLONE_FILES | CLONE_FS, CLONE_FILES, 0 };

struct question {
	int fd;
	mode_t mask;
};

static void run_child(int which)
{
	struct question question;

	while (read(in[which][0], &question, sizeof(question)) == sizeof(question)) {
		int sees_fd = fcntl(question.fd, F_GETFD) >= 0;
		mode_t mask = umask(0);
		char good;

		umask(mask);
		good = sees_fd == !!(shared[which] & CLONE_FILES) && (mask == question.mask) == !!(shared[which] & CLONE_FS);
		if (good && shared[which] & CLONE_FILES)
			close(question.fd);
		MUST(write(out[which][1], good ? "g" : "b", 1));
	}
	_exit(0);
}

static void obey(const char *line)
{
	static mode_t mask = 0200;

	(void)line;
	for (int which = 0; which < 3; which++) {
		struct question question = { MUST(dup(0)), mask ^= 0011 };
		char letter = 0;

		umask(mask);
		MUST(write(in[which][1], &question, sizeof(question)));
		MUST(read(out[which][0], &letter, 1));
		CHECK(letter == 'g');
		CHECK((fcntl(question.fd, F_GETFD) < 0) == !!(shared[which] & CLONE_FILES));
		if (!(shared[which] & CLONE_FILES))
			close(question.fd);
	}
}

int main(int argc, char **argv)
{
	begin(argv);
	if (argc > 2) /* CRIU knows no shared directories, and no other signals */
		shared[0] = CLONE_FILES;
	for (int which = 0; which < 3; which++) {
		MUST(pipe(in[which]));
		MUST(pipe(out[which]));
	}
	for (int which = 0; which < 3; which++)
		if (!MUST(syscall(SYS_clone, shared[which] | (which == 2 && argc == 2 ? SIGUSR2 : SIGCHLD), 0, 0, 0, 0)))
			run_child(which);
	serve(obey);
}
