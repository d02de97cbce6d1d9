/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Open files of the kind that the second argument names: locks, watches, processes, unlinked or linked ones. "check" looks at all of
 * them and leaves all as it was. Descriptor 50 is one whose path a restore may change. */
#include "victim.h"
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/sysmacros.h>

static int posix, reading, flocked, flock_twin, ofd, lease, breaking, lease_signals, break_signals, lease_fd;

static void on_lease(int signal, siginfo_t *info, void *context)
{
	if (signal == SIGRTMIN)
		lease_signals++, lease_fd = info->si_fd;
	else
		break_signals++;
}

static void lock_range(int fd, int command, short type, off_t start, off_t length)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };

	MUST(fcntl(fd, command, &lock));
}

static int file(const char *name, int flags)
{
	return MUST(open(in_directory(name), flags | O_CREAT, 0600));
}

static void make_locks(void)
{
	struct sigaction action = { .sa_sigaction = on_lease, .sa_flags = SA_SIGINFO | SA_RESTART };

	MUST(sigaction(SIGRTMIN, &action, NULL));
	MUST(sigaction(SIGRTMIN + 1, &action, NULL));
	reading = file("posix", O_RDONLY);
	posix = file("posix", O_RDWR);
	lock_range(posix, F_SETLK, F_WRLCK, 10, 5);
	lock_range(posix, F_SETLK, F_RDLCK, 20, 0);
	flocked = file("flock", O_RDONLY);
	MUST(flock(flocked, LOCK_SH));
	flock_twin = MUST(dup(flocked));
	ofd = file("ofd", O_RDWR);
	lock_range(ofd, F_OFD_SETLK, F_WRLCK, 0, 10);
	lease = file("lease", O_RDONLY);
	MUST(fcntl(lease, F_SETSIG, SIGRTMIN));
	MUST(fcntl(lease, F_SETLEASE, F_RDLCK));
	breaking = file("breaking", O_RDWR);
	MUST(fcntl(breaking, F_SETSIG, SIGRTMIN + 1));
	MUST(fcntl(breaking, F_SETLEASE, F_WRLCK));
	if (open(in_directory("breaking"), O_RDONLY | O_NONBLOCK) >= 0 || errno != EWOULDBLOCK)
		_exit(1);
}

/* Whether somebody else would find that lock. */
static void find_lock(int fd, off_t start, off_t length, short type, pid_t owner)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = 1 };

	CHECK(fcntl(fd, F_OFD_GETLK, &lock) == 0);
	CHECK(lock.l_type == type && lock.l_start == start && lock.l_len == length && lock.l_pid == owner);
}

static void check_locks(void)
{
	int other = MUST(open(in_directory("flock"), O_RDONLY)), own = MUST(open(in_directory("ofd"), O_RDWR));

	find_lock(posix, 10, 5, F_WRLCK, getpid());
	find_lock(posix, 20, 0, F_RDLCK, getpid());
	CHECK(flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
	CHECK(flock(other, LOCK_SH | LOCK_NB) == 0);
	find_lock(own, 0, 10, F_WRLCK, -1);
	close(other);
	close(own);
	CHECK(fcntl(lease, F_GETLEASE) == F_RDLCK && lease_signals == 0);
	CHECK(fcntl(breaking, F_GETLEASE) == F_RDLCK && break_signals == 1);
}

/* Somebody wants to write what is leased: the holder is told by which descriptor. */
static void break_lease(void)
{
	CHECK(open(in_directory("lease"), O_WRONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK);
	CHECK(lease_signals == 1 && lease_fd == lease);
}

static int notify, directory_watch, file_watch, ghost_watch, ghost, fan;

static void make_watches(void)
{
	MUST(mkdir(in_directory("watched"), 0700));
	notify = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	MUST(inotify_rm_watch(notify, MUST(inotify_add_watch(notify, directory, IN_CREATE))));
	MUST(read(notify, problems, sizeof(problems))); /* IN_IGNORED */
	directory_watch = MUST(inotify_add_watch(notify, in_directory("watched"), IN_CREATE | IN_DELETE));
	close(file("file", O_RDWR));
	file_watch = MUST(inotify_add_watch(notify, in_directory("file"), IN_ATTRIB | IN_EXCL_UNLINK));
	ghost = file("ghost", O_RDWR);
	MUST(unlink(in_directory("ghost")));
	snprintf(problems, sizeof(problems), "/proc/self/fd/%d", ghost);
	ghost_watch = MUST(inotify_add_watch(notify, problems, IN_MODIFY));
	fan = MUST(fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY | O_LARGEFILE));
	MUST(fanotify_mark(fan, FAN_MARK_ADD, FAN_MODIFY | FAN_EVENT_ON_CHILD, AT_FDCWD, in_directory("watched")));
}

static void next_event(int watch, uint32_t mask)
{
	char buffer[sizeof(struct inotify_event) + 256];
	struct inotify_event *event = (void *)buffer;
	ssize_t size = read(notify, buffer, sizeof(struct inotify_event) + (watch == directory_watch ? 16 : 0));

	if (size <= 0 || event->wd != watch || event->mask != mask)
		problem("watch %d: %zd bytes, watch %d, events %#x", watch, size, event->wd, event->mask);
}

static void drain(void)
{
	char events[4096];

	while (notify && read(notify, events, sizeof(events)) > 0)
		;
	while (fan && read(fan, events, sizeof(events)) > 0)
		;
}

static void check_watches(void)
{
	struct fanotify_event_metadata event;
	char surplus[256];
	int made;

	CHECK(read(notify, surplus, sizeof(surplus)) < 0 && errno == EAGAIN);
	made = file("watched/new", O_RDWR);
	next_event(directory_watch, IN_CREATE);
	MUST(write(made, "x", 1));
	CHECK(read(fan, &event, sizeof(event)) == sizeof(event) && event.mask == FAN_MODIFY && event.pid == getpid());
	CHECK(read(fan, &event, sizeof(event)) < 0 && errno == EAGAIN);
	MUST(close(event.fd));
	MUST(close(made));
	MUST(unlink(in_directory("watched/new")));
	next_event(directory_watch, IN_DELETE);
	MUST(chmod(in_directory("file"), 0600));
	next_event(file_watch, IN_ATTRIB);
	MUST(pwrite(ghost, "y", 1, 0));
	next_event(ghost_watch, IN_MODIFY);
	CHECK(read(notify, surplus, sizeof(surplus)) < 0 && errno == EAGAIN);
}

static int self, child, shared, dead, dead_twin, of_self, of_child, of_dead, answers_of_child[2];
static pid_t child_pid, dead_pid;

static int of_process(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return MUST(open(path, O_RDONLY));
}

/* Tells its parent, when it is signalled, whether the descriptor that both share is still that of the parent. */
static void be_child(void)
{
	sigset_t set;
	int signal;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	MUST(sigprocmask(SIG_BLOCK, &set, NULL));
	MUST(write(answers_of_child[1], "!", 1));
	for (;;) {
		sigwait(&set, &signal);
		MUST(write(answers_of_child[1], syscall(SYS_pidfd_send_signal, self, 0, NULL, 0) ? "?" : "!", 1));
	}
}

static void make_processes(void)
{
	char told;

	MUST(pipe(answers_of_child));
	self = MUST(syscall(SYS_pidfd_open, getpid(), O_NONBLOCK));
	child_pid = MUST(fork());
	if (!child_pid) {
		MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
		be_child();
	}
	MUST(read(answers_of_child[0], &told, 1));
	child = MUST(syscall(SYS_pidfd_open, child_pid, 0));
	shared = MUST(dup(child));
	of_self = MUST(open("/proc/self/stat", O_RDONLY));
	of_child = of_process(child_pid, "stat");
	dead_pid = MUST(fork());
	if (!dead_pid)
		for (;;)
			pause();
	dead = MUST(syscall(SYS_pidfd_open, dead_pid, 0));
	dead_twin = MUST(syscall(SYS_pidfd_open, dead_pid, O_NONBLOCK));
	of_dead = of_process(dead_pid, "stat");
	MUST(kill(dead_pid, SIGKILL));
	MUST(waitpid(dead_pid, NULL, 0));
}

static void check_stat(int fd, pid_t pid)
{
	char text[64] = "";

	CHECK(pread(fd, text, sizeof(text) - 1, 0) > 0 && atoi(text) == pid);
}

static void check_processes(void)
{
	siginfo_t info = { 0 };
	char told = 0;

	CHECK(syscall(SYS_pidfd_send_signal, self, 0, NULL, 0) == 0 && fcntl(self, F_GETFL) & O_NONBLOCK);
	CHECK(syscall(SYS_pidfd_send_signal, shared, SIGUSR1, NULL, 0) == 0);
	CHECK(read(answers_of_child[0], &told, 1) == 1 && told == '!');
	CHECK(waitid(P_PIDFD, child, &info, WEXITED | WNOHANG) == 0 && info.si_pid == 0);
	CHECK(syscall(SYS_kcmp, getpid(), getpid(), 0, child, shared) == 0);
	CHECK(syscall(SYS_pidfd_send_signal, dead, 0, NULL, 0) < 0 && errno == ESRCH);
	CHECK(syscall(SYS_pidfd_send_signal, dead_twin, 0, NULL, 0) < 0 && errno == ESRCH);
	check_stat(of_self, getpid());
	check_stat(of_child, child_pid);
	CHECK(pread(of_dead, &told, 1, 0) < 0 && errno == ESRCH);
}

static pid_t thread_id, thread_of_child_id;
static int thread, thread_of_child, leader, dead_thread;

static void *tell_and_wait(void *tid)
{
	__atomic_store_n((pid_t *)tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;)
		pause();
	return NULL;
}

static void *end_at_once(void *pidfd)
{
	*(int *)pidfd = MUST(syscall(SYS_pidfd_open, syscall(SYS_gettid), O_EXCL)); /* PIDFD_THREAD */
	return NULL;
}

static pid_t start_thread(void)
{
	static pid_t tid;
	pthread_t started;

	tid = 0;
	MUST(-pthread_create(&started, NULL, tell_and_wait, &tid));
	while (!__atomic_load_n(&tid, __ATOMIC_ACQUIRE))
		sched_yield();
	return tid;
}

static void make_threads(void)
{
	pthread_t ending;
	int tell[2];
	pid_t told;

	MUST(pipe(tell));
	if (!MUST(fork())) {
		MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
		told = start_thread();
		MUST(write(tell[1], &told, sizeof(told)));
		for (;;)
			pause();
	}
	MUST(read(tell[0], &thread_of_child_id, sizeof(thread_of_child_id)));
	thread_id = start_thread();
	MUST(-pthread_create(&ending, NULL, end_at_once, &dead_thread));
	pthread_join(ending, NULL);
	thread = MUST(syscall(SYS_pidfd_open, thread_id, O_EXCL | O_NONBLOCK));
	thread_of_child = MUST(syscall(SYS_pidfd_open, thread_of_child_id, O_EXCL));
	leader = MUST(syscall(SYS_pidfd_open, getpid(), O_EXCL));
	while (syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0) || syscall(SYS_pidfd_send_signal, dead_thread, 0, NULL, 0) == 0)
		sched_yield(); /* the thread that was joined is gone soon */
}

static void check_pidfd(int fd, pid_t wanted)
{
	struct pollfd poll_one = { .fd = fd, .events = POLLIN };
	char path[64], text[1024] = "", line[32];
	int info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = MUST(open(path, O_RDONLY));
	MUST(read(info, text, sizeof(text) - 1));
	close(info);
	snprintf(line, sizeof(line), "\nPid:\t%d\n", wanted);
	CHECK(strstr(text, line));
	CHECK(poll(&poll_one, 1, 0) == (wanted < 0));
	CHECK(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == (wanted < 0 ? -1 : 0));
	CHECK(fcntl(fd, F_GETFL) & O_EXCL);
}

static void check_threads(void)
{
	check_pidfd(thread, thread_id);
	check_pidfd(thread_of_child, thread_of_child_id);
	check_pidfd(leader, getpid());
	check_pidfd(dead_thread, -1);
	CHECK(fcntl(thread, F_GETFL) & O_NONBLOCK && !(fcntl(leader, F_GETFL) & O_NONBLOCK));
}

static int fifo, lost_link, lost_directory, device, old;

static void make_unlinked(void)
{
	MUST(mkfifo(in_directory("fifo"), 0640));
	fifo = MUST(open(in_directory("fifo"), O_RDWR));
	MUST(write(fifo, "in the fifo", 11));
	MUST(unlink(in_directory("fifo")));
	MUST(symlink("nowhere at all", in_directory("link")));
	lost_link = MUST(open(in_directory("link"), O_PATH | O_NOFOLLOW));
	MUST(unlink(in_directory("link")));
	MUST(mkdir(in_directory("outer"), 0700));
	MUST(mkdir(in_directory("outer/inner"), 0750));
	lost_directory = MUST(open(in_directory("outer/inner"), O_RDONLY | O_DIRECTORY));
	MUST(chdir(in_directory("outer")));
	MUST(rmdir(in_directory("outer/inner")));
	MUST(rmdir(in_directory("outer")));
	MUST(mknod(in_directory("null"), S_IFCHR | 0600, makedev(1, 3)));
	device = MUST(open(in_directory("null"), O_RDWR));
	MUST(unlink(in_directory("null")));
	old = file("replaced", O_RDWR);
	MUST(write(old, "old", 3));
	MUST(dup2(old, 50));
	MUST(close(old));
	MUST(close(file("replacement", O_RDWR)));
	snprintf(problems, sizeof(problems), "%s/replacement", directory);
	MUST(rename(problems, in_directory("replaced")));
}

static void check_unlinked(void)
{
	char text[64] = "";
	struct stat status;
	int new;

	CHECK(read(fifo, text, sizeof(text)) == 11 && !memcmp(text, "in the fifo", 11));
	MUST(write(fifo, "in the fifo", 11));
	CHECK(fstat(fifo, &status) == 0 && status.st_nlink == 0 && status.st_mode == (S_IFIFO | 0640));
	CHECK(readlinkat(lost_link, "", text, sizeof(text)) == 14 && !memcmp(text, "nowhere at all", 14));
	CHECK(fstat(lost_directory, &status) == 0 && status.st_nlink == 0 && status.st_mode == (S_IFDIR | 0750));
	CHECK(!getcwd(text, sizeof(text)) && errno == ENOENT);
	CHECK(fstat(device, &status) == 0 && status.st_nlink == 0 && status.st_rdev == makedev(1, 3));
	CHECK(pread(50, text, sizeof(text), 0) == 3 && !memcmp(text, "old", 3));
	new = MUST(open(in_directory("replaced"), O_RDONLY));
	CHECK(read(new, text, 1) == 0);
	close(new);
}

static int renamed;

static void make_linked(void)
{
	renamed = file("first name", O_RDWR | O_APPEND);
	MUST(write(renamed, "what it says", 12));
	snprintf(problems, sizeof(problems), "%s/second name", directory);
	MUST(link(in_directory("first name"), problems));
	MUST(unlink(in_directory("first name")));
}

static void check_linked(void)
{
	struct stat status, named;
	char text[64];

	CHECK(pread(renamed, text, sizeof(text), 0) == 12 && !memcmp(text, "what it says", 12));
	CHECK(fcntl(renamed, F_GETFL) & O_APPEND && lseek(renamed, 0, SEEK_CUR) == 12);
	CHECK(fstat(renamed, &status) == 0 && stat(in_directory("second name"), &named) == 0);
	CHECK(status.st_ino == named.st_ino);
}

static const struct {
	const char *name;
	void (*make)(void), (*check)(void);
} kinds[] = {
	{ "locks", make_locks, check_locks },
	{ "watches", make_watches, check_watches },
	{ "processes", make_processes, check_processes },
	{ "threads", make_threads, check_threads },
	{ "unlinked", make_unlinked, check_unlinked },
	{ "linked", make_linked, check_linked },
};
static int kind;

static void obey(const char *line)
{
	if (!strcmp(line, "break"))
		break_lease();
	else if (!strcmp(line, "drain"))
		drain();
	else
		kinds[kind].check();
}

int main(int argc, char **argv)
{
	begin(argv);
	while (strcmp(argv[2], kinds[kind].name))
		kind++;
	kinds[kind].make();
	problems[0] = 0;
	serve(obey);
}
