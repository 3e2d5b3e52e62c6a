; Multiboot: prints "hanging" and halts with interrupts off, for ever.
%define MULTIBOOT
%include "elf32.inc"
start:
  mov esp, stack_top
  mov esi, hanging
  call put_text
  jmp stop
%include "serial.inc"
hanging: db "hanging", 10, 0
  IMAGE_END
