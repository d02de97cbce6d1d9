/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* A process, its thread and its child in a UTS namespace of their own. Further arguments: the host name and the domain name.
 * "rename" gives it another host name. Any question: what each of them sees. */
#include "victim.h"
#include <sys/utsname.h>

static char host[65], domain[65];
static int to_child[2], from_child[2], to_thread[2], from_thread[2];

static void see(struct utsname *seen)
{
	memset(seen, 0, sizeof(*seen));
	MUST(uname(seen));
}

static void *look_in_thread(void *unused)
{
	struct utsname seen;
	char byte;

	(void)unused;
	while (read(to_thread[0], &byte, 1) == 1) {
		see(&seen);
		MUST(write(from_thread[1], &seen, sizeof(seen)));
	}
	return NULL;
}

static void look_in_child(void)
{
	struct utsname seen;
	char byte;

	while (read(to_child[0], &byte, 1) == 1) {
		see(&seen);
		MUST(write(from_child[1], &seen, sizeof(seen)));
	}
}

static void check_names(const struct utsname *seen, const char *who)
{
	if (strcmp(seen->nodename, host) || strcmp(seen->domainname, domain))
		problem("%s sees %s of %s, not %s of %s", who, seen->nodename, seen->domainname, host, domain);
}

static void obey(const char *line)
{
	struct utsname seen;

	if (!strcmp(line, "rename")) {
		strcpy(host, "renamed");
		CHECK(!sethostname(host, strlen(host)));
	}
	see(&seen);
	check_names(&seen, "the process");
	MUST(write(to_thread[1], "", 1));
	MUST(read(from_thread[0], &seen, sizeof(seen)));
	check_names(&seen, "its thread");
	MUST(write(to_child[1], "", 1));
	MUST(read(from_child[0], &seen, sizeof(seen)));
	check_names(&seen, "its child");
}

int main(int argc, char **argv)
{
	pthread_t thread;

	(void)argc;
	begin(argv);
	strncpy(host, argv[2], sizeof(host) - 1);
	strncpy(domain, argv[3], sizeof(domain) - 1);
	MUST(unshare(CLONE_NEWUTS));
	MUST(sethostname(host, strlen(host)));
	MUST(setdomainname(domain, strlen(domain)));
	MUST(pipe2(to_child, O_CLOEXEC)), MUST(pipe2(from_child, O_CLOEXEC));
	MUST(pipe2(to_thread, O_CLOEXEC)), MUST(pipe2(from_thread, O_CLOEXEC));
	if (!MUST(fork())) {
		MUST(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
		look_in_child();
		_exit(0);
	}
	CHECK(!pthread_create(&thread, NULL, look_in_thread, NULL));
	serve(obey);
}
