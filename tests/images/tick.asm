; Multiboot, loaded to 32 KiB: goes back to real mode and waits for the tick that firmware leaves
; running, prints "tick" and ends with status 0. Without the tick it would sleep for ever.
%define MULTIBOOT
%define LOAD_AT 0x8000
%include "elf32.inc"
start:
  cli
  lgdt [gdt_pointer]
  jmp 8:protected16
  bits 16
protected16:                      ; SDM 3A 9.9.2: segments with 64 KiB limits before PE is cleared
  mov ax, 16
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov eax, cr0
  and al, 0xfe
  mov cr0, eax
  jmp 0:real
real:
  xor ax, ax
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov sp, stack_top
  lidt [vector_table_pointer]
  sti
  hlt
  cli
  mov si, hello
  call put_text
  EXIT 0
%include "serial.inc"
hello: db "tick", 10, 0
  align 8
gdt:
  dq 0, 0x00009b000000ffff, 0x000093000000ffff
gdt_pointer:
  dw 23
  dd gdt
vector_table_pointer:
  dw 0x3ff
  dd 0
  IMAGE_END
