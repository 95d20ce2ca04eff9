// SPDX-License-Identifier: GPL-2.0

#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>

__rust_helper struct user_struct *rust_helper_get_current_user(void)
{
	return get_current_user();
}

__rust_helper unsigned long rust_helper_rlimit(unsigned int limit)
{
	return rlimit(limit);
}

__rust_helper unsigned long rust_helper_page_to_pfn(const struct page *page)
{
	return page_to_pfn(page);
}

__rust_helper struct folio *rust_helper_page_folio(struct page *page)
{
	return page_folio(page);
}

__rust_helper unsigned long rust_helper_folio_nr_pages(const struct folio *folio)
{
	return folio_nr_pages(folio);
}
