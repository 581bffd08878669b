"""Reads the log of an engine: how much each line proves, and which one shows why the engine ended.

    line        one line without its prefixes: process, level, source file, time, text
    user_text   lines about users' requests, which must never be quoted
    kinds       kinds of causes that a line can show, and their remedies in this product's fields
    reader      the level of evidence of each line, in the order of the log
    frames      where a native crash happened
    cause       the cause: the first root cause that the engine did not survive

The launcher uses it to choose which lines to keep, and the gate to explain an exit. Pure.
"""
