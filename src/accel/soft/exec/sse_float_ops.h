// Tables of the SSE instructions that use MXCSR, for X macros. Drives bind, handlers and tests.
#pragma once

// clang-format off

// X(mnemonic, assembler name, form of the memory operand, which results may be tiny)
#define TRAPEZE_FLOAT_OPS(X)                                                                   \
  X(ADDPS, "addps", Aligned16, AllSingles) X(ADDPD, "addpd", Aligned16, AllDoubles)            \
  X(ADDSS, "addss", Low4, Single) X(ADDSD, "addsd", Low8, Double)                              \
  X(SUBPS, "subps", Aligned16, AllSingles) X(SUBPD, "subpd", Aligned16, AllDoubles)            \
  X(SUBSS, "subss", Low4, Single) X(SUBSD, "subsd", Low8, Double)                              \
  X(MULPS, "mulps", Aligned16, AllSingles) X(MULPD, "mulpd", Aligned16, AllDoubles)            \
  X(MULSS, "mulss", Low4, Single) X(MULSD, "mulsd", Low8, Double)                              \
  X(DIVPS, "divps", Aligned16, AllSingles) X(DIVPD, "divpd", Aligned16, AllDoubles)            \
  X(DIVSS, "divss", Low4, Single) X(DIVSD, "divsd", Low8, Double)                              \
  X(SQRTPS, "sqrtps", Aligned16, Never) X(SQRTPD, "sqrtpd", Aligned16, Never)                  \
  X(SQRTSS, "sqrtss", Low4, Never) X(SQRTSD, "sqrtsd", Low8, Never)                            \
  X(MINPS, "minps", Aligned16, Never) X(MINPD, "minpd", Aligned16, Never)                      \
  X(MINSS, "minss", Low4, Never) X(MINSD, "minsd", Low8, Never)                                \
  X(MAXPS, "maxps", Aligned16, Never) X(MAXPD, "maxpd", Aligned16, Never)                      \
  X(MAXSS, "maxss", Low4, Never) X(MAXSD, "maxsd", Low8, Never)                                \
  X(ADDSUBPS, "addsubps", Aligned16, AllSingles) X(ADDSUBPD, "addsubpd", Aligned16, AllDoubles) \
  X(HADDPS, "haddps", Aligned16, AllSingles) X(HADDPD, "haddpd", Aligned16, AllDoubles)        \
  X(HSUBPS, "hsubps", Aligned16, AllSingles) X(HSUBPD, "hsubpd", Aligned16, AllDoubles)        \
  X(CVTDQ2PS, "cvtdq2ps", Aligned16, Never) X(CVTPS2DQ, "cvtps2dq", Aligned16, Never)          \
  X(CVTTPS2DQ, "cvttps2dq", Aligned16, Never) X(CVTPD2DQ, "cvtpd2dq", Aligned16, Never)        \
  X(CVTTPD2DQ, "cvttpd2dq", Aligned16, Never) X(CVTPD2PS, "cvtpd2ps", Aligned16, AllSingles)   \
  X(CVTPS2PD, "cvtps2pd", Low8, Never) X(CVTSD2SS, "cvtsd2ss", Low8, Single)                   \
  X(CVTSS2SD, "cvtss2sd", Low4, Never)

// The same with an immediate.
#define TRAPEZE_FLOAT_IMM_OPS(X)                                                               \
  X(CMPPS, "cmpps", Aligned16, Never) X(CMPPD, "cmppd", Aligned16, Never)                      \
  X(CMPSS, "cmpss", Low4, Never) X(CMPSD, "cmpsd", Low8, Never)                                \
  X(ROUNDPS, "roundps", Aligned16, Never) X(ROUNDPD, "roundpd", Aligned16, Never)              \
  X(ROUNDSS, "roundss", Low4, Never) X(ROUNDSD, "roundsd", Low8, Never)                        \
  X(DPPS, "dpps", Aligned16, AllSingles) X(DPPD, "dppd", Aligned16, AllDoubles)

// X(mnemonic, assembler name, form): a float of that form to a general register.
#define TRAPEZE_FLOAT_TO_INT_OPS(X)                                                            \
  X(CVTSS2SI, "cvtss2si", Low4) X(CVTTSS2SI, "cvttss2si", Low4)                                \
  X(CVTSD2SI, "cvtsd2si", Low8) X(CVTTSD2SI, "cvttsd2si", Low8)

// X(mnemonic, assembler name, form): sets EFLAGS.
#define TRAPEZE_FLOAT_COMPARE_OPS(X)                                                           \
  X(COMISS, "comiss", Low4) X(UCOMISS, "ucomiss", Low4)                                        \
  X(COMISD, "comisd", Low8) X(UCOMISD, "ucomisd", Low8)

// With an immediate, but without MXCSR.
#define TRAPEZE_INTEGER_IMM_OPS(X)                                                             \
  X(PSHUFD, "pshufd", Aligned16) X(PSHUFHW, "pshufhw", Aligned16)                              \
  X(PSHUFLW, "pshuflw", Aligned16) X(SHUFPS, "shufps", Aligned16) X(SHUFPD, "shufpd", Aligned16) \
  X(PALIGNR, "palignr", Aligned16) X(PBLENDW, "pblendw", Aligned16)                            \
  X(BLENDPS, "blendps", Aligned16) X(BLENDPD, "blendpd", Aligned16)                            \
  X(INSERTPS, "insertps", Low4) X(MPSADBW, "mpsadbw", Aligned16)                               \
  X(PCLMULQDQ, "pclmulqdq", Aligned16) X(AESKEYGENASSIST, "aeskeygenassist", Aligned16)

// clang-format on
