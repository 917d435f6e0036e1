// A guest that attacks its devices for as long as it is let: entered in 64-bit mode with the first GiB mapped to itself
// and interrupts off. It plays a driver as far as DRIVER_OK, and then writes nonsense: into rings, to registers, to ports.
//
//   0x0100_0000  this code
//   0x0180_0000  top of the stack
//   0x0190_0000  page tables: PML4, PDPT, the first GiB, the fourth
//   0x0200_0000  arena, 1 MiB: descriptor tables and all that they lead to, over one another
//   0x0240_0000  rings: 64 KiB a device, of that 8 KiB a queue: available, 0x1000 further used
//
// The guest is to live on, so devices must not write to its code, stack and page tables, nor give them back. Every number of
// 32 bits in the arena, which may be taken for a page by the balloon, is therefore one of a page below the code, in or
// behind the arena, or of none; and every address, which may be one of a descriptor, leads into the arena, below the code,
// or out of memory. This holds as well where records have come to be displaced by a few words. Random numbers are exempt.
//
// r15 is the state of the random numbers (xorshift64, the same in every run), ebp the registers of the device whose turn it
// is, ebx a queue.

    .section .rodata.hostile, "a"
    .balign 16
    .global rvm_hostile_guest, rvm_hostile_guest_end
rvm_hostile_guest:
    cld
    mov     esp, 0x1800000
    movabs  r15, 0x9e3779b97f4a7c15
    mov     edi, 0x1900000
    mov     eax, 0x1901003
    mov     [rdi], rax
    mov     edi, 0x1901000
    mov     eax, 0x1902003
    mov     [rdi], rax
    // The devices' memory, 0xd000_0000: entry 3 here, entry 128 in its directory.
    mov     eax, 0x1903003
    mov     [rdi + 24], rax
    mov     edi, 0x1903000
    mov     eax, 0xd0000083
    mov     [rdi + 1024], rax
    mov     edi, 0x1902000
    mov     eax, 0x83
24: mov     [rdi], rax
    add     edi, 8
    add     eax, 0x200000
    cmp     eax, 0x40000083
    jne     24b
    mov     eax, 0x1900000
    mov     cr3, rax
    mov     ebx, 0x10000
2:  call    .Lwrite_record
    dec     ebx
    jne     2b

.Lnext_device:
    // Of six devices, and the place behind the last.
    call    .Lrandom
    xor     edx, edx
    mov     ecx, 7
    div     rcx
    shl     edx, 12
    mov     ebp, 0xd0000000
    add     ebp, edx
    mov     dword ptr [rbp + 0x70], 0
    mov     dword ptr [rbp + 0x70], 1
    mov     dword ptr [rbp + 0x70], 3
    // All features, or one time in four some of them; of the upper half, VERSION_1.
    call    .Lrandom
    mov     dword ptr [rbp + 0x14], 0
    mov     ecx, [rbp + 0x10]
    test    al, 3
    jne     3f
    shr     rax, 8
    and     ecx, eax
3:  mov     dword ptr [rbp + 0x24], 0
    mov     [rbp + 0x20], ecx
    mov     dword ptr [rbp + 0x14], 1
    mov     ecx, [rbp + 0x10]
    mov     dword ptr [rbp + 0x24], 1
    mov     [rbp + 0x20], ecx
    mov     dword ptr [rbp + 0x70], 0xb
    xor     ebx, ebx

.Lset_up_queue:
    mov     [rbp + 0x30], ebx
    call    .Lrandom
    // The largest size, or a half, a quarter, an eighth of it.
    mov     ecx, eax
    and     ecx, 3
    mov     edx, [rbp + 0x34]
    shr     edx, cl
    mov     [rbp + 0x38], edx
    shr     rax, 8
    // A table's first 32 descriptors are whole chains where it begins at a multiple of their size.
    mov     ecx, eax
    and     ecx, 0xffe00
    add     ecx, 0x2000000
    mov     [rbp + 0x80], ecx
    call    .Lring
    mov     [rbp + 0x90], r12d
    mov     dword ptr [rbp + 0x94], 0
    lea     ecx, [r12 + 0x1000]
    mov     [rbp + 0xa0], ecx
    mov     dword ptr [rbp + 0xa4], 0
    // One table in 32 lies where no memory is.
    shr     rax, 24
    xor     ecx, ecx
    test    al, 31
    cmove   ecx, eax
    mov     [rbp + 0x84], ecx
    mov     dword ptr [r12], 0
    mov     edx, 64
4:  call    .Lrandom
    movabs  rcx, 0x001f001f001f001f
    and     rax, rcx
    mov     [r12 + rdx * 8 - 4], rax
    dec     edx
    jne     4b
    mov     dword ptr [rbp + 0x44], 1
    inc     ebx
    cmp     ebx, 4
    jne     .Lset_up_queue
    mov     dword ptr [rbp + 0x70], 0xf

    mov     r13d, 16
.Lkick:
    mov     r14d, 16
5:  call    .Lwrite_record
    dec     r14d
    jne     5b
    call    .Lrandom
    mov     ebx, eax
    and     ebx, 3
    call    .Lring
    shr     rax, 8
    mov     ecx, eax
    and     ecx, 7
    add     [r12 + 2], cx
    // One kick in 64 offers far more than there is.
    shr     rax, 8
    test    al, 63
    jne     6f
    mov     [r12 + 2], ax
6:  mov     [rbp + 0x50], ebx
    call    .Ltouch_register
    call    .Ltouch_port
    dec     r13d
    jne     .Lkick
    jmp     .Lnext_device

// Any register of any device: half of the values small, so that some mean something.
.Ltouch_register:
    call    .Lrandom
    mov     ecx, eax
    and     ecx, 0x71ff
    mov     edi, 0xd0000000
    add     edi, ecx
    shr     rax, 16
    mov     ecx, eax
    and     ecx, 7
    shr     rax, 4
    test    al, 1
    je      7f
    shr     eax, 1
    and     eax, 15
7:  cmp     ecx, 1
    jb      8f
    je      9f
    cmp     ecx, 3
    jb      30f
    je      31f
    and     edi, -4
    cmp     ecx, 5
    jbe     12f
    mov     [rdi], eax
    ret
8:  mov     [rdi], al
    ret
9:  mov     [rdi], ax
    ret
30: mov     [rdi], rax
    ret
31: mov     rax, [rdi]
    ret
12: mov     eax, [rdi]
    ret

// A port: anything for the console; for those that end the machine, nothing that does.
.Ltouch_port:
    call    .Lrandom
    mov     ecx, eax
    and     ecx, 15
    lea     rdx, [rip + .Lports]
    movzx   edx, word ptr [rdx + rcx * 2]
    shr     rax, 8
    mov     ecx, edx
    and     ecx, 0xfff8
    cmp     ecx, 0x3f8
    je      13f
    and     al, 0x5c
13: bt      eax, 20
    jc      14f
    bt      eax, 21
    jc      15f
    bt      eax, 22
    jc      16f
    out     dx, al
    ret
14: in      al, dx
    ret
15: out     dx, eax
    in      eax, dx
    ret
16: cmp     ecx, 0x3f8
    jne     17f
    mov     esi, 0x2000000
    mov     ecx, eax
    and     ecx, 15
    rep     outsb
17: ret

.Lports:
    .short  0x60, 0x64, 0x505, 0x600, 0x601, 0x6e0, 0x3f8, 0x3f8
    .short  0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff

// Sixteen bytes (some more for a chain or a socket's packet) somewhere in the arena, which may be taken for a descriptor.
.Lwrite_record:
    call    .Lrandom
    mov     edi, eax
    and     edi, 0xffff0
    add     edi, 0x2000000
    shr     rax, 20
    mov     ecx, eax
    and     ecx, 15
    shr     rax, 4
    cmp     ecx, 3
    jb      18f
    je      19f
    cmp     ecx, 5
    jbe     20f
    cmp     ecx, 6
    je      21f
    cmp     ecx, 9
    jbe     25f
    // A descriptor: into the arena, at multiples of four or sixteen; of up to 4 KiB, or of 32 KiB to 128 KiB.
    mov     ecx, eax
    and     ecx, 0xffffc
    bt      eax, 21
    jc      22f
    and     ecx, 0xffff0
22: add     ecx, 0x2000000
    mov     [rdi], rcx
    call    .Lrandom
    mov     ecx, eax
    and     ecx, 0xfff
    bt      eax, 17
    jc      23f
    mov     ecx, eax
    and     ecx, 0x1ffff
    or      ecx, 0x8000
23: mov     [rdi + 8], ecx
    // Each flag (NEXT, WRITE, INDIRECT) in a quarter of them.
    shr     rax, 32
    mov     ecx, eax
    shr     ecx, 3
    and     ecx, eax
    and     ecx, 7
    mov     [rdi + 12], cx
    shr     eax, 8
    and     eax, 31
    mov     [rdi + 14], ax
    ret
    // A request for a disk: its type, its sector.
18: mov     ecx, eax
    and     ecx, 15
    mov     [rdi], rcx
    shr     eax, 4
    and     eax, 255
    mov     [rdi + 8], rax
    ret
    // A chain as a disk wants it: the request (to read, to write, for the name); data in either direction; the status.
25: mov     edx, edi
    shr     edx, 4
    and     edx, 31
    cmp     edx, 29
    ja      26f
    mov     ecx, eax
    and     ecx, 0xffff0
    add     ecx, 0x2000000
    mov     [rdi], rcx
    mov     [rdi + 32], rcx
    shr     rax, 20
    mov     esi, eax
    and     esi, 9
    mov     [rcx], rsi
    movzx   esi, ah
    mov     [rcx + 8], rsi
    mov     dword ptr [rdi + 8], 16
    mov     word ptr [rdi + 12], 1
    inc     edx
    mov     [rdi + 14], dx
    call    .Lrandom
    mov     ecx, eax
    and     ecx, 0xffe00
    add     ecx, 0x2000000
    mov     [rdi + 16], rcx
    mov     dword ptr [rdi + 24], 0x400
    shr     rax, 20
    and     eax, 2
    or      eax, 1
    mov     [rdi + 28], ax
    inc     edx
    mov     [rdi + 30], dx
    mov     dword ptr [rdi + 40], 1
    mov     dword ptr [rdi + 44], 2
26: ret
    // A packet from the guest's socket to the host: ports, length, operation, credit.
19: mov     qword ptr [rdi], 3
    mov     qword ptr [rdi + 8], 2
    mov     ecx, eax
    and     ecx, 7
    mov     [rdi + 16], ecx
    mov     [rdi + 20], ecx
    shr     rax, 3
    movzx   ecx, al
    mov     [rdi + 24], ecx
    mov     word ptr [rdi + 28], 1
    shr     rax, 8
    mov     ecx, eax
    and     ecx, 7
    mov     [rdi + 30], cx
    shr     rax, 3
    mov     [rdi + 32], eax
    mov     [rdi + 36], eax
    mov     [rdi + 40], eax
    ret
    // Numbers of pages, for the balloon: from the arena on.
20: and     eax, 0x7ff
    add     eax, 0x2000
    mov     [rdi], eax
    mov     [rdi + 4], eax
    inc     eax
    mov     [rdi + 8], eax
    add     eax, 7
    mov     [rdi + 12], eax
    ret
    // Nonsense.
21: call    .Lrandom
    mov     [rdi], rax
    call    .Lrandom
    mov     [rdi + 8], rax
    ret

// r12: the available ring of queue ebx.
.Lring:
    mov     r12d, ebp
    and     r12d, 0x7000
    shl     r12d, 4
    mov     ecx, ebx
    shl     ecx, 13
    add     r12d, ecx
    add     r12d, 0x2400000
    ret

// rax: the next random number.
.Lrandom:
    mov     rax, r15
    shl     rax, 13
    xor     r15, rax
    mov     rax, r15
    shr     rax, 7
    xor     r15, rax
    mov     rax, r15
    shl     rax, 17
    xor     r15, rax
    mov     rax, r15
    ret
rvm_hostile_guest_end:
