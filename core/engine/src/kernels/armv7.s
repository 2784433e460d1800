@ Inner loops of 32-bit ARM with NEON, for `armv7.rs`, which describes the arguments. r0 points at them throughout.

    .pushsection .text.selvedge_armv7, "ax", %progbits
    .syntax unified
    .arch armv7-a
    .fpu neon
    .arm

    .equ INPUTS, 0              @ two pointers
    .equ WEIGHTS, 8             @ two pointers
    .equ ROWS, 16
    .equ SEGMENTS, 20
    .equ QUADS, 24
    .equ STEP, 28
    .equ ROW_STEP, 32
    .equ CHAINED, 36
    .equ BIASES, 40             @ two pointers
    .equ MULTIPLIERS, 48        @ two pointers
    .equ RANGE, 56              @ low, high, shift, unshift
    .equ OUTPUT, 72
    .equ TAPS, 76
    .equ TAPS_END, 80
    .equ VECTORS, 84
    .equ ZERO_POINTS, 88        @ two bytes, each in a word
    .equ RATIOS, 96             @ two

    .equ TAP_BYTES, 32
    .equ TAP_OFFSET, 16
    .equ TAP_CONTINUES, 20

@ Adds to `sums`, two channels with two partial sums each, the products of one quad, by way of `products`.
.macro add_quad sums, weights, values, products
    vmull.s8 \products, \weights, \values
    vpadal.s16 \sums, \products
.endm

@ The same of two quads in a chain, for two such pairs of channels.
.macro add_two_quads sums, a, b, x, y, other, c, d, z, u
    vmull.s8 q14, \a, \x
    vmull.s8 q15, \c, \z
    vmlal.s8 q14, \b, \y
    vmlal.s8 q15, \d, \u
    vpadal.s16 \sums, q14
    vpadal.s16 \other, q15
.endm

@ Steps in `value` to integers in the range, as `requantise.rs` has it. q12 to q15 hold RANGE.
.macro round value
    vmax.f32 \value, \value, q12
    vmin.f32 \value, \value, q13
    vadd.f32 \value, \value, q14
    vsub.i32 \value, \value, q15
.endm

.macro load_range
    add r1, r0, #RANGE
    vld1.32 {d24[], d25[]}, [r1]!
    vld1.32 {d26[], d27[]}, [r1]!
    vld1.32 {d28[], d29[]}, [r1]!
    vld1.32 {d30[], d31[]}, [r1]
.endm

@ Sums of two times eight channels. q0 to q3 hold the partial sums of the first eight, q4 to q7 those of the others.
@ r1: offset of the row of the kernel, r2: of the segment. r4, r5: inputs. r6, r7: weights, each eight channels of a
@ block, so that quads are 64 bytes (r9) apart. r8: quads left. r10, r11: rows and segments left.
.macro tile name, one_pixel
    .global \name
    .hidden \name
    .type \name, %function
    .balign 16
\name:
    push {r4-r11, lr}
    vpush {d8-d15}
    vmov.i32 q0, #0
    vmov.i32 q1, #0
    vmov.i32 q2, #0
    vmov.i32 q3, #0
    vmov.i32 q4, #0
    vmov.i32 q5, #0
    vmov.i32 q6, #0
    vmov.i32 q7, #0
    ldrd r6, r7, [r0, #WEIGHTS]
    mov r9, #64
    mov r1, #0
    ldr r10, [r0, #ROWS]
1:  mov r2, r1
    ldr r11, [r0, #SEGMENTS]
2:  ldrd r4, r5, [r0, #INPUTS]
    add r4, r4, r2
    add r5, r5, r2
    ldr r8, [r0, #QUADS]
    ldr r3, [r0, #CHAINED]
    cmp r3, #0
    beq 5f
    subs r8, r8, #2
    bmi 4f
3:  vld1.8 {d16-d19}, [r6], r9
    vld1.8 {d20-d23}, [r6], r9
    vld1.32 {d24[]}, [r4]!
    vld1.32 {d25[]}, [r4]!
.if \one_pixel
    add_two_quads q0, d16, d20, d24, d25, q1, d17, d21, d24, d25
    add_two_quads q2, d18, d22, d24, d25, q3, d19, d23, d24, d25
    vld1.8 {d16-d19}, [r7], r9
    vld1.8 {d20-d23}, [r7], r9
    add_two_quads q4, d16, d20, d24, d25, q5, d17, d21, d24, d25
    add_two_quads q6, d18, d22, d24, d25, q7, d19, d23, d24, d25
.else
    vld1.32 {d26[]}, [r5]!
    vld1.32 {d27[]}, [r5]!
    add_two_quads q0, d16, d20, d24, d25, q4, d16, d20, d26, d27
    add_two_quads q1, d17, d21, d24, d25, q5, d17, d21, d26, d27
    add_two_quads q2, d18, d22, d24, d25, q6, d18, d22, d26, d27
    add_two_quads q3, d19, d23, d24, d25, q7, d19, d23, d26, d27
.endif
    subs r8, r8, #2
    bpl 3b
4:  adds r8, r8, #2
    beq 6f
5:  vld1.8 {d16-d19}, [r6], r9
    vld1.32 {d24[]}, [r4]!
.if \one_pixel
    vld1.8 {d20-d23}, [r7], r9
    vmov d26, d24
.else
    vmov q10, q8
    vmov q11, q9
    vld1.32 {d26[]}, [r5]!
.endif
    add_quad q0, d16, d24, q14
    add_quad q1, d17, d24, q15
    add_quad q2, d18, d24, q14
    add_quad q3, d19, d24, q15
    add_quad q4, d20, d26, q14
    add_quad q5, d21, d26, q15
    add_quad q6, d22, d26, q14
    add_quad q7, d23, d26, q15
    subs r8, r8, #1
    bne 5b
6:  ldr r3, [r0, #STEP]
    add r2, r2, r3
    subs r11, r11, #1
    bne 2b
    ldr r3, [r0, #ROW_STEP]
    add r1, r1, r3
    subs r10, r10, #1
    bne 1b
    @ Partial sums to sums: q0 and q1 hold eight channels in order, q4 and q5 the others.
    vpadd.i32 d0, d0, d1
    vpadd.i32 d1, d2, d3
    vpadd.i32 d2, d4, d5
    vpadd.i32 d3, d6, d7
    vpadd.i32 d8, d8, d9
    vpadd.i32 d9, d10, d11
    vpadd.i32 d10, d12, d13
    vpadd.i32 d11, d14, d15
    ldrd r2, r3, [r0, #BIASES]
    vld1.32 {d16-d19}, [r2]
    vld1.32 {d20-d23}, [r3]
    vadd.i32 q0, q0, q8
    vadd.i32 q1, q1, q9
    vadd.i32 q4, q4, q10
    vadd.i32 q5, q5, q11
    ldrd r2, r3, [r0, #MULTIPLIERS]
    vld1.32 {d16-d19}, [r2]
    vld1.32 {d20-d23}, [r3]
    vcvt.f32.s32 q0, q0
    vcvt.f32.s32 q1, q1
    vcvt.f32.s32 q4, q4
    vcvt.f32.s32 q5, q5
    vmul.f32 q0, q0, q8
    vmul.f32 q1, q1, q9
    vmul.f32 q4, q4, q10
    vmul.f32 q5, q5, q11
    load_range
    round q0
    round q1
    round q4
    round q5
    vmovn.i32 d0, q0
    vmovn.i32 d1, q1
    vmovn.i32 d8, q4
    vmovn.i32 d9, q5
    vmovn.i16 d0, q0
    vmovn.i16 d1, q4
    ldr r1, [r0, #OUTPUT]
    vst1.8 {d0, d1}, [r1]
    vpop {d8-d15}
    pop {r4-r11, pc}
    .size \name, . - \name
.endm

    tile selvedge_armv7_two_pixels, 0
    tile selvedge_armv7_one_pixel, 1

@ The weights of the tap at r6 in q8, and what they are for in q9 and q10.
.macro load_tap
    ldr r3, [r6, #TAP_OFFSET]
    add r8, r4, r3
    add r9, r5, r3
    vld1.8 {d16, d17}, [r6]
    vld1.8 {d18, d19}, [r8]
    vld1.8 {d20, d21}, [r9]
.endm

@ Two vectors of 16 channels by themselves. q0 to q3 hold the sums of the first, q4 to q7 those of the other.
    .global selvedge_armv7_depthwise
    .hidden selvedge_armv7_depthwise
    .type selvedge_armv7_depthwise, %function
    .balign 16
selvedge_armv7_depthwise:
    push {r4-r11, lr}
    vpush {d8-d15}
    ldr r1, [r0, #BIASES]
    vld1.32 {d0-d3}, [r1]!
    vld1.32 {d4-d7}, [r1]
    vmov q4, q0
    vmov q5, q1
    vmov q6, q2
    vmov q7, q3
    ldrd r4, r5, [r0, #INPUTS]
    ldr r6, [r0, #TAPS]
    ldr r7, [r0, #TAPS_END]
1:  load_tap
    vmull.s8 q11, d16, d18
    vmull.s8 q12, d17, d19
    vmull.s8 q13, d16, d20
    vmull.s8 q14, d17, d21
2:  ldr r3, [r6, #TAP_CONTINUES]
    add r6, r6, #TAP_BYTES
    cmp r3, #0
    beq 3f
    load_tap
    vmlal.s8 q11, d16, d18
    vmlal.s8 q12, d17, d19
    vmlal.s8 q13, d16, d20
    vmlal.s8 q14, d17, d21
    b 2b
3:  vaddw.s16 q0, q0, d22
    vaddw.s16 q1, q1, d23
    vaddw.s16 q2, q2, d24
    vaddw.s16 q3, q3, d25
    vaddw.s16 q4, q4, d26
    vaddw.s16 q5, q5, d27
    vaddw.s16 q6, q6, d28
    vaddw.s16 q7, q7, d29
    cmp r6, r7
    blo 1b
    ldr r1, [r0, #MULTIPLIERS]
    vld1.32 {d16-d19}, [r1]!
    vld1.32 {d20-d23}, [r1]
.irp sums, q0, q1, q2, q3, q4, q5, q6, q7
    vcvt.f32.s32 \sums, \sums
.endr
    vmul.f32 q0, q0, q8
    vmul.f32 q1, q1, q9
    vmul.f32 q2, q2, q10
    vmul.f32 q3, q3, q11
    vmul.f32 q4, q4, q8
    vmul.f32 q5, q5, q9
    vmul.f32 q6, q6, q10
    vmul.f32 q7, q7, q11
    load_range
.irp steps, q0, q1, q2, q3, q4, q5, q6, q7
    round \steps
.endr
    vmovn.i32 d0, q0
    vmovn.i32 d1, q1
    vmovn.i32 d2, q2
    vmovn.i32 d3, q3
    vmovn.i32 d4, q4
    vmovn.i32 d5, q5
    vmovn.i32 d6, q6
    vmovn.i32 d7, q7
    vmovn.i16 d0, q0
    vmovn.i16 d1, q1
    vmovn.i16 d2, q2
    vmovn.i16 d3, q3
    ldr r1, [r0, #OUTPUT]
    vst1.8 {d0-d3}, [r1]
    vpop {d8-d15}
    pop {r4-r11, pc}
    .size selvedge_armv7_depthwise, . - selvedge_armv7_depthwise

@ Sums of two inputs, in vectors of eight values. d0 and d1 hold the zero points, q1 and q2 the ratios.
    .global selvedge_armv7_add
    .hidden selvedge_armv7_add
    .type selvedge_armv7_add, %function
    .balign 16
selvedge_armv7_add:
    push {r4-r6, lr}
    vpush {d8-d11}
    ldrd r4, r5, [r0, #INPUTS]
    ldr r6, [r0, #OUTPUT]
    ldr r3, [r0, #VECTORS]
    add r1, r0, #ZERO_POINTS
    add r2, r0, #ZERO_POINTS + 4
    vld1.8 {d0[]}, [r1]
    vld1.8 {d1[]}, [r2]
    add r1, r0, #RATIOS
    vld1.32 {d2[], d3[]}, [r1]!
    vld1.32 {d4[], d5[]}, [r1]
    load_range
1:  vld1.8 {d16}, [r4]!
    vld1.8 {d17}, [r5]!
    vsubl.s8 q9, d16, d0
    vsubl.s8 q10, d17, d1
    vmovl.s16 q3, d18
    vmovl.s16 q4, d19
    vmovl.s16 q5, d20
    vmovl.s16 q11, d21
.irp steps, q3, q4, q5, q11
    vcvt.f32.s32 \steps, \steps
.endr
    vmul.f32 q3, q3, q1
    vmul.f32 q4, q4, q1
    vmul.f32 q5, q5, q2
    vmul.f32 q11, q11, q2
    vadd.f32 q3, q3, q5
    vadd.f32 q4, q4, q11
    @ Infinities may cancel out: what is no number is the least value.
    vceq.f32 q8, q3, q3
    vbif q3, q12, q8
    vceq.f32 q8, q4, q4
    vbif q4, q12, q8
    round q3
    round q4
    vmovn.i32 d6, q3
    vmovn.i32 d7, q4
    vmovn.i16 d6, q3
    vst1.8 {d6}, [r6]!
    subs r3, r3, #1
    bne 1b
    vpop {d8-d11}
    pop {r4-r6, pc}
    .size selvedge_armv7_add, . - selvedge_armv7_add
    .popsection
