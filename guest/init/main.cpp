// init: PID 1 of the guest kit. Sets the system up, takes an order over virtio-console ports and
// further ones over vsock (agent/protocol.h), and powers off. Without such a device it gives a
// shell on the console.
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "init/disks.h"
#include "init/network.h"
#include "init/ports.h"
#include "init/session.h"
#include "init/sessions.h"
#include "init/system.h"

namespace trapeze::guest {
namespace {

// The kit booted by hand, on a machine without an agent port.
void run_console_shell() {
  const pid_t shell = ::fork();
  if (shell == 0) {
    ::setenv("HOME", "/root", 1);
    ::setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    if (::chdir("/root") != 0) complain("/root", errno);
    // cttyhack finds the real device behind /dev/console and makes it the controlling terminal.
    ::execlp("setsid", "setsid", "cttyhack", "sh", "-l", nullptr);
    complain("cannot start a shell", errno);
    ::_exit(127);
  }
  for (;;) {
    const pid_t ended = ::wait(nullptr);
    if (ended == shell || (ended < 0 && errno != EINTR)) return;
  }
}

void serve_agent() {
  const int uevents = open_uevents();
  load_boot_modules();
  load_device_drivers();
  set_up_network();
  configure_network_cards();
  if (!has_console_device()) {
    if (uevents >= 0) ::close(uevents);
    return run_console_shell();
  }
  Ports ports;
  if (uevents < 0 || !open_ports(uevents, ports)) return;
  ::close(uevents);
  if (!enter_root()) return;
  publish_name_servers();
  const int listener = open_session_listener();
  Session session(Session::Kind::Main);
  session.run(ports, listener);
}

}  // namespace
}  // namespace trapeze::guest

int main(int argc, char** argv) {
  if (::getpid() != 1) {
    if (trapeze::guest::is_dhcp_script(argc, argv)) return trapeze::guest::run_dhcp_script(argv[1]);
    std::fputs("init: runs as process 1 of a Trapeze guest only\n", stderr);
    return 1;
  }
  trapeze::guest::mount_file_systems();
  trapeze::guest::serve_agent();
  trapeze::guest::power_off();
}
