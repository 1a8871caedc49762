/* A service that costs nothing, so that what is measured is the tool around it.
   Listens on PORT (default 8080) after START_DELAY_MS, answers every connection with 200, ends on SIGTERM.
   `stub check` is a health check for tools that can only ask inside the container. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

static void end(int signal) { _exit(signal == SIGTERM ? 0 : 1); }

static int number(const char *name, int fallback) {
  const char *text = getenv(name);
  return text && *text ? atoi(text) : fallback;
}

int main(int count, char **words) {
  struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(number("PORT", 8080))};
  int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  if (count > 1 && !strcmp(words[1], "check")) {
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(listener, (struct sockaddr *)&place, sizeof place) ? 1 : 0;
  }
  signal(SIGTERM, end); /* As process 1 of a container it has no default action. */
  signal(SIGPIPE, SIG_IGN);
  int delay = number("START_DELAY_MS", 0);
  struct timespec wait = {delay / 1000, delay % 1000 * 1000000L};
  nanosleep(&wait, NULL);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  place.sin_addr.s_addr = htonl(INADDR_ANY);
  if (bind(listener, (struct sockaddr *)&place, sizeof place) || listen(listener, 64)) return 1;
  for (;;) {
    char asked[4096];
    int client = accept(listener, NULL, NULL);
    if (client < 0) continue;
    if (read(client, asked, sizeof asked) > 0) write(client, answer, sizeof answer - 1);
    close(client);
  }
}
