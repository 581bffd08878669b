"""An all-reduce in Triton by peer writes and polling, like vLLM's custom one, for payloads that vLLM does not support.

Each program owns a part of the data, a flag in the memory of each GPU, and a round counter:

    copy its part of the input into the buffer that the peer can read
    write the round number into its flag in the PEER's memory            (release: the copied data is visible first)
    poll its flag in its OWN memory until the peer's number arrives      (acquire)
    add the data in the peer's buffer

It uses plain stores and loads, because many PCIe paths do not carry atomics. Odd and even rounds use different buffers,
so no barrier is needed at the end: the peer's flag of round n+1 proves that its kernel of round n has finished reading,
and that buffer is written again only in round n+2. Rounds are counted on the GPU, so a replayed graph keeps counting.

All programs must fit on the GPU at once; otherwise a running one would wait forever for one that cannot start.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202, ANN201, N803
# Triton compiles these functions. It reads annotations as its own types, and its constants are in capitals.

import triton
import triton.language as tl

PROGRAMS = 32
BLOCK = 2048
FLAG_STRIDE = 128
"""Bytes. Each flag has a cache line of its own."""
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
    """`own` and `peer` are addresses of flags followed by two buffers of DATA_BYTES. `rounds` counts per program."""
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
