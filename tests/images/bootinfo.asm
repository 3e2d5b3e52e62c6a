; Multiboot: prints what the loader told, one item a line, and ends with status 0:
;   cmdline=<command line>
;   mem_upper=<KiB above 1 MiB, hexadecimal>
;   module=<content of the first module>   (only when there is one)
%define MULTIBOOT
%include "elf32.inc"
start:
  mov esp, stack_top
  mov esi, cmdline
  call put_text
  mov esi, [ebx + 16]
  call put_text
  mov esi, mem_upper
  call put_text
  mov ebp, [ebx + 8]
  call put_hex
  cmp dword [ebx + 20], 0         ; mods_count
  je done
  mov esi, module
  call put_text
  mov edi, [ebx + 24]             ; mods_addr
  mov esi, [edi]
.next:
  cmp esi, [edi + 4]
  jae done
  lodsb
  call put_char
  jmp .next
done:
  mov esi, newline
  call put_text
  EXIT 0

; EBP as eight hexadecimal digits.
put_hex:
  mov ecx, 8
.next:
  rol ebp, 4
  mov eax, ebp
  and eax, 15
  mov al, [digits + eax]
  call put_char
  loop .next
  ret
%include "serial.inc"
cmdline: db "cmdline=", 0
mem_upper: db 10, "mem_upper=", 0
module: db 10, "module=", 0
newline: db 10, 0
digits: db "0123456789abcdef"
  IMAGE_END
