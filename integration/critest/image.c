// The programs of the images that critest names, as their originals behave where critest looks.
//
//	nginx NAME PORT   a web server: says its name, notes its pid, answers every request with one page
//	nnp               says its effective user id; the file belongs to root and has the set-user-ID bit
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static void end(int number)
{
	_exit(128 + number);
}

static int serve(const char *name, const char *port)
{
	static const char page[] = "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"
				   "<title>Welcome to nginx!</title>\n";
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
	int on = 1, listener = socket(AF_INET6, SOCK_STREAM, 0);
	if (listener < 0)
		return fail("socket");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 64) < 0)
		return fail(port);
	// The first process of a pid namespace ignores what it has no handler for.
	signal(SIGTERM, end);
	signal(SIGQUIT, end);
	signal(SIGPIPE, SIG_IGN);
	FILE *file = fopen("/var/run/nginx.pid", "w");
	if (!file || fprintf(file, "%d\n", getpid()) < 0 || fclose(file) != 0)
		return fail("/var/run/nginx.pid");
	printf("%s listens on port %s\n", name, port);
	fflush(stdout);
	for (;;) {
		char request[4096];
		int client = accept(listener, NULL, NULL);
		if (client < 0)
			continue;
		if (read(client, request, sizeof request) > 0 && write(client, page, sizeof page - 1) < 0)
			perror("write");
		shutdown(client, SHUT_WR);
		while (read(client, request, sizeof request) > 0)
			;
		close(client);
	}
}

int main(int count, char **words)
{
	const char *program = strrchr(words[0], '/');
	program = program ? program + 1 : words[0];
	if (strcmp(program, "nnp") == 0)
		return printf("Effective uid: %u\n", geteuid()) < 0;
	if (count != 3) {
		fprintf(stderr, "usage: nginx NAME PORT\n");
		return 2;
	}
	return serve(words[1], words[2]);
}
