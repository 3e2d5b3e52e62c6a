// Further sessions: commands that the host runs in a machine besides the first one. Each is a
// process, made for a vsock connection of the host, so that no session can hold up another.
#pragma once

namespace trapeze::guest {

// Listens for the host's connections. -1 when there is no vsock, or with "trapeze.sessions=off" on
// the kernel's command line, where any user of the host could connect: then there are no further
// sessions.
int open_session_listener();
// Takes the connection that waits there. Returns at once, in the parent only.
void accept_session(int listener);

}  // namespace trapeze::guest
