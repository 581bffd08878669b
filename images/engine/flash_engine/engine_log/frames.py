"""Finds where a native crash happened: the innermost named function of its stack, and the library call above it."""

import re
from collections.abc import Iterable

_FORMS = (
    re.compile(r'^File "(?P<file>[^"]*)", line (?P<line>\d+),? in (?P<name>\S+)'),
    re.compile(r"^(?:frame )?#\d+:? +(?:0x[0-9a-f]+ +in +)?(?P<name>[A-Za-z_~][\w:~<>]*)"),
    re.compile(r"^@ +0x[0-9a-f]+ +(?:\(unknown\)|(?P<name>[A-Za-z_~][\w:~<>]*))"),
    re.compile(r"^(?:[\w./+-]+)\((?P<name>[A-Za-z_]\w*)\+0x"),
)
"""The forms of a frame: Python's faulthandler and torch's handler; gdb and c10; glog; glibc."""

CURRENT_THREAD = "Current thread 0x"

_MACHINERY = re.compile(
    r"^(?:_?Py|PyEval|PyObject|PyRun|ffi_call|_start|__libc|__GI_|__pthread|pthread_|raise$|abort$|gsignal|start_thread|clone3?$"
    r"|main$|c10::Error|std::|<unknown|0x|_bootstrap|_PyEval|method_vectorcall|cfunction_|libc_sigaction|__restore_rt)"
)

_INTERPRETER = re.compile(r"\b(?:ffi_call|_?PyEval_\w+|_?PyObject_\w+|PyRun_\w+|method_vectorcall\w*|cfunction_\w+)")


def crash_site(lines: Iterable[str]) -> str:
    """Like `cuMemCreate under ncclCommInitRank`; empty if no frame has a name."""
    names: list[str] = []
    stack = list(lines)
    # Python's faulthandler prints the stacks of all threads, and the crashed one's last.
    begin = next((at for at, line in enumerate(stack) if line.startswith(CURRENT_THREAD)), 0)
    for line in stack[begin:]:
        name = _name(line)
        if name:
            names.append(name)
        # All stacks look alike outside the library call that Python made.
        if names and (_INTERPRETER.search(line) or name.endswith(")")):
            break
    if not names:
        return ""
    return names[0] if names[-1] == names[0] else f"{names[0]} under {names[-1]}"


def _name(line: str) -> str:
    for form in _FORMS:
        found = form.match(line)
        if found and found["name"] and not _MACHINERY.match(found["name"]):
            name = found["name"].partition("(")[0]
            file = found.groupdict().get("file") or ""
            return f"{name} ({file.rpartition('/')[2]}:{found['line']})" if file.endswith(".py") else name
    return ""


def last_frame(lines: Iterable[str]) -> str:
    """The innermost frame of a Python traceback, like `load_weights (loader.py:12)`; empty if there is none."""
    return next((name for line in reversed(list(lines)) if (name := _name(line))), "")
