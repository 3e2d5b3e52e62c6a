; Multiboot: prints "resetting" and resets through the ACPI reset register.
%define MULTIBOOT
%include "elf32.inc"
start:
  mov esp, stack_top
  mov esi, resetting
  call put_text
  mov dx, PM_RESET
  mov al, PM_RESET_VALUE
  out dx, al
  mov esi, still_on
  call put_text
  EXIT 1
%include "serial.inc"
resetting: db "resetting", 10, 0
still_on: db "still on", 10, 0
  IMAGE_END
