; Real mode to protected mode to long mode and back into compatibility mode (SDM 3A 9.8.5, 9.9).
; mode: real16
; expect: rax=0x123456789abcdef0 rbx=0x500 rcx=0x55 rdx=0xffffffff
bits 16
org 0
%define AT(label) (0x10000 + label)
  cli
  o32 lgdt [cs:gdtr]
  mov eax, cr0
  or al, 1
  mov cr0, eax
  jmp dword 0x08:AT(protected)
bits 32
protected:
  mov ax, 0x10
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov esp, 0x8000
  mov ecx, 0x55
  push ecx
  mov eax, cr4
  or eax, 1 << 5             ; PAE
  mov cr4, eax
  mov eax, 0x1000            ; the tables that TestMachine has prepared
  mov cr3, eax
  mov ecx, 0xc0000080        ; EFER
  rdmsr
  or eax, 1 << 8             ; LME
  wrmsr
  mov eax, cr0
  or eax, 1 << 31
  mov cr0, eax
  rdmsr
  and eax, 0x500             ; LME, and LMA now
  mov ebx, eax
  jmp 0x18:AT(in_long)
bits 64
in_long:
  pop rcx
  mov rax, 0x123456789abcdef0
  mov [0x7000], rax
  jmp far dword [rel compatible]   ; without "dword" the offset has 64 bits
after:
  mov rax, [0x7000]
  hlt
bits 32
in_compatibility:
  mov edx, 0
  dec edx                    ; 48 would be REX in 64-bit code
  jmp 0x18:AT(after)
align 8
compatible:
  dd AT(in_compatibility)
  dw 0x08
gdt:
  dq 0
  dq 0x00cf9b000000ffff      ; 08: 32-bit code
  dq 0x00cf93000000ffff      ; 10: data
  dq 0x00af9b000000ffff      ; 18: 64-bit code
gdtr:
  dw 31
  dd AT(gdt)
