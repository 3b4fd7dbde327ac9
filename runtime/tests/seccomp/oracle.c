/* libseccomp as an oracle: reads filters in words from stdin, answers each with one line on stdout.
 *
 *   name ARCH NAME                 -> number of a call, or -1 if the library has no such name
 *   new DEFAULT OPTIMIZE           -> ok
 *   arch ARCH                      -> ok, or error ERRNO
 *   rule ACTION NAME [ARG OP A B]… -> ok, unknown, or error ERRNO
 *   export                         -> the program: CODE JT JF K of every instruction
 *
 * The library is opened at run time and its few prototypes are repeated here, so that no development package is needed.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct cmp { unsigned arg; int op; uint64_t a, b; };      /* struct scmp_arg_cmp of seccomp.h */
struct insn { uint16_t code; uint8_t jt, jf; uint32_t k; }; /* struct sock_filter of linux/filter.h */

static void *lib;
static void *sym(const char *name)
{
	void *s = dlsym(lib, name);
	if (!s) { fprintf(stderr, "libseccomp has no %s\n", name); exit(2); }
	return s;
}

int main(int argc, char **argv)
{
	lib = dlopen(argc > 1 ? argv[1] : "libseccomp.so.2", RTLD_NOW);
	if (!lib) { fprintf(stderr, "%s\n", dlerror()); return 2; }
	void *(*init)(uint32_t) = sym("seccomp_init");
	void (*release)(void *) = sym("seccomp_release");
	int (*arch_add)(void *, uint32_t) = sym("seccomp_arch_add");
	int (*attr_set)(void *, int, uint32_t) = sym("seccomp_attr_set");
	int (*resolve)(const char *) = sym("seccomp_syscall_resolve_name");
	int (*resolve_arch)(uint32_t, const char *) = sym("seccomp_syscall_resolve_name_arch");
	int (*rule_add)(void *, uint32_t, int, unsigned, const struct cmp *) = sym("seccomp_rule_add_array");
	int (*export_bpf)(void *, int) = sym("seccomp_export_bpf");

	void *filter = NULL;
	static char line[1 << 16];
	while (fgets(line, sizeof line, stdin)) {
		char *word = strtok(line, " \n");
		if (!word) continue;
		if (!strcmp(word, "name")) {
			uint32_t arch = strtoul(strtok(NULL, " \n"), NULL, 10);
			printf("%d\n", resolve_arch(arch, strtok(NULL, " \n")));
		} else if (!strcmp(word, "new")) {
			if (filter) release(filter);
			filter = init(strtoul(strtok(NULL, " \n"), NULL, 10));
			int rc = filter ? attr_set(filter, 8 /* SCMP_FLTATR_CTL_OPTIMIZE */, strtoul(strtok(NULL, " \n"), NULL, 10)) : -1;
			printf(rc ? "error %d\n" : "ok\n", -rc);
		} else if (!strcmp(word, "arch")) {
			int rc = arch_add(filter, strtoul(strtok(NULL, " \n"), NULL, 10));
			printf(rc ? "error %d\n" : "ok\n", -rc);
		} else if (!strcmp(word, "rule")) {
			uint32_t action = strtoul(strtok(NULL, " \n"), NULL, 10);
			int number = resolve(strtok(NULL, " \n"));
			struct cmp cmps[6];
			unsigned count = 0;
			for (char *w; count < 6 && (w = strtok(NULL, " \n")); count++) {
				cmps[count].arg = strtoul(w, NULL, 10);
				cmps[count].op = strtoul(strtok(NULL, " \n"), NULL, 10);
				cmps[count].a = strtoull(strtok(NULL, " \n"), NULL, 10);
				cmps[count].b = strtoull(strtok(NULL, " \n"), NULL, 10);
			}
			if (number == -1) {
				printf("unknown\n");
			} else {
				int rc = rule_add(filter, action, number, count, cmps);
				printf(rc ? "error %d\n" : "ok\n", -rc);
			}
		} else if (!strcmp(word, "export")) {
			FILE *file = tmpfile();
			struct insn insn;
			int rc = file ? export_bpf(filter, fileno(file)) : -1;
			if (rc) { printf("error %d\n", -rc); fflush(stdout); if (file) fclose(file); continue; }
			rewind(file);
			lseek(fileno(file), 0, SEEK_SET);
			while (fread(&insn, sizeof insn, 1, file) == 1)
				printf("%u %u %u %u ", insn.code, insn.jt, insn.jf, insn.k);
			printf("\n");
			fclose(file);
		} else {
			fprintf(stderr, "unknown request %s\n", word);
			return 2;
		}
		fflush(stdout);
	}
	return 0;
}
