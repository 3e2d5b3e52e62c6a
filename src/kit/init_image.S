// The guest's init (guest/init) as read-only data.
  .section .rodata
  .balign 16
  .globl trapeze_init_image
  .globl trapeze_init_image_end
trapeze_init_image:
  .incbin TRAPEZE_INIT_FILE
trapeze_init_image_end:
  .byte 0
  .section .note.GNU-stack, "", @progbits
