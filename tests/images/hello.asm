; Multiboot, 32-bit: prints "hello" and ends with status 0 on the debug-exit port.
%define MULTIBOOT
%include "elf32.inc"
start:
  mov esp, stack_top
  mov edi, eax
  mov esi, bad_magic
  cmp edi, 0x2badb002
  jne fail
  mov esi, hello
  call put_text
  EXIT 0
fail:
  call put_text
  EXIT 1
%include "serial.inc"
hello: db "hello", 10, 0
bad_magic: db "EAX is not the multiboot magic", 10, 0
  IMAGE_END
