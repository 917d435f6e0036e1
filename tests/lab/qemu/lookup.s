# How QEMU finds what it has translated (`tb_htable_lookup`, `tlb_flush_by_mmuidx_async_work`), with less to do: see `mend`, which
# gives the names that are not defined here.
        .globl  forget, again

# forget(cpu): instead of tcg_flush_jmp_cache, which empties the cache of 4096 times { translation, virtual address }. An address
# that has `OLD` as its highest byte is none, so the entry is not used as it is; the translation and the rest of the address stay.
        .equ    OLD, 0x5a
forget:
        mov     jump_cache(%rdi), %rdx
        test    %rdx, %rdx
        je      2f
        lea     entries + 15(%rdx), %rax
        lea     entries + 15 + 4096 * 16(%rdx), %rdx
1:      movb    $OLD, (%rax)
        movb    $OLD, 16(%rax)
        movb    $OLD, 32(%rax)
        movb    $OLD, 48(%rax)
        add     $64, %rax
        cmp     %rdx, %rax
        jne     1b
2:      ret

# In tb_htable_lookup, once it knows the physical address and before it looks into the table: what the cache had for this virtual
# address is most often what the table has. The function that the table compares by says so, or that it is not.
# rbp: virtual address; ebx: cflags; rax: physical address; 16(rsp): what is looked for; 40(rsp): env.
again:
        # tb_jmp_cache_hash_func
        mov     %rbp, %rcx
        shr     $6, %rcx
        xor     %rbp, %rcx
        mov     %ecx, %edx
        shr     $6, %rcx
        and     $0xfc0, %ecx
        and     $0x3f, %edx
        or      %edx, %ecx
        shl     $4, %rcx
        mov     40(%rsp), %rdx
        add     jump_cache - env(%rdx), %rcx
        # All of the address but its highest byte.
        mov     entries + 8(%rcx), %rdx
        shl     $8, %rdx
        mov     %rbp, %rdi
        shl     $8, %rdi
        cmp     %rdx, %rdi
        jne     2f
        mov     entries(%rcx), %rdi
        test    %rdi, %rdi
        je      2f
        lea     16(%rsp), %rsi
        # Twice: calls are made with the stack at a multiple of 16.
        push    %rdi
        push    %rdi
        call    tb_lookup_cmp
        pop     %rdi
        pop     %rdi
        test    %al, %al
        je      1f
        mov     %rdi, %rax
        jmp     found
1:      mov     48(%rsp), %rax
2:      mov     112(%rsp), %rdx
        mov     104(%rsp), %ecx
        # What stood where we come from.
        test    $0x20000, %ebx
        je      not_pcrel
        jmp     pcrel
