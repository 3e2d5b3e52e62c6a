; Multiboot: prints "bye" and powers off through the ACPI sleep control register.
%define MULTIBOOT
%include "elf32.inc"
start:
  mov esp, stack_top
  mov esi, bye
  call put_text
  mov dx, PM_SLEEP_CONTROL
  mov al, PM_SLEEP_S5
  out dx, al
  mov esi, still_on
  call put_text
  EXIT 1
%include "serial.inc"
bye: db "bye", 10, 0
still_on: db "still on", 10, 0
  IMAGE_END
