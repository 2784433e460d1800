/* A plugin for QEMU's emulation of aarch64: how many instructions a program executes, and of which kinds.
 *
 * Prints one line when the program ends: instructions, vector registers loaded, multiplications of vectors. The last
 * are SDOT, SMMLA, SMULL and SMLAL with their unsigned forms. Debian ships no header for plugins of user-mode
 * emulators, so what is used of version 1 of their interface is declared here. */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { INLINE_ADD_U64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int qemu_plugin_version = 1;

static uint64_t instructions, loads, multiplications;

/* Encodings are those of the Arm Architecture Reference Manual, C4.1. */
static bool matches(uint32_t word, uint32_t mask, uint32_t bits) { return (word & mask) == bits; }

static bool multiplies(uint32_t word)
{
    return matches(word, 0x9fe0fc00, 0x0e809400)    /* SDOT, UDOT: vectors */
        || matches(word, 0x9fc0f400, 0x0f80e000)    /* SDOT, UDOT: by element */
        || matches(word, 0x9fe0fc00, 0x0e80a400)    /* SMMLA, UMMLA */
        || matches(word, 0x9f20fc00, 0x0e20c000)    /* SMULL, UMULL */
        || matches(word, 0x9f20fc00, 0x0e208000);   /* SMLAL, UMLAL */
}

/* Registers of an LD1 to LD4 of multiple structures, by its opcode. */
static unsigned registers_of_structures(unsigned opcode)
{
    switch (opcode) {
    case 0x7: return 1;
    case 0x8: case 0xa: return 2;
    case 0x4: case 0x6: return 3;
    case 0x0: case 0x2: return 4;
    default: return 0;
    }
}

static unsigned registers_loaded(uint32_t word)
{
    bool load = word >> 22 & 1;
    if (matches(word, 0x3a000000, 0x28000000) && word >> 26 & 1)    /* LDP, STP of vectors */
        return load ? 2 : 0;
    if (matches(word, 0x3a000000, 0x38000000) && word >> 26 & 1)    /* LDR, STR of vectors */
        return load ? 1 : 0;
    if (matches(word, 0x3f000000, 0x1c000000))                      /* LDR of a vector, literal */
        return 1;
    if (matches(word, 0xbf000000, 0x0c000000))                      /* LD1 to LD4, multiple structures */
        return load ? registers_of_structures(word >> 12 & 0xf) : 0;
    if (matches(word, 0xbf000000, 0x0d000000))                      /* LD1 to LD4, one structure or repeated */
        return load ? 1 : 0;
    return 0;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(block);
    uint64_t block_loads = 0, block_multiplications = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        block_loads += registers_loaded(word);
        block_multiplications += multiplies(word);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &instructions, count);
    qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &loads, block_loads);
    qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &multiplications, block_multiplications);
}

static void finished(plugin_id id, void *unused)
{
    (void)id, (void)unused;
    fprintf(stderr, "instructions %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", instructions, loads, multiplications);
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
