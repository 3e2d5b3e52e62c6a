; ELF64, entered in long mode as Linux is: prints "hello64" and ends with status 0.
%include "elf64.inc"
start:
  mov rsp, stack_top
  mov rdi, rsi
  mov rsi, bad_zero_page
  cmp dword [rdi + 0x202], 'HdrS'
  jne fail
  mov rsi, bad_mode
  mov rax, cr0
  test eax, eax
  jns fail                        ; PG is clear
  mov rsi, hello
  call put_text
  EXIT 0
fail:
  call put_text
  EXIT 1
%include "serial.inc"
hello: db "hello64", 10, 0
bad_zero_page: db "RSI does not point to a zero page", 10, 0
bad_mode: db "paging is off", 10, 0
  IMAGE_END64
