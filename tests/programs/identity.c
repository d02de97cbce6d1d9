/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* A task of another user, nearly without capabilities, with limits, niceness and affinity of its own, and a child that is
 * the same. */
#include "victim.h"
#include <grp.h>

#define NOBODY 65534

static int child_in[2], child_out[2];
static pid_t child;

static void drop(void)
{
	struct {
		uint32_t version;
		int pid;
	} header = { 0x20080522, 0 };
	struct {
		uint32_t effective, permitted, inheritable;
	} sets[2] = { { 0, 0, 0 } };
	gid_t groups[] = { 10, 20, 30 };

	MUST(prctl(PR_CAPBSET_DROP, 21, 0, 0, 0)); /* CAP_SYS_ADMIN */
	MUST(setgroups(3, groups));
	MUST(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
	MUST(setresgid(NOBODY, NOBODY, 100));
	MUST(setresuid(NOBODY, NOBODY, NOBODY));
	sets[0].permitted = 1 << 10; /* CAP_NET_BIND_SERVICE */
	MUST(syscall(SYS_capset, &header, sets));
	MUST(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void make(void)
{
	struct rlimit files = { 111, 222 }, stack = { 4 << 20, 16 << 20 };
	struct sched_param none = { 0 };
	cpu_set_t cpus;

	MUST(setrlimit(RLIMIT_NOFILE, &files));
	MUST(setrlimit(RLIMIT_STACK, &stack));
	MUST(setpriority(PRIO_PROCESS, 0, 5));
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	MUST(sched_setaffinity(0, sizeof(cpus), &cpus));
	MUST(sched_setscheduler(0, SCHED_BATCH, &none));
	umask(0137);
	MUST(chdir(directory));
	drop();
}

static const char *word_of(const char *field, char *buffer)
{
	FILE *file = fopen("/proc/thread-self/status", "r");
	static char none[] = "?";
	char line[256];

	strcpy(buffer, none);
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, field, strlen(field)))
			sscanf(line + strlen(field), ": %63[^\n]", buffer);
	if (file)
		fclose(file);
	return buffer;
}

static void check_self(void)
{
	uid_t real, effective, saved;
	gid_t group, effective_group, saved_group, groups[8];
	struct rlimit limit;
	cpu_set_t cpus;
	char text[512];

	MUST(getresuid(&real, &effective, &saved));
	CHECK(real == NOBODY && effective == NOBODY && saved == NOBODY);
	MUST(getresgid(&group, &effective_group, &saved_group));
	CHECK(group == NOBODY && effective_group == NOBODY && saved_group == 100);
	CHECK(getgroups(8, groups) == 3 && groups[0] == 10 && groups[1] == 20 && groups[2] == 30);
	CHECK(!strcmp(word_of("CapPrm", text), "0000000000000400"));
	CHECK(!strcmp(word_of("CapEff", text), "0000000000000000"));
	CHECK(prctl(PR_CAPBSET_READ, 21, 0, 0, 0) == 0 && prctl(PR_CAPBSET_READ, 10, 0, 0, 0) == 1);
	CHECK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	CHECK(setuid(0) == -1 && errno == EPERM);
	CHECK(!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur == 111 && limit.rlim_max == 222);
	CHECK(!getrlimit(RLIMIT_STACK, &limit) && limit.rlim_cur == 4 << 20 && limit.rlim_max == 16 << 20);
	CHECK(getpriority(PRIO_PROCESS, 0) == 5 && sched_getscheduler(0) == SCHED_BATCH);
	CHECK(!sched_getaffinity(0, sizeof(cpus), &cpus) && CPU_COUNT(&cpus) == 1 && CPU_ISSET(0, &cpus));
	CHECK(umask(0137) == 0137);
	CHECK(getcwd(text, sizeof(text)) && !strcmp(text, directory));
}

static void run_child(void)
{
	char line;

	while (read(child_in[0], &line, 1) == 1) {
		problems[0] = 0;
		check_self();
		CHECK(getppid() != 1);
		MUST(write(child_out[1], problems[0] ? "b" : "g", 1));
	}
	_exit(0);
}

static void obey(const char *line)
{
	char reply;

	check_self();
	MUST(write(child_in[1], "?", 1));
	MUST(read(child_out[0], &reply, 1));
	CHECK(reply == 'g');
	CHECK(kill(child, 0) == 0);
}

int main(int argc, char **argv)
{
	begin(argv);
	make();
	MUST(pipe(child_in));
	MUST(pipe(child_out));
	child = MUST(fork());
	if (!child)
		run_child();
	serve(obey);
}
