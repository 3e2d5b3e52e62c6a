# See guest_programs.h. Port 0xf4 says "done".
.set ROUNDS, 0x10000
.set TICKS, 0x10008
.set SUM, 0x10010
.set UPPER, 0x10020
.set TURNS, 0x10040
.set STOP, 0x10048

.macro program name
.global \name\()_begin, \name\()_end
\name\()_begin:
.endm
.macro end_program name
\name\()_end:
.endm

.macro start_apic_timer
  mov $0x80f, %ecx        # spurious vector register: on
  mov $0x1ff, %eax
  xor %edx, %edx
  wrmsr
  mov $0x83e, %ecx        # divide by 1
  mov $0xb, %eax
  wrmsr
  mov $0x832, %ecx        # LVT timer: periodic, vector 0x40
  mov $0x20040, %eax
  wrmsr
  mov $0x838, %ecx        # every 10 ms
  mov $10000000, %eax
  wrmsr
.endm

.macro count_turns
  mov $1, %eax
  cvtsi2sd %rax, %xmm1
  xorpd %xmm0, %xmm0
  xor %edi, %edi
  sti
1:
  addsd %xmm1, %xmm0
  inc %rdi
  incq ROUNDS
  cmpq $0, STOP
  je 1b
  cli
  movsd %xmm0, SUM
  mov %rdi, TURNS
.endm

.section .rodata
.code64
program count
  start_apic_timer
  count_turns
  out %al, $0xf4
2: hlt
  jmp 2b
end_program count

program count_avx
  start_apic_timer
  mov $0x5a5a12345678a5a5, %rax
  mov %rax, UPPER
  vbroadcastsd UPPER, %ymm2
  movq $0, UPPER
  count_turns
  vextractf128 $1, %ymm2, %xmm3
  vmovsd %xmm3, UPPER
  out %al, $0xf4
2: hlt
  jmp 2b
end_program count_avx

program apic_handler
  push %rax
  push %rcx
  push %rdx
  incq TICKS
  mov $0x80b, %ecx
  xor %eax, %eax
  xor %edx, %edx
  wrmsr
  pop %rdx
  pop %rcx
  pop %rax
  iretq
end_program apic_handler

.macro outb value, port
  mov $\value, %al
  out %al, $\port
.endm

program pic
  outb 0x11, 0x20
  outb 0x20, 0x21         # vectors from 0x20
  outb 0x04, 0x21
  outb 0x01, 0x21
  outb 0xfe, 0x21         # IRQ 0 alone
  outb 0x11, 0xa0
  outb 0x28, 0xa1
  outb 0x02, 0xa1
  outb 0x01, 0xa1
  outb 0xff, 0xa1
  outb 0x34, 0x43         # channel 0, rate generator, 100 Hz
  outb 0x9c, 0x40
  outb 0x2e, 0x40
  sti
1: hlt
  cmpq $0, STOP
  je 1b
  cli
  out %al, $0xf4
2: hlt
  jmp 2b
end_program pic

program pic_handler
  push %rax
  incq TICKS
  outb 0x20, 0x20
  pop %rax
  iretq
end_program pic_handler

program halt
  sti
1: hlt
  jmp 1b
end_program halt

program kick
  mov $100, %ecx
  mov $0xe0000000, %edi
1: mov %ax, (%rdi)
  dec %ecx
  jnz 1b
  out %al, $0xf4
2: hlt
  jmp 2b
end_program kick

program triple
  push $0
  push $0
  lidt (%rsp)
  ud2
end_program triple

program wild
  mov $0xe0000000, %eax
  jmp *%rax
end_program wild

program report_handler
  out %al, $0xf4
  mov $0x80b, %ecx
  xor %eax, %eax
  xor %edx, %edx
  wrmsr
  iretq
end_program report_handler

.section .note.GNU-stack,"",@progbits
