; LES, LDS, LSS, LFS, LGS load an offset and a segment (SDM 2A "LDS/LES/LFS/LGS/LSS").
; mode: real16
; expect: ax=0x1111 bx=0x2222 cx=0x5000 dx=0x6000 si=0x10 sp=0x20
bits 16
org 0
  mov ax, 0x5000
  mov ds, ax
  mov word [0x10], 0x1111
  mov ax, 0x6000
  mov ds, ax
  mov word [0x20], 0x2222
  les si, [cs:first]
  mov ax, [es:si]
  lds di, [cs:second]
  mov bx, [di]
  mov cx, es
  lfs bp, [cs:first]
  lgs bp, [cs:second]
  lss sp, [cs:second]
  mov dx, ss
  hlt
first:
  dw 0x10, 0x5000
second:
  dw 0x20, 0x6000
