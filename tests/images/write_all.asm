; Multiboot: writes ones and zeros to every port and to the first bytes of every page of the hole,
; except to what ends or resets the machine and to the local APIC (which could send this processor
; an NMI). Prints "done" and ends with status 0.
%define MULTIBOOT
%include "elf32.inc"
%define HOLE 0xc0000000
%define LOCAL_APIC 0xfee00000
start:
  mov esp, stack_top
  xor edx, edx
ports:
  mov esi, skipped_ports
.compare:                         ; a dword write reaches three more ports
  movzx eax, word [esi]
  movzx ebx, word [esi + 2]
  cmp eax, ebx
  ja .write                       ; end of the table
  lea ecx, [edx + 3]
  cmp ecx, eax
  jb .no_match
  cmp edx, ebx
  jbe .next
.no_match:
  add esi, 4
  jmp .compare
.write:
  mov eax, -1
  out dx, al
  out dx, ax
  out dx, eax
  xor eax, eax
  out dx, al
  out dx, ax
  out dx, eax
.next:
  inc dx
  jnz ports

  mov ebx, HOLE
hole:
  cmp ebx, LOCAL_APIC
  je .next
  mov eax, -1
.values:
  mov [ebx], al
  mov [ebx + 2], ax
  mov [ebx + 4], eax
  inc eax
  jz .values                      ; once more with zeros
.next:
  add ebx, 0x1000
  jnz hole

  mov esi, done
  call put_text
  EXIT 0
%include "serial.inc"
done: db "done", 10, 0
  align 4
skipped_ports:                    ; first, last
  dw 0x60, 0x64                   ; i8042: output port and pulse commands reset
  dw 0x92, 0x92                   ; fast reset
  dw DEBUG_EXIT, DEBUG_EXIT + 3
  dw 0x3f8, 0x3ff                 ; the serial port: stays usable for the last line
  dw PM_BASE, PM_BASE + 15
  dw 0xcf9, 0xcf9                 ; reset control
  dw 0x8900, 0x8900               ; shutdown port of test images
  dw 1, 0
  IMAGE_END
