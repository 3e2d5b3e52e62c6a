; Multiboot: an exception with no usable IDT, which is a triple fault and shuts the processor down.
%define MULTIBOOT
%include "elf32.inc"
start:
  lidt [no_idt]
  ud2
no_idt:
  dw 0
  dd 0
  IMAGE_END
