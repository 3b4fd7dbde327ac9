/*
 * The floor: only what the kernel must do for the container that ctr 2.1 asks for, by a static program that knows
 * beforehand what to do. No config.json, no checks of what it meets, no state, no hardening of itself. It is what mini
 * is measured against, not something to run containers with.
 *
 *   floor run ROOTFS GROUP FILTER ID PROGRAM    prints nothing; exits with the program's code
 *   floor exec PID GROUP FILTER PROGRAM         prints the microseconds from its first instruction to the exit
 *   floor asked GROUP                           answers each message on its standard input with what a container's statistics
 *                                               are made of, read anew, and no word about them
 *
 * FILTER is a file of struct sock_filter, or "-".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const trees[] = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"};
enum { TREES = sizeof trees / sizeof *trees };
static int tasks[TREES];
static struct sock_fprog filter;

static void die(const char *what) {
	dprintf(2, "floor: %s: %s\n", what, strerror(errno));
	_exit(125);
}
#define MUST(call) do { if ((call) < 0) die(#call); } while (0)

static void put(const char *group, const char *tree, const char *file, const char *words) {
	char path[512];
	snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s/%s", tree, group, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) die(path);
	MUST(write(fd, words, strlen(words)));
	close(fd);
}

static void groups_make(const char *group) {
	static const char *const devices[] = {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:8 rwm", "c 1:7 rwm", "c 5:0 rwm",
		"c 1:5 rwm", "c 1:9 rwm", "c 5:1 rwm", "c 136:* rwm", "c 5:2 rwm"};
	char path[512];
	for (int n = 0; n < TREES; n++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s", trees[n], group);
		if (mkdir(path, 0755) < 0) die(path);
	}
	put(group, "cpuset", "cpuset.cpus", "0");
	put(group, "cpuset", "cpuset.mems", "0");
	put(group, "cpu", "cpu.shares", "1024");
	put(group, "devices", "devices.deny", "a");
	snprintf(path, sizeof path, "/sys/fs/cgroup/devices%s/devices.allow", group);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) die(path);
	for (unsigned n = 0; n < sizeof devices / sizeof *devices; n++) MUST(write(fd, devices[n], strlen(devices[n])));
	close(fd);
}

static void groups_open(const char *group) {
	char path[512];
	for (int n = 0; n < TREES; n++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s/tasks", trees[n], group);
		tasks[n] = open(path, O_WRONLY | O_CLOEXEC);
		if (tasks[n] < 0) die(path);
	}
}

static void groups_join(void) {
	for (int n = 0; n < TREES; n++) MUST(write(tasks[n], "0", 1));
}

static void groups_remove(const char *group) {
	char path[512];
	for (int n = 0; n < TREES; n++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s", trees[n], group);
		if (rmdir(path) < 0) die(path);
	}
}

static void filter_read(const char *path) {
	static struct sock_filter code[BPF_MAXINSNS];
	if (!strcmp(path, "-")) return;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, code, sizeof code);
	if (size <= 0) die(path);
	close(fd);
	filter.len = size / sizeof *code;
	filter.filter = code;
}

static int child(uint64_t flags) {
	int pidfd = -1;
	struct clone_args args = {.flags = flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND, .pidfd = (uint64_t)&pidfd, .exit_signal = SIGCHLD};
	long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0) die("clone3");
	return pid == 0 ? -1 : pidfd;
}

static void lo_up(void) {
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	MUST(ioctl(fd, SIOCSIFFLAGS, &lo));
	close(fd);
}

static void mounts(const char *root) {
	static const char *const names[] = {"null", "zero", "full", "tty", "urandom", "random"};
	static const int numbers[] = {0x103, 0x105, 0x107, 0x500, 0x109, 0x108};
	static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};
	static const char *const masked[] = {"proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats",
		"proc/timer_list", "proc/timer_stats", "proc/sched_debug", "sys/firmware", "sys/devices/virtual/powercap", "proc/scsi"};
	static const char *const locked[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
	const unsigned long safe = MS_NOSUID | MS_NOEXEC | MS_NODEV;
	MUST(mount(0, "/", 0, MS_REC | MS_SLAVE, 0));
	MUST(mount(root, root, 0, MS_BIND | MS_REC, 0));
	MUST(chdir(root));
	MUST(mount("proc", "proc", "proc", safe, 0));
	MUST(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	MUST(mkdir("dev/pts", 0755));
	MUST(mkdir("dev/shm", 0755));
	MUST(mkdir("dev/mqueue", 0755));
	MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	MUST(mount("shm", "dev/shm", "tmpfs", safe, "mode=1777,size=65536k"));
	MUST(mount("mqueue", "dev/mqueue", "mqueue", safe, 0));
	MUST(mount("sysfs", "sys", "sysfs", safe | MS_RDONLY, 0));
	MUST(mount("tmpfs", "run", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	char path[64];
	for (int n = 0; n < 6; n++) {
		snprintf(path, sizeof path, "dev/%s", names[n]);
		MUST(mknod(path, S_IFCHR | 0666, makedev(numbers[n] >> 8, numbers[n] & 255)));
	}
	for (int n = 0; n < 5; n++) MUST(symlink(links[n][0], links[n][1]));
	for (unsigned n = 0; n < sizeof masked / sizeof *masked; n++)
		if (mount("dev/null", masked[n], 0, MS_BIND, 0) < 0 && errno == ENOTDIR)
			MUST(mount("tmpfs", masked[n], "tmpfs", MS_RDONLY, 0));
	for (unsigned n = 0; n < sizeof locked / sizeof *locked; n++)
		if (mount(locked[n], locked[n], 0, MS_BIND | MS_REC, 0) == 0)
			MUST(mount(0, locked[n], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | safe, 0));
	MUST(syscall(SYS_pivot_root, ".", "."));
	MUST(umount2(".", MNT_DETACH));
	MUST(chdir("/"));
}

static _Noreturn void become(char *program) {
	/* What ctr's containers may: chown dac_override fsetid fowner mknod net_raw setgid setuid setfcap setpcap
	   net_bind_service sys_chroot kill audit_write */
	const uint64_t kept = 0xa80425fb;
	for (int cap = 0; cap <= 40; cap++)
		if (!(kept >> cap & 1)) MUST(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
	struct rlimit files = {1024, 1024};
	gid_t group = 0;
	MUST(setrlimit(RLIMIT_NOFILE, &files));
	MUST(syscall(SYS_setgroups, 1, &group));
	MUST(syscall(SYS_setresgid, 0, 0, 0));
	MUST(syscall(SYS_setresuid, 0, 0, 0));
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[2] = {{(uint32_t)kept, (uint32_t)kept, 0}, {0, 0, 0}};
	MUST(syscall(SYS_capset, &head, caps));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (filter.len) MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
	char *argv[] = {program, 0}, *env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0};
	execve(program, argv, env);
	die(program);
	_exit(125);
}

static int end(int pidfd) {
	siginfo_t info;
	MUST(waitid(P_PIDFD, pidfd, &info, WEXITED));
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

static void asked(const char *group) {
	static const char *const files[] = {"pids/%s/pids.current", "pids/%s/pids.max", "cpu/%s/cpu.stat", "cpuacct/%s/cpuacct.stat",
		"cpuacct/%s/cpuacct.usage_percpu", "memory/%s/memory.stat", "memory/%s/memory.oom_control",
		"memory/%s/memory.usage_in_bytes", "memory/%s/memory.max_usage_in_bytes", "memory/%s/memory.failcnt",
		"memory/%s/memory.memsw.usage_in_bytes", "memory/%s/memory.memsw.max_usage_in_bytes", "memory/%s/memory.memsw.failcnt",
		"memory/%s/memory.kmem.usage_in_bytes", "memory/%s/memory.kmem.max_usage_in_bytes",
		"memory/%s/memory.kmem.tcp.limit_in_bytes", "memory/%s/memory.kmem.tcp.max_usage_in_bytes",
		"memory/%s/memory.kmem.tcp.failcnt", "blkio/%s/blkio.bfq.io_service_bytes_recursive",
		"blkio/%s/blkio.throttle.io_service_bytes_recursive"};
	enum { FILES = sizeof files / sizeof *files, ANSWER = 1200 };
	static char text[FILES * 4096];
	int fds[FILES], count = 0;
	for (int n = 0; n < FILES; n++) {
		char path[512] = "/sys/fs/cgroup/";
		snprintf(path + strlen(path), sizeof path - 15, files[n], group + 1);
		fds[count] = open(path, O_RDONLY | O_CLOEXEC);
		/* Which there are depends on the kernel's configuration. */
		if (fds[count] >= 0) count++;
	}
	while (read(0, text, sizeof text) > 0) {
		size_t length = 0;
		for (int n = 0; n < count; n++) {
			ssize_t got = pread(fds[n], text + length, 4096, 0);
			if (got > 0) length += got;
		}
		MUST(write(1, text, ANSWER));
	}
}

int main(int argc, char **argv) {
	struct timespec from, to;
	clock_gettime(CLOCK_MONOTONIC, &from);
	if (argc == 7 && !strcmp(argv[1], "run")) {
		filter_read(argv[4]);
		groups_make(argv[3]);
		groups_open(argv[3]);
		int pidfd = child(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET);
		if (pidfd < 0) {
			groups_join();
			MUST(setsid());
			lo_up();
			mounts(argv[2]);
			become(argv[6]);
		}
		int code = end(pidfd);
		groups_remove(argv[3]);
		return code;
	}
	if (argc == 6 && !strcmp(argv[1], "exec")) {
		filter_read(argv[4]);
		groups_open(argv[3]);
		int target = syscall(SYS_pidfd_open, atoi(argv[2]), 0);
		MUST(target);
		/* The pid namespace counts for children only, so it is the parent that joins, and one clone is enough. */
		MUST(setns(target, CLONE_NEWPID));
		int pidfd = child(0);
		if (pidfd < 0) {
			groups_join();
			MUST(setns(target, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET));
			MUST(setsid());
			become(argv[5]);
		}
		int code = end(pidfd);
		clock_gettime(CLOCK_MONOTONIC, &to);
		dprintf(1, "%.1f\n", (to.tv_sec - from.tv_sec) * 1e6 + (to.tv_nsec - from.tv_nsec) / 1e3);
		return code;
	}
	if (argc == 3 && !strcmp(argv[1], "asked")) {
		asked(argv[2]);
		return 0;
	}
	dprintf(2, "usage: floor run ROOTFS GROUP FILTER ID PROGRAM | floor exec PID GROUP FILTER PROGRAM | floor asked GROUP\n");
	return 2;
}
