; INT n through the IVT clears IF and TF, IRET restores FLAGS; INTO follows OF; DIV by zero is
; vector 0 with IP at the DIV (SDM 2A "INT n", 3A 20.1.4).
; mode: real16
; expect: ax=0x0202 bx=0x0002 cx=0x0301 dx=0x44 sp=0x8000
bits 16
org 0
  lidt [cs:idtr]
  xor ax, ax
  mov ds, ax
  mov word [0x20 * 4], on_int
  mov [0x20 * 4 + 2], cs
  mov word [4 * 4], on_into
  mov [4 * 4 + 2], cs
  mov word [0], on_divide
  mov [2], cs
  xor cx, cx
  sti
  int 0x20
  pushf
  pop ax
  and ax, 0x0300 | 2
  mov si, ax
  into                       ; OF is clear: nothing
  mov dl, 0x7f
  add dl, 1
  into                       ; OF is set
  xor bl, bl
  mov ax, 1
  mov dx, 0
faulting:
  div bl
divided:
  cli
  mov ax, si
  mov bx, di
  hlt
on_int:
  inc cx
  pushf
  pop di
  and di, 0x0300 | 2         ; IF and TF are clear
  iret
on_into:
  add cx, 0x100
  iret
on_divide:
  mov bp, sp
  cmp word [bp], faulting
  jne .bad
  add cx, 0x200
.bad:
  mov word [bp], divided
  mov dx, 0x44
  iret
idtr:
  dw 0x3ff
  dd 0
