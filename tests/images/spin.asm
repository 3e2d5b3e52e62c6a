; Multiboot: prints "spinning" and runs in a loop, for ever.
%define MULTIBOOT
%include "elf32.inc"
start:
  mov esp, stack_top
  mov esi, spinning
  call put_text
.forever:
  jmp .forever
%include "serial.inc"
spinning: db "spinning", 10, 0
  IMAGE_END
