/* See page.h. MS_PAGE_HTML is the path of the built page, given by the makefile; assembler, because no C compiler of
 * ours has #embed. Two compilations of this file (library and command) each bring their own copy: hidden symbols. */
#include "export/page.h"

__asm__(".pushsection .rodata, \"a\", @progbits\n"
        ".globl ms_page_html, ms_page_html_end\n"
        ".hidden ms_page_html, ms_page_html_end\n"
        ".type ms_page_html, @object\n"
        "ms_page_html:\n"
        ".incbin \"" MS_PAGE_HTML "\"\n"
        "ms_page_html_end:\n"
        ".byte 0\n" /* ms_page_html_end must not be the address of whatever follows */
        ".size ms_page_html, ms_page_html_end - ms_page_html\n"
        ".popsection\n");
