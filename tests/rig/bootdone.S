# init for figures.py: restarts the machine, which ends every monitor, and does nothing else.
.globl _start
.text
_start:
  mov $169, %eax          # reboot(MAGIC1, MAGIC2, RESTART)
  mov $0xfee1dead, %edi
  mov $672274793, %esi
  mov $0x01234567, %edx
  syscall
  hlt                     # ends in a panic, which figures.py notices
.section .note.GNU-stack,"",@progbits
