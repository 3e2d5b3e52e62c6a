; String instructions use SI/DI/CX or, with 67h, ESI/EDI/ECX; 16-bit ones wrap at 64 KiB and leave
; the upper halves alone (SDM 2A "MOVS").
; mode: real16
; expect: eax=0x00010203 esi=0x00050004 edi=0x00060002 ecx=0x00070000 ebx=0x7104 edx=0x7208 ebp=0
bits 16
org 0
  mov dword [0x7100], 0x00010203
  mov esi, 0x7100
  mov edi, 0x7200
  mov ecx, 4
  cld
  a32 rep movsb
  mov eax, [0x7200]
  mov ebx, esi
  mov ecx, 1
  a32 movsd
  mov edx, edi
  mov ebp, ecx
  dec ebp
  ; 16-bit: from 0xfffe across the wrap
  mov esi, 0x0005fffe
  mov edi, 0x0006fffc
  mov ecx, 0x00070003
  mov bp, ds
  push ax
  mov ax, 0x2000
  mov ds, ax
  mov es, ax
  pop ax
  rep movsw
  mov ds, bp
  hlt
