; Real mode: a segment's end lies above 1 MiB without wrapping (A20 on), a word across the segment
; limit is #GP and reaches the handler in the IVT with IP at the instruction (SDM 3A 20.1, 6.3).
; mode: real16
; expect: bx=0x1234 cx=1 dx=0x5678 si=0x600d
bits 16
org 0
  lidt [cs:idtr]
  xor ax, ax
  mov es, ax
  mov word [es:13 * 4], handler
  mov [es:13 * 4 + 2], cs
  mov ax, 0xffff
  mov ds, ax
  mov word [0x20], 0x1234      ; linear 0x100010
  mov ax, 0xfffe
  mov es, ax
  mov bx, [es:0x30]
  xor cx, cx
faulting:
  mov ax, [0xffff]
after:
  mov dx, 0x5678
  hlt
handler:
  inc cx
  mov bp, sp
  cmp word [bp], faulting
  jne .bad
  mov si, 0x600d
.bad:
  mov word [bp], after
  iret
idtr:
  dw 0x3ff
  dd 0
