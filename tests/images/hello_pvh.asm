; ELF32 with a PVH note: prints "hello pvh" and ends with status 0.
%define PVH
%include "elf32.inc"
start:
  mov esp, stack_top
  mov esi, bad_magic
  cmp dword [ebx], 0x336ec578     ; hvm_start_info.magic
  jne fail
  mov esi, hello
  call put_text
  EXIT 0
fail:
  call put_text
  EXIT 1
%include "serial.inc"
hello: db "hello pvh", 10, 0
bad_magic: db "EBX does not point to the PVH start info", 10, 0
  IMAGE_END
