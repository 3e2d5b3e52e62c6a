// Gives back what only the start of a program needed: free pages of the heap, and pages of program
// and libraries that nobody will execute again. A process that waits for a guest all day holds what
// it uses, not what it once used.
#pragma once

namespace trapeze {

// Any thread, others may run: pages that are needed after all are mapped again from the page cache
// when they are touched. Takes some ten microseconds.
void release_startup_memory();

}  // namespace trapeze
