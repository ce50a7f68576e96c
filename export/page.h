/* The built page (export/web/dist/report.html), embedded read-only: bytes ms_page_html .. ms_page_html_end. */
#ifndef MS_EXPORT_PAGE_H
#define MS_EXPORT_PAGE_H

extern const char ms_page_html[] __attribute__((visibility("hidden")));
extern const char ms_page_html_end[] __attribute__((visibility("hidden")));

#endif
