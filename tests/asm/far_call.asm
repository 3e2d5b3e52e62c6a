; Far CALL and RETF, direct and through memory, RETF with arguments (SDM 2A "CALL").
; mode: real16
; expect: ax=3 bx=0x1001 cx=0x1234 sp=0x8000 dx=0x1000
bits 16
org 0
  xor ax, ax
  mov dx, cs
  call 0x1001:target - 16    ; the same bytes by another segment
  push word 0x1234
  call far [cs:pointer]
  mov [cs:pointer + 2], dx
  mov word [cs:pointer], last
  jmp far [cs:pointer]
  hlt
target:
  inc ax
  mov bx, cs
  retf
with_argument:
  inc ax
  push bp
  mov bp, sp
  mov cx, [bp + 6]
  pop bp
  retf 2
last:
  inc ax
  hlt
pointer:
  dw with_argument, 0x1000
