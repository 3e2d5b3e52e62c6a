; The decimal adjustments, with the manual's own examples (SDM 2A "DAA", "DAS", "AAM", "AAD").
; mode: protected32
; expect: eax=0x2f ebx=0x14 ecx=0x88 edx=0x105 esi=0x109 edi=0x407 ebp=0x1
bits 32
org 0x10000
  xor ebp, ebp
  mov eax, 0x79
  add al, 0x35
  daa
  setc dl
  movzx ebp, dl
  movzx ebx, al
  mov eax, 0x35
  sub al, 0x47
  das
  movzx ecx, al
  mov eax, 0x000f
  aaa
  movzx edx, ax
  mov eax, 0x02ff
  xor esi, esi
  stc
  aas
  movzx esi, ax
  mov eax, 0x2f
  aam
  movzx edi, ax
  aad
  hlt
