/* SPDX-License-Identifier: Apache-2.0
 *
 * Words for functions in inline assembler, in the language of each processor. Each is a string that
 * ends its line; what the last one leaves is what the function returns.
 */
#ifndef TESTS_SOURCES_PROCESSOR_H_
#define TESTS_SOURCES_PROCESSOR_H_

#if defined(__x86_64__)
/* The variable of the load, of 8 bytes. */
#define TAKE(variable) "movq " #variable "(%rip), %rax\n"
#define PLUS(variable) "addq " #variable "(%rip), %rax\n"
#define PLUS_VALUE(value) "addq $" #value ", %rax\n"
/* The first argument of the function that is called next. */
#define PASS(number) "movl $" #number ", %edi\n"
#define GO(function) "jmp " #function "@PLT\n"
/* An instruction that holds the whole number, for a statement. */
#define HOLD(number, variable) __asm__("movabsq $" #number ", %0" : "=r"(variable))
#elif defined(__aarch64__)
#define TAKE(variable) "adrp x1, " #variable "\nldr x0, [x1, :lo12:" #variable "]\n"
#define PLUS(variable) "adrp x1, " #variable "\nldr x1, [x1, :lo12:" #variable "]\nadd x0, x0, x1\n"
#define PLUS_VALUE(value) "add x0, x0, #" #value "\n"
#define PASS(number) "mov x0, #" #number "\n"
#define GO(function) "b " #function "\n"
/* The number lies beside the code. */
#define HOLD(number, variable) __asm__("ldr %0, =" #number : "=r"(variable))
#endif

#endif  /* TESTS_SOURCES_PROCESSOR_H_ */
