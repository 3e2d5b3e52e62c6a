; ELF64: reads every port in every width, the hole below 4 GiB, and what lies above 4 GiB up to
; 256 GiB, where RAM ends and the 64-bit PCI window may be. Prints "done" and ends with status 0.
%include "elf64.inc"
%define HOLE 0xc0000000
%define HIGH_END_GIB 256
start:
  mov rsp, stack_top
  mov r15, cr3                    ; the loader's page tables, 4 GiB one to one

  xor edx, edx
ports:
  in al, dx
  in ax, dx
  in eax, dx
  inc dx
  jnz ports
  mov rsi, ports_read
  call put_text

  mov ebx, HOLE                   ; the first bytes of every page, in every width
hole:
  mov al, [rbx]
  mov ax, [rbx + 2]
  mov eax, [rbx + 4]
  mov rax, [rbx + 8]
  add ebx, 0x1000
  jnz hole
  mov ebx, 0xfec00000             ; all of the I/O APIC and the local APIC, byte by byte
  call read_page
  mov ebx, 0xfee00000
  call read_page
  mov ebx, 0xe0000000             ; ECAM: configuration space of bus 0
  mov ecx, 0x100000 / 4
ecam:
  mov eax, [rbx]
  add ebx, 4
  loop ecam
  mov rsi, hole_read
  call put_text

  ; The fifth page directory shows one GiB after the other at the address of the GiB.
  mov r8, [r15]
  and r8, ~0xfff                  ; the page-directory-pointer table
  mov r9d, 4
next_gib:
  mov rdi, directory
  mov rax, r9
  shl rax, 30
  or rax, 0x83                    ; present, writable, 2 MiB
  mov ecx, 512
.fill:
  stosq
  add rax, 0x200000
  loop .fill
  mov rax, directory
  or rax, 3
  mov [r8 + r9 * 8], rax
  mov rax, cr3
  mov cr3, rax
  mov rbx, r9
  shl rbx, 30
  mov ecx, 512
.read:
  mov rax, [rbx]
  mov al, [rbx + 0x1ff]
  add rbx, 0x200000
  loop .read
  mov qword [r8 + r9 * 8], 0
  inc r9d
  cmp r9d, HIGH_END_GIB
  jb next_gib

  mov rsi, done
  call put_text
  EXIT 0

read_page:
  mov ecx, 0x1000
.next:
  mov al, [rbx]
  inc ebx
  loop .next
  ret
%include "serial.inc"
ports_read: db "ports read", 10, 0
hole_read: db "hole read", 10, 0
done: db "done", 10, 0
  IMAGE_END64
directory equ image_end           ; the first page of BSS, the stack is at its end
