; A call gate from ring 3 to ring 0 copies the parameter to the inner stack and RETF n goes back
; and drops it from both (SDM 3A 5.8.5).
; mode: protected32
; expect: eax=0x600d ebx=0x08 ecx=0x9fec edx=0x1b esi=0xa000 edi=0x23
bits 32
org 0x10000
%include "protected.inc"
  PROTECTED in_ring0, 1
  SET_GATE 13, on_gp
  push DATA3
  push STACK3
  push CODE3
  push in_ring3
  retf
in_ring3:
  mov ax, DATA3
  mov ds, ax
  push dword 0x600d
  call GATE:0
  mov esi, esp               ; the parameter is gone
  xor edi, edi
  mov edi, ss
  mov edx, cs
  hlt                        ; #GP in ring 3
in_ring0:
  mov ebx, cs
  mov eax, [esp + 8]         ; the copied parameter
  mov ecx, esp
  add ecx, 0x1000            ; 0x9000 - 20 bytes: SS ESP parameter CS EIP
  retf 4
on_gp:
  hlt
PROTECTED_DATA
