/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Pages that a process of a User Mode Linux guest will write to next, given to it at the fault of the one before them:
 * a fault takes two signals and two changes of process, which is a multiple of the time that one more page takes.
 */
#ifndef PREFAULT_H
#define PREFAULT_H

#define PREFAULT_BYTES (8 * PAGE_SIZE)

/* To the end of the aligned block that the page of ``address`` is in, or to the first page that can be written to. */
static void prefault(struct vm_area_struct *vma, unsigned long address)
{
	unsigned long after = min(ALIGN(address + 1, PREFAULT_BYTES), vma->vm_end);
	pte_t *pte;

	if (vma->vm_flags & VM_SHARED)
		return;
	address &= PAGE_MASK;
	pte = pte_offset_kernel(pmd_off(vma->vm_mm, address), address);
	for (address += PAGE_SIZE; address < after; address += PAGE_SIZE) {
		pte++;
		if (pte_present(*pte) && pte_write(*pte))
			return;
		if (handle_mm_fault(vma, address, FAULT_FLAG_USER | FAULT_FLAG_WRITE, NULL) & VM_FAULT_ERROR)
			return;
	}
}

#endif
