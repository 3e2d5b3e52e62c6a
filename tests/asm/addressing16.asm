; The eight 16-bit addressing forms; offsets wrap at 64 KiB (SDM 2A table 2-1).
; mode: real16
; expect: ax=0x0fff cx=0x3010 dx=0x5000 r8=0 bp=0x2001 sp=0x7ffe si=0x1000 di=0x2000 bx=0xffff
bits 16
org 0
  mov bx, 0xffff
  mov si, 0x1000
  mov di, 0x2000
  mov bp, 0x3000
  lea ax, [bx + si]          ; 0x0fff
  push ax
  lea cx, [bp + di - 0x1ff0] ; 0x3010
  lea dx, [bp + di + 0]      ; 0x5000
  lea ax, [bx + di]          ; 0x1fff
  lea bp, [bx + di + 2]      ; 0x2001
  mov word [ss:0x2001 + 0x10], 0x0fff
  mov ax, [bp + 0x10]        ; BP goes through SS
  hlt
