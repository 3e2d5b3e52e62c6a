; IRET with VM set enters virtual-8086 mode with all segments from the stack; a privileged
; instruction there is #GP, taken in ring 0 on the TSS's stack with the segments pushed
; (SDM 3A 20.2).
; mode: protected32
; expect: eax=0x1234 ebx=0x20000 ecx=0x2000 edx=0 esi=0x8fdc edi=0x3000
bits 32
org 0x10000
%include "protected.inc"
  PROTECTED in_ring0, 0
  SET_GATE 13, on_gp
  push dword 0               ; GS
  push dword 0               ; FS
  push dword 0x3000          ; DS
  push dword 0x2000          ; ES
  push dword 0               ; SS
  push dword 0x7000          ; ESP
  push dword 0x20002         ; EFLAGS: VM
  push dword 0x1000          ; CS
  push dword in_v86 - 0x10000
  iret
in_ring0:
  hlt
bits 16
in_v86:
  mov word [0x10], 0x1234    ; linear 0x30010
  mov ax, [ds:0x10]
faulting:
  hlt
bits 32
on_gp:
  mov ebx, [esp + 12]        ; EFLAGS as pushed
  and ebx, 0x20000
  mov ecx, [esp + 24]        ; ES
  mov edi, [esp + 28]        ; DS
  mov edx, [esp + 4]         ; EIP
  sub edx, faulting - 0x10000
  mov eax, 0x10000
  mov ds, dx
  mov esi, esp               ; 0x9000 - 10 words: error code EIP CS EFLAGS ESP SS ES DS FS GS
  add esi, 4
  mov ax, DATA0
  mov ds, ax
  movzx eax, word [0x30010]
  hlt
PROTECTED_DATA
