/* A service with almost no cost, so that the benchmark measures the tools.
   Listens on PORT (default 8080) after START_DELAY_MS, answers every connection with 200, exits on SIGTERM.
   `stub check` is a health check for tools that can only probe inside the container. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char response[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

static void end(int signal) { _exit(signal == SIGTERM ? 0 : 1); }

static int number(const char *name, int fallback) {
  const char *text = getenv(name);
  return text && *text ? atoi(text) : fallback;
}

int main(int argc, char **argv) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(number("PORT", 8080))};
  int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  if (argc > 1 && !strcmp(argv[1], "check")) {
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(listener, (struct sockaddr *)&address, sizeof address) ? 1 : 0;
  }
  signal(SIGTERM, end); /* Process 1 of a container ignores SIGTERM unless it has a handler. */
  signal(SIGPIPE, SIG_IGN);
  int delay = number("START_DELAY_MS", 0);
  struct timespec wait = {delay / 1000, delay % 1000 * 1000000L};
  nanosleep(&wait, NULL);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) return 1;
  for (;;) {
    char request[4096];
    int client = accept(listener, NULL, NULL);
    if (client < 0) continue;
    if (read(client, request, sizeof request) > 0) write(client, response, sizeof response - 1);
    close(client);
  }
}
