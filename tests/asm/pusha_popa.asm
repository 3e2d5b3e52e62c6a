; PUSHA pushes SP as it was before; POPA skips it. PUSHAD and POPAD alike (SDM 2B).
; mode: real16
; expect: ax=0x1111 cx=0x2222 dx=0x3333 bx=0x4444 bp=0x7777 si=0x5555 di=0x8000 sp=0x8000 r8=0
bits 16
org 0
  mov ax, 0x1111
  mov cx, 0x2222
  mov dx, 0x3333
  mov bx, 0x4444
  mov bp, 0x7777
  mov si, 0x5555
  mov di, 0x6666
  pusha
  xor ax, ax
  xor cx, cx
  xor bx, bx
  xor bp, bp
  xor si, si
  mov di, sp
  mov di, [di + 6]           ; the pushed SP
  mov [0x7000], di
  popa
  pushad
  xor eax, eax
  xor ebx, ebx
  popad
  mov di, [0x7000]
  hlt
