/* try and catch in C: a function with a personality routine of our own, which the unwinder asks when an exception passes
 * through. The C++ runtime is there if an exception is. */
#include "alloc/catch.h"
#include "alloc/runtime.h"

#include <stddef.h>
#include <stdint.h>
#include <unwind.h>

__asm__(".pushsection .text\n"
        ".globl ms_call_and_catch\n"
        ".hidden ms_call_and_catch\n"
        ".type ms_call_and_catch, @function\n"
        "ms_call_and_catch:\n"
        ".cfi_startproc\n"
        ".cfi_personality 0x1b, ms_catching_personality\n" /* pc-relative, 4 bytes */
        "sub $8, %rsp\n"
        ".cfi_adjust_cfa_offset 8\n"
        "mov %rdi, %rax\n"
        "mov %rsi, %rdi\n"
        "call *%rax\n"
        "add $8, %rsp\n"
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "ret\n"
        ".cfi_restore_state\n"
        ".hidden ms_caught\n"
        ".globl ms_caught\n"
        "ms_caught:\n" /* the unwinder comes here, the exception in rax */
        "mov %rax, %rdi\n"
        "call ms_end_exception\n"
        "xor %eax, %eax\n"
        "add $8, %rsp\n"
        ".cfi_adjust_cfa_offset -8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size ms_call_and_catch, .-ms_call_and_catch\n"
        ".popsection\n");

extern void *__cxa_begin_catch(void *exception) __attribute__((weak));
extern void __cxa_end_catch(void) __attribute__((weak));
#pragma weak _Unwind_SetGR
#pragma weak _Unwind_SetIP
extern const char ms_caught[];

void ms_end_exception(void *exception);
__attribute__((used)) void ms_end_exception(void *exception) {
    MS_RUNTIME(__cxa_begin_catch, NULL)(exception);
    MS_RUNTIME(__cxa_end_catch, NULL)();
}

_Unwind_Reason_Code ms_catching_personality(int version, _Unwind_Action actions, _Unwind_Exception_Class class,
                                            struct _Unwind_Exception *exception, struct _Unwind_Context *context);
__attribute__((used)) _Unwind_Reason_Code ms_catching_personality(int version, _Unwind_Action actions,
                                                                  _Unwind_Exception_Class class,
                                                                  struct _Unwind_Exception *exception,
                                                                  struct _Unwind_Context *context) {
    (void)version, (void)class;
    if (actions & _UA_FORCE_UNWIND) return _URC_CONTINUE_UNWIND; /* a thread that is cancelled */
    const void *unwinder = __builtin_return_address(0);
    void (*set_register)(struct _Unwind_Context *, int, _Unwind_Word) = MS_RUNTIME(_Unwind_SetGR, unwinder);
    void (*set_address)(struct _Unwind_Context *, _Unwind_Ptr) = MS_RUNTIME(_Unwind_SetIP, unwinder);
    if (!set_register || !set_address || !MS_RUNTIME(__cxa_begin_catch, NULL)) return _URC_CONTINUE_UNWIND;
    if (actions & _UA_SEARCH_PHASE) return _URC_HANDLER_FOUND;
    if (!(actions & _UA_HANDLER_FRAME)) return _URC_CONTINUE_UNWIND;
    set_register(context, 0 /* rax */, (_Unwind_Word)(uintptr_t)exception);
    set_address(context, (_Unwind_Ptr)ms_caught);
    return _URC_INSTALL_CONTEXT;
}
