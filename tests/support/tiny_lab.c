/* The smallest lab there is: it answers every request with 200, and is steered through files in the models folder.
 *
 * <user>.hold     while it is there, a starting lab does not answer yet
 * <user>.answered is written when the first request was answered
 * <user>.ending   is written when the lab was asked to end
 * <user>.save     while it is there, a lab that was asked to end goes on, as one that saves
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *user;

static const char *file(const char *what) {
    static char path[256];
    snprintf(path, sizeof path, "/workspace/models/%s.%s", user, what);
    return path;
}

static void mark(const char *what) {
    int made = open(file(what), O_CREAT | O_WRONLY, 0666);
    if (made >= 0) close(made);
}

static void wait_while(const char *what) {
    while (access(file(what), F_OK) == 0) usleep(20000);
}

static void asked_to_end(int number) {
    (void)number;
    mark("ending");
    wait_while("save");
    _exit(0);
}

int main(void) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\na lab\n";
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(8888)};
    char request[65536];
    int one = 1, listening = socket(AF_INET, SOCK_STREAM, 0);

    user = getenv("JUPYTERHUB_USER") ? getenv("JUPYTERHUB_USER") : "nobody";
    signal(SIGTERM, asked_to_end);
    wait_while("hold");
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&here, sizeof here) || listen(listening, 64)) return 1;
    for (;;) {
        int asked = accept(listening, NULL, NULL);
        if (asked < 0) continue;
        /* Whoever only looks whether somebody listens sends nothing and hangs up. */
        if (read(asked, request, sizeof request) > 0 && write(asked, answer, sizeof answer - 1) > 0) mark("answered");
        close(asked);
    }
}
