; TF traps behind each instruction; MOV SS holds the trap back over one more (SDM 3A 6.8.3, 17.3.1.4).
; mode: real16
; expect: cx=6 bx=3 sp=0x8000
bits 16
org 0
  lidt [cs:idtr]
  xor ax, ax
  mov ds, ax
  mov word [1 * 4], on_trap
  mov [1 * 4 + 2], cs
  xor cx, cx
  xor bx, bx
  pushf
  pop dx
  or dx, 0x100
  push dx
  popf                       ; takes effect behind the next instruction
  inc bx                     ; trap 1
  mov ss, ax                 ; no trap here
  inc bx                     ; trap 2
  inc bx                     ; trap 3
  and dh, 0xfe               ; trap 4
  push dx                    ; trap 5
  popf                       ; trap 6: TF was set when it began
  hlt
on_trap:
  inc cx
  iret
idtr:
  dw 0x3ff
  dd 0
