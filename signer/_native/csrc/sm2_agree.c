/* Key agreement with key confirmation (GB/T 32918.3-2016 section 6.1). */
#include "sm2_internal.h"

/* z := 2^127 + (x mod 2^127), w being 127 for this curve. CT: yes. */
static void sm2_agree_bar(sm2_u256 *z, const sm2_u256 *x)
{
    z->v[0] = x->v[0];
    z->v[1] = x->v[1] | ((uint64_t)1 << 63);
    z->v[2] = 0;
    z->v[3] = 0;
}

/*
 * *v := P + bar(x_R)*R for the peer's P and R, all public; returns 0 if that
 * is infinity, else 1. Done as a + b by the full addition law, so that every
 * coincidence of the two is met. CT: no, public points only.
 */
static int sm2_agree_peer_vartime(sm2_point *v, const sm2_point *peer, const sm2_point *ephemeral)
{
    sm2_u256 bar;
    sm2_point m;
    sm2_affine a;
    sm2_jacobian j;
    sm2_fe z;

    sm2_agree_bar(&bar, &ephemeral->x);
    sm2_active_backend->mul_many(&m, &bar, &ephemeral, 1);
    sm2_fe_to_mont(&j.X, &m.x);
    sm2_fe_to_mont(&j.Y, &m.y);
    j.Z = sm2_fe_one;
    sm2_fe_to_mont(&a.x, &peer->x);
    sm2_fe_to_mont(&a.y, &peer->y);
    sm2_jacobian_add_affine_vartime(&j, &j, &a);
    if (sm2_u256_is_zero(&j.Z)) {
        return 0;
    }
    sm2_fe_inv(&j.Z, &j.Z);
    sm2_fe_sqr(&z, &j.Z);
    sm2_fe_mul(&j.X, &j.X, &z);
    sm2_fe_mul(&z, &z, &j.Z);
    sm2_fe_mul(&j.Y, &j.Y, &z);
    sm2_fe_from_mont(&v->x, &j.X);
    sm2_fe_from_mont(&v->y, &j.Y);
    return 1;
}

/* *t := d + bar(x_R)*r mod n. CT: yes. */
static void sm2_agree_scalar(sm2_u256 *t, const sm2_agreement *in)
{
    sm2_u256 bar;

    sm2_agree_bar(&bar, &in->own_ephemeral_public->x);
    sm2_fn_to_mont(&bar, &bar);
    sm2_fn_mont_mul(t, &bar, &in->own_ephemeral->d);
    sm2_fn_add(t, t, &in->own->d);
}

/* out := SM3(tag || yU || inner). CT: yes. */
static void sm2_agree_tag(uint8_t out[32], uint8_t tag, const uint8_t y[32],
                          const uint8_t inner[32])
{
    sm3_ctx c;

    sm3_init(&c);
    sm3_update(&c, &tag, 1);
    sm3_update(&c, y, 32);
    sm3_update(&c, inner, 32);
    sm3_final(&c, out);
}

/*
 * The confirmation hashes. u is xU||yU||Z_A||Z_B. CT: yes.
 */
static void sm2_agree_confirm(uint8_t s_responder[32], uint8_t s_initiator[32],
                              const uint8_t u[128], const sm2_point *r_a, const sm2_point *r_b)
{
    uint8_t inner[32], point[64];
    sm3_ctx c;

    sm3_init(&c);
    sm3_update(&c, u, 32);
    sm3_update(&c, u + 64, 64);
    sm2_point_store(point, r_a);
    sm3_update(&c, point, 64);
    sm2_point_store(point, r_b);
    sm3_update(&c, point, 64);
    sm3_final(&c, inner);
    sm2_agree_tag(s_responder, 0x02, u + 32, inner);
    sm2_agree_tag(s_initiator, 0x03, u + 32, inner);
    sm2_wipe(inner, sizeof inner);
}

/* key := KDF(xU||yU||Z_A||Z_B), A being the initiator on both sides. CT: yes. */
int sm2_agree(uint8_t *key, size_t n, uint8_t s_responder[32], uint8_t s_initiator[32],
              const sm2_agreement *in)
{
    const uint8_t *z_a = in->initiator ? in->own_z : in->peer_z;
    const uint8_t *z_b = in->initiator ? in->peer_z : in->own_z;
    const sm2_point *r_a = in->initiator ? in->own_ephemeral_public : in->peer_ephemeral_public;
    const sm2_point *r_b = in->initiator ? in->peer_ephemeral_public : in->own_ephemeral_public;
    sm2_u256 t;
    sm2_point v, shared;
    const sm2_point *base = &v;
    uint8_t u[128], block[32];
    sm2_kdf kdf;
    size_t i;

    if (n == 0 || n > SM2_PLAINTEXT_MAX) {
        return SM2_ERR_LENGTH;
    }
    sm2_agree_scalar(&t, in);
    if (sm2_declassify_bit(sm2_u256_is_zero(&t)) ||
        !sm2_agree_peer_vartime(&v, in->peer_public, in->peer_ephemeral_public)) {
        sm2_wipe(&t, sizeof t);
        return SM2_ERR_AGREEMENT;
    }
    sm2_active_backend->mul_many(&shared, &t, &base, 1);
    sm2_point_store(u, &shared);
    memcpy(u + 64, z_a, 32);
    memcpy(u + 96, z_b, 32);
    sm2_kdf_init(&kdf, u, 2);
    for (i = 0; i < n; i += 32) {
        sm2_kdf_block(block, &kdf, (uint32_t)(i / 32 + 1));
        memcpy(key + i, block, n - i < 32 ? n - i : 32);
    }
    sm2_agree_confirm(s_responder, s_initiator, u, r_a, r_b);
    sm2_wipe(&t, sizeof t);
    sm2_wipe(&shared, sizeof shared);
    sm2_wipe(u, sizeof u);
    sm2_wipe(block, sizeof block);
    sm2_wipe(&kdf, sizeof kdf);
    return SM2_OK;
}
