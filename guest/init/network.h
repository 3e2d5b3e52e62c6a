// Network cards of the guest, configured as the host says on the kernel's command line, an argument
// for each card:
//
//   trapeze.net=MAC,none                          the interface is brought up
//   trapeze.net=MAC,dhcp                          udhcpc asks for an address
//   trapeze.net=MAC,ADDRESS/LEN,GATEWAY,DNS       GATEWAY and DNS may be empty
//
// Failures are told on the console and are not fatal.
#pragma once

namespace trapeze::guest {

// Once the drivers are loaded.
void configure_network_cards();
// After enter_root(): programs there look for name servers in their own /etc/resolv.conf.
void publish_name_servers();

// udhcpc runs this program as its script. False: it is something else.
bool is_dhcp_script(int argc, char** argv);
int run_dhcp_script(const char* event);

}  // namespace trapeze::guest
