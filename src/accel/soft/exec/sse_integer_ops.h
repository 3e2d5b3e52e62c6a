// Tables of the MMX and SSE instructions `op reg, reg/m` that do not touch MXCSR, for X macros:
// X(mnemonic, assembler name), and in TRAPEZE_XMM_OPS the form of the memory operand (the others:
// Aligned16). Drives bind, handlers and tests.
#pragma once

// clang-format off

// On MMX and on XMM registers.
#define TRAPEZE_MMX_AND_XMM_OPS(X)                                                            \
  X(PACKSSWB, "packsswb") X(PACKSSDW, "packssdw") X(PACKUSWB, "packuswb")                     \
  X(PADDB, "paddb") X(PADDW, "paddw") X(PADDD, "paddd") X(PADDQ, "paddq")                     \
  X(PADDSB, "paddsb") X(PADDSW, "paddsw") X(PADDUSB, "paddusb") X(PADDUSW, "paddusw")         \
  X(PSUBB, "psubb") X(PSUBW, "psubw") X(PSUBD, "psubd") X(PSUBQ, "psubq")                     \
  X(PSUBSB, "psubsb") X(PSUBSW, "psubsw") X(PSUBUSB, "psubusb") X(PSUBUSW, "psubusw")         \
  X(PAND, "pand") X(PANDN, "pandn") X(POR, "por") X(PXOR, "pxor")                             \
  X(PAVGB, "pavgb") X(PAVGW, "pavgw")                                                         \
  X(PCMPEQB, "pcmpeqb") X(PCMPEQW, "pcmpeqw") X(PCMPEQD, "pcmpeqd")                           \
  X(PCMPGTB, "pcmpgtb") X(PCMPGTW, "pcmpgtw") X(PCMPGTD, "pcmpgtd")                           \
  X(PMADDWD, "pmaddwd") X(PMAXSW, "pmaxsw") X(PMAXUB, "pmaxub")                               \
  X(PMINSW, "pminsw") X(PMINUB, "pminub") X(PMULHUW, "pmulhuw") X(PMULHW, "pmulhw")           \
  X(PMULLW, "pmullw") X(PMULUDQ, "pmuludq") X(PSADBW, "psadbw")                               \
  X(PSLLW, "psllw") X(PSLLD, "pslld") X(PSLLQ, "psllq") X(PSRAW, "psraw") X(PSRAD, "psrad")   \
  X(PSRLW, "psrlw") X(PSRLD, "psrld") X(PSRLQ, "psrlq")                                       \
  X(PUNPCKHBW, "punpckhbw") X(PUNPCKHWD, "punpckhwd") X(PUNPCKHDQ, "punpckhdq")               \
  X(PUNPCKLBW, "punpcklbw") X(PUNPCKLWD, "punpcklwd") X(PUNPCKLDQ, "punpckldq")               \
  X(PABSB, "pabsb") X(PABSW, "pabsw") X(PABSD, "pabsd")                                       \
  X(PHADDW, "phaddw") X(PHADDD, "phaddd") X(PHADDSW, "phaddsw")                               \
  X(PHSUBW, "phsubw") X(PHSUBD, "phsubd") X(PHSUBSW, "phsubsw")                               \
  X(PMADDUBSW, "pmaddubsw") X(PMULHRSW, "pmulhrsw") X(PSHUFB, "pshufb")                       \
  X(PSIGNB, "psignb") X(PSIGNW, "psignw") X(PSIGND, "psignd")

// On XMM registers only: SSE, SSE2 and SSE3 (RCP and RSQRT raise no exceptions and ignore MXCSR).
#define TRAPEZE_XMM_OPS(X)                                                                     \
  X(PUNPCKHQDQ, "punpckhqdq", Aligned16) X(PUNPCKLQDQ, "punpcklqdq", Aligned16)                \
  X(ANDPS, "andps", Aligned16) X(ANDPD, "andpd", Aligned16) X(ANDNPS, "andnps", Aligned16)     \
  X(ANDNPD, "andnpd", Aligned16) X(ORPS, "orps", Aligned16) X(ORPD, "orpd", Aligned16)         \
  X(XORPS, "xorps", Aligned16) X(XORPD, "xorpd", Aligned16)                                    \
  X(UNPCKHPS, "unpckhps", Aligned16) X(UNPCKHPD, "unpckhpd", Aligned16)                        \
  X(UNPCKLPS, "unpcklps", Aligned16) X(UNPCKLPD, "unpcklpd", Aligned16)                        \
  X(MOVSLDUP, "movsldup", Aligned16) X(MOVSHDUP, "movshdup", Aligned16)                        \
  X(MOVDDUP, "movddup", Low8) X(RCPPS, "rcpps", Aligned16) X(RCPSS, "rcpss", Low4)             \
  X(RSQRTPS, "rsqrtps", Aligned16) X(RSQRTSS, "rsqrtss", Low4) X(CVTDQ2PD, "cvtdq2pd", Low8)   \
  /* SSE4.1 */                                                                                 \
  X(PACKUSDW, "packusdw", Aligned16) X(PCMPEQQ, "pcmpeqq", Aligned16)                          \
  X(PHMINPOSUW, "phminposuw", Aligned16) X(PMAXSB, "pmaxsb", Aligned16)                        \
  X(PMAXSD, "pmaxsd", Aligned16) X(PMAXUD, "pmaxud", Aligned16)                                \
  X(PMAXUW, "pmaxuw", Aligned16) X(PMINSB, "pminsb", Aligned16)                                \
  X(PMINSD, "pminsd", Aligned16) X(PMINUD, "pminud", Aligned16)                                \
  X(PMINUW, "pminuw", Aligned16) X(PMULDQ, "pmuldq", Aligned16)                                \
  X(PMULLD, "pmulld", Aligned16) X(PMOVSXBW, "pmovsxbw", Low8) X(PMOVSXBD, "pmovsxbd", Low4)   \
  X(PMOVSXBQ, "pmovsxbq", Low2) X(PMOVSXWD, "pmovsxwd", Low8) X(PMOVSXWQ, "pmovsxwq", Low4)    \
  X(PMOVSXDQ, "pmovsxdq", Low8) X(PMOVZXBW, "pmovzxbw", Low8) X(PMOVZXBD, "pmovzxbd", Low4)    \
  X(PMOVZXBQ, "pmovzxbq", Low2) X(PMOVZXWD, "pmovzxwd", Low8) X(PMOVZXWQ, "pmovzxwq", Low4)    \
  X(PMOVZXDQ, "pmovzxdq", Low8)                                                                \
  /* SSE4.2 */                                                                                 \
  X(PCMPGTQ, "pcmpgtq", Aligned16)

// AES-NI; the host has it when the CPU model offers it.
#define TRAPEZE_AES_OPS(X)                                                                    \
  X(AESENC, "aesenc") X(AESENCLAST, "aesenclast") X(AESDEC, "aesdec")                         \
  X(AESDECLAST, "aesdeclast") X(AESIMC, "aesimc")

// Shifts that also take an immediate count.
#define TRAPEZE_SHIFT_OPS(X)                                                                  \
  X(PSLLW, "psllw") X(PSLLD, "pslld") X(PSLLQ, "psllq") X(PSRAW, "psraw") X(PSRAD, "psrad")   \
  X(PSRLW, "psrlw") X(PSRLD, "psrld") X(PSRLQ, "psrlq")

// Blends under a mask in XMM0.
#define TRAPEZE_BLEND_OPS(X)                                                                  \
  X(PBLENDVB, "pblendvb") X(BLENDVPS, "blendvps") X(BLENDVPD, "blendvpd")

// clang-format on
