"""Reads the log of an engine: what each line is worth as evidence, and which one shows why the engine ended.

    line        one line without its prefixes: process, level, source file, time, text
    user_text   lines about users' requests, which nobody may quote
    kinds       what a line can say about the cause, and the remedy in this product's fields
    reader      the level of evidence of each line, in the order of the log
    frames      where a native crash happened
    cause       the cause: the first root cause that the engine did not survive

The launcher decides by it which lines to keep, the gate what to tell. Pure.
"""
