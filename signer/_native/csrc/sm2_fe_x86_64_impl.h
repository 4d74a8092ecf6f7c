/*
 * Field arithmetic for x86-64 with BMI2 and ADX: the same functions with the
 * same bounds as in sm2_fp_impl.h, which includes this file in their place.
 *
 * Each is one block of assembly without a branch. p = -1 mod 2^64, so every
 * Montgomery step adds m*p for the lowest limb m itself; over 2^64 that is
 * +m at limbs 0 and 3 (of what remains) and -(m<<32), -(m>>32) at limbs 0..3.
 */
#ifndef SM2_FE_X86_64_IMPL_H
#define SM2_FE_X86_64_IMPL_H

/* z := x+y mod p. In: x,y < p. Out: z < p. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fe_add(sm2_fe *z, const sm2_fe *x, const sm2_fe *y)
{
    uint64_t t0 = x->v[0], t1 = x->v[1], t2 = x->v[2], t3 = x->v[3], u0, u1, u2, u3, c;

    __asm__("xorl %k[c], %k[c]\n\t"
            "addq %[y0], %[t0]\n\t"
            "adcq %[y1], %[t1]\n\t"
            "adcq %[y2], %[t2]\n\t"
            "adcq %[y3], %[t3]\n\t"
            "adcq $0, %[c]\n\t"
            "movq %[t0], %[u0]\n\t"
            "movq %[t1], %[u1]\n\t"
            "movq %[t2], %[u2]\n\t"
            "movq %[t3], %[u3]\n\t"
            "subq $-1, %[t0]\n\t"
            "sbbq %[p1], %[t1]\n\t"
            "sbbq $-1, %[t2]\n\t"
            "sbbq %[p3], %[t3]\n\t"
            "sbbq $0, %[c]\n\t"
            "cmovcq %[u0], %[t0]\n\t"
            "cmovcq %[u1], %[t1]\n\t"
            "cmovcq %[u2], %[t2]\n\t"
            "cmovcq %[u3], %[t3]\n\t"
            : [t0] "+&r"(t0), [t1] "+&r"(t1), [t2] "+&r"(t2), [t3] "+&r"(t3), [u0] "=&r"(u0),
              [u1] "=&r"(u1), [u2] "=&r"(u2), [u3] "=&r"(u3), [c] "=&r"(c)
            : [y0] "m"(y->v[0]), [y1] "m"(y->v[1]), [y2] "m"(y->v[2]), [y3] "m"(y->v[3]),
              [p1] "rm"(SM2_P1), [p3] "rm"(SM2_P3)
            : "cc");
    z->v[0] = t0;
    z->v[1] = t1;
    z->v[2] = t2;
    z->v[3] = t3;
    VERIFY_CHECK(sm2_u256_less(z, &sm2_p));
}

/* z := x-y mod p. In: x,y < p. Out: z < p. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fe_sub(sm2_fe *z, const sm2_fe *x, const sm2_fe *y)
{
    uint64_t t0 = x->v[0], t1 = x->v[1], t2 = x->v[2], t3 = x->v[3], m, m1 = SM2_P1, m3 = SM2_P3;

    __asm__("subq %[y0], %[t0]\n\t"
            "sbbq %[y1], %[t1]\n\t"
            "sbbq %[y2], %[t2]\n\t"
            "sbbq %[y3], %[t3]\n\t"
            "sbbq %[m], %[m]\n\t"
            "andq %[m], %[m1]\n\t"
            "andq %[m], %[m3]\n\t"
            "addq %[m], %[t0]\n\t"
            "adcq %[m1], %[t1]\n\t"
            "adcq %[m], %[t2]\n\t"
            "adcq %[m3], %[t3]\n\t"
            : [t0] "+&r"(t0), [t1] "+&r"(t1), [t2] "+&r"(t2), [t3] "+&r"(t3), [m] "=&r"(m),
              [m1] "+&r"(m1), [m3] "+&r"(m3)
            : [y0] "m"(y->v[0]), [y1] "m"(y->v[1]), [y2] "m"(y->v[2]), [y3] "m"(y->v[3])
            : "cc");
    z->v[0] = t0;
    z->v[1] = t1;
    z->v[2] = t2;
    z->v[3] = t3;
    VERIFY_CHECK(sm2_u256_less(z, &sm2_p));
}

/* t4..t0 += x*rdx, the carry out of t4 being 0; zero must hold 0. */
#define SM2_X86_ROW(t0, t1, t2, t3, t4, zero)                                    \
    "xorl %k[" zero "], %k[" zero "]\n\t"                                        \
    "mulxq 0(%[x]), %%rax, %%rcx\n\t"                                            \
    "adcxq %%rax, %[" t0 "]\n\t"                                                 \
    "adoxq %%rcx, %[" t1 "]\n\t"                                                 \
    "mulxq 8(%[x]), %%rax, %%rcx\n\t"                                            \
    "adcxq %%rax, %[" t1 "]\n\t"                                                 \
    "adoxq %%rcx, %[" t2 "]\n\t"                                                 \
    "mulxq 16(%[x]), %%rax, %%rcx\n\t"                                           \
    "adcxq %%rax, %[" t2 "]\n\t"                                                 \
    "adoxq %%rcx, %[" t3 "]\n\t"                                                 \
    "mulxq 24(%[x]), %%rax, %%rcx\n\t"                                           \
    "adcxq %%rax, %[" t3 "]\n\t"                                                 \
    "adoxq %%rcx, %[" t4 "]\n\t"                                                 \
    "adcxq %[" zero "], %[" t4 "]\n\t"

/* (t5,t4..t1) := (t5..t0 + m*p)/2^64 with m = t0. */
#define SM2_X86_REDUCE(t0, t1, t2, t3, t4, t5)                                   \
    "movq %[" t0 "], %%rax\n\t"                                                  \
    "movq %[" t0 "], %%rcx\n\t"                                                  \
    "shlq $32, %%rax\n\t"                                                        \
    "shrq $32, %%rcx\n\t"                                                        \
    "addq %[" t0 "], %[" t1 "]\n\t"                                              \
    "adcq $0, %[" t2 "]\n\t"                                                     \
    "adcq $0, %[" t3 "]\n\t"                                                     \
    "adcq %[" t0 "], %[" t4 "]\n\t"                                              \
    "adcq $0, %[" t5 "]\n\t"                                                     \
    "subq %%rax, %[" t1 "]\n\t"                                                  \
    "sbbq %%rcx, %[" t2 "]\n\t"                                                  \
    "sbbq %%rax, %[" t3 "]\n\t"                                                  \
    "sbbq %%rcx, %[" t4 "]\n\t"                                                  \
    "sbbq $0, %[" t5 "]\n\t"

/*
 * z := x*y/2^256 mod p. In: x,y < p. Out: z < p. CT: yes. z may alias x, y.
 * Before each row the running value is < 2p, so a row ends < p*(2^64+1) < 2^320.
 */
SM2_INLINE void sm2_fe_mul(sm2_fe *z, const sm2_fe *x, const sm2_fe *y)
{
    uint64_t a, b, c, d, e, f;

    __asm__("movq 0(%[y]), %%rdx\n\t"
            "mulxq 0(%[x]), %[a], %[b]\n\t"
            "mulxq 8(%[x]), %%rax, %[c]\n\t"
            "addq %%rax, %[b]\n\t"
            "mulxq 16(%[x]), %%rax, %[d]\n\t"
            "adcq %%rax, %[c]\n\t"
            "mulxq 24(%[x]), %%rax, %[e]\n\t"
            "adcq %%rax, %[d]\n\t"
            "adcq $0, %[e]\n\t"
            "xorl %k[f], %k[f]\n\t"
            SM2_X86_REDUCE("a", "b", "c", "d", "e", "f")
            "movq 8(%[y]), %%rdx\n\t"
            SM2_X86_ROW("b", "c", "d", "e", "f", "a")
            SM2_X86_REDUCE("b", "c", "d", "e", "f", "a")
            "movq 16(%[y]), %%rdx\n\t"
            SM2_X86_ROW("c", "d", "e", "f", "a", "b")
            SM2_X86_REDUCE("c", "d", "e", "f", "a", "b")
            "movq 24(%[y]), %%rdx\n\t"
            SM2_X86_ROW("d", "e", "f", "a", "b", "c")
            SM2_X86_REDUCE("d", "e", "f", "a", "b", "c")
            /* e, f, a, b and the carry c */
            "movq %[e], %[d]\n\t"
            "movq %[f], %%rax\n\t"
            "movq %[a], %%rcx\n\t"
            "movq %[b], %%rdx\n\t"
            "subq $-1, %[e]\n\t"
            "sbbq %[p1], %[f]\n\t"
            "sbbq $-1, %[a]\n\t"
            "sbbq %[p3], %[b]\n\t"
            "sbbq $0, %[c]\n\t"
            "cmovcq %[d], %[e]\n\t"
            "cmovcq %%rax, %[f]\n\t"
            "cmovcq %%rcx, %[a]\n\t"
            "cmovcq %%rdx, %[b]\n\t"
            : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [e] "=&r"(e), [f] "=&r"(f)
            : [x] "r"(x), [y] "r"(y), [p1] "m"(sm2_p.v[1]), [p3] "m"(sm2_p.v[3]),
              "m"(*x), "m"(*y)
            : "rax", "rcx", "rdx", "cc");
    z->v[0] = e;
    z->v[1] = f;
    z->v[2] = a;
    z->v[3] = b;
    VERIFY_CHECK(sm2_u256_less(z, &sm2_p));
}

/* (t0,t3,t2,t1) := (t3..t0 + m*p)/2^64 with m = t0, top limb in t0. */
#define SM2_X86_REDUCE_LOW(t0, t1, t2, t3)                                       \
    "movq %[" t0 "], %%rdx\n\t"                                                  \
    "movq %[" t0 "], %%rax\n\t"                                                  \
    "movq %[" t0 "], %%rcx\n\t"                                                  \
    "shlq $32, %%rax\n\t"                                                        \
    "shrq $32, %%rcx\n\t"                                                        \
    "subq %%rax, %[" t1 "]\n\t"                                                  \
    "sbbq %%rcx, %[" t2 "]\n\t"                                                  \
    "sbbq %%rax, %[" t3 "]\n\t"                                                  \
    "sbbq %%rcx, %[" t0 "]\n\t"                                                  \
    "addq %%rdx, %[" t1 "]\n\t"                                                  \
    "adcq $0, %[" t2 "]\n\t"                                                     \
    "adcq $0, %[" t3 "]\n\t"                                                     \
    "adcq $0, %[" t0 "]\n\t"

/* z := x*x/2^256 mod p. In: x < p. Out: z < p. CT: yes. z may alias x. */
SM2_INLINE void sm2_fe_sqr(sm2_fe *z, const sm2_fe *x)
{
    uint64_t a, b, c, d, e, f, g, h;

    __asm__(/* cross products, in b..g */
            "movq 0(%[x]), %%rdx\n\t"
            "mulxq 8(%[x]), %[b], %[c]\n\t"
            "mulxq 16(%[x]), %%rax, %[d]\n\t"
            "addq %%rax, %[c]\n\t"
            "mulxq 24(%[x]), %%rax, %[e]\n\t"
            "adcq %%rax, %[d]\n\t"
            "adcq $0, %[e]\n\t"
            "movq 8(%[x]), %%rdx\n\t"
            "xorl %k[f], %k[f]\n\t"
            "mulxq 16(%[x]), %%rax, %%rcx\n\t"
            "adcxq %%rax, %[d]\n\t"
            "adoxq %%rcx, %[e]\n\t"
            "mulxq 24(%[x]), %%rax, %%rcx\n\t"
            "adcxq %%rax, %[e]\n\t"
            "adoxq %%rcx, %[f]\n\t"
            "movq 16(%[x]), %%rdx\n\t"
            "mulxq 24(%[x]), %%rax, %[g]\n\t"
            "adcxq %%rax, %[f]\n\t"
            "movl $0, %k[h]\n\t"
            "adoxq %[h], %[f]\n\t"
            "adcxq %[h], %[g]\n\t"
            "adoxq %[h], %[g]\n\t"
            /* doubled, plus the squares: h..a */
            "movq 0(%[x]), %%rdx\n\t"
            "xorl %k[h], %k[h]\n\t"
            "mulxq %%rdx, %[a], %%rcx\n\t"
            "adcxq %[b], %[b]\n\t"
            "adoxq %%rcx, %[b]\n\t"
            "movq 8(%[x]), %%rdx\n\t"
            "mulxq %%rdx, %%rax, %%rcx\n\t"
            "adcxq %[c], %[c]\n\t"
            "adoxq %%rax, %[c]\n\t"
            "adcxq %[d], %[d]\n\t"
            "adoxq %%rcx, %[d]\n\t"
            "movq 16(%[x]), %%rdx\n\t"
            "mulxq %%rdx, %%rax, %%rcx\n\t"
            "adcxq %[e], %[e]\n\t"
            "adoxq %%rax, %[e]\n\t"
            "adcxq %[f], %[f]\n\t"
            "adoxq %%rcx, %[f]\n\t"
            "movq 24(%[x]), %%rdx\n\t"
            "mulxq %%rdx, %%rax, %%rcx\n\t"
            "adcxq %[g], %[g]\n\t"
            "adoxq %%rax, %[g]\n\t"
            "adcxq %[h], %[h]\n\t"
            "adoxq %%rcx, %[h]\n\t"
            SM2_X86_REDUCE_LOW("a", "b", "c", "d")
            SM2_X86_REDUCE_LOW("b", "c", "d", "a")
            SM2_X86_REDUCE_LOW("c", "d", "a", "b")
            SM2_X86_REDUCE_LOW("d", "a", "b", "c")
            "xorl %%edx, %%edx\n\t"
            "addq %[e], %[a]\n\t"
            "adcq %[f], %[b]\n\t"
            "adcq %[g], %[c]\n\t"
            "adcq %[h], %[d]\n\t"
            "adcq $0, %%rdx\n\t"
            "movq %[a], %[e]\n\t"
            "movq %[b], %[f]\n\t"
            "movq %[c], %[g]\n\t"
            "movq %[d], %[h]\n\t"
            "subq $-1, %[a]\n\t"
            "sbbq %[p1], %[b]\n\t"
            "sbbq $-1, %[c]\n\t"
            "sbbq %[p3], %[d]\n\t"
            "sbbq $0, %%rdx\n\t"
            "cmovcq %[e], %[a]\n\t"
            "cmovcq %[f], %[b]\n\t"
            "cmovcq %[g], %[c]\n\t"
            "cmovcq %[h], %[d]\n\t"
            : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [e] "=&r"(e), [f] "=&r"(f),
              [g] "=&r"(g), [h] "=&r"(h)
            : [x] "r"(x), [p1] "m"(sm2_p.v[1]), [p3] "m"(sm2_p.v[3]), "m"(*x)
            : "rax", "rcx", "rdx", "cc");
    z->v[0] = a;
    z->v[1] = b;
    z->v[2] = c;
    z->v[3] = d;
    VERIFY_CHECK(sm2_u256_less(z, &sm2_p));
}

#endif
