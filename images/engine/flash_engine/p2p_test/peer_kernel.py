"""An all-reduce by peer writes and polls, in Triton: the way of vLLM's custom all-reduce, for whatever it leaves out.

Each program has a part of the data, a flag in both GPUs' memory, and a count of rounds:

    copy its part of the input into the buffer that the peer can read
    write the round's number into its flag in the PEER's memory         (release: what was copied is seen first)
    poll its flag in its OWN memory until the peer's number is there    (acquire)
    add what is in the peer's buffer

Plain stores and loads, no atomics: many PCIe paths carry none. The buffers of odd and even rounds take turns, which
makes a barrier at the end needless: a peer's flag of round n+1 says that its kernel of round n has ended, reads and
all, and only in round n+2 is that buffer written again. Rounds are counted on the GPU, so a replayed graph counts on.

All programs must be on the GPU at once, or one would wait for ever for another that waits for room.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202, ANN201, N803
# Triton compiles these functions, takes annotations for types of its own, and wants its constants in capitals.

import triton
import triton.language as tl

PROGRAMS = 32
BLOCK = 2048
FLAG_STRIDE = 128
"""Bytes: a cache line each."""
FLAGS_BYTES = PROGRAMS * FLAG_STRIDE


@triton.jit
def _write_flag(address, number):
    tl.inline_asm_elementwise(
        "st.release.sys.global.u32 [$1], $2; mov.u32 $0, $2;",
        constraints="=r,l,r,~{memory}",
        args=[address, number],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _read_flag(address):
    return tl.inline_asm_elementwise(
        "ld.acquire.sys.global.u32 $0, [$1];",
        constraints="=r,l,~{memory}",
        args=[address],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def all_reduce(
    mine,
    out,
    own,
    peer,
    rounds,
    count,
    DATA_BYTES: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
    FLAG_STRIDE: tl.constexpr,
):
    """`own` and `peer` are addresses: flags first, then two buffers of DATA_BYTES. `rounds` has a number a program."""
    program = tl.program_id(0)
    number = tl.load(rounds + program) + 1
    slot = PROGRAMS * FLAG_STRIDE + (number & 1).to(tl.int64) * DATA_BYTES
    ours = (own + slot).to(tl.pointer_type(mine.dtype.element_ty))
    theirs = (peer + slot).to(tl.pointer_type(mine.dtype.element_ty))
    for start in range(program * BLOCK, count, PROGRAMS * BLOCK):
        at = start + tl.arange(0, BLOCK)
        tl.store(ours + at, tl.load(mine + at, mask=at < count), mask=at < count)
    tl.debug_barrier()
    _write_flag(peer + program * FLAG_STRIDE, number)
    seen = _read_flag(own + program * FLAG_STRIDE)
    while seen < number:
        seen = _read_flag(own + program * FLAG_STRIDE)
    tl.debug_barrier()
    for start in range(program * BLOCK, count, PROGRAMS * BLOCK):
        at = start + tl.arange(0, BLOCK)
        read = tl.load(theirs + at, mask=at < count, cache_modifier=".cg")
        tl.store(out + at, tl.load(mine + at, mask=at < count) + read, mask=at < count)
    tl.debug_barrier()
    tl.store(rounds + program, number)
