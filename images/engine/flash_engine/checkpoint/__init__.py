"""What a checkpoint is, by its headers alone: its layout, what is wrong with it, what it costs, which flags follow.

    source        where the files are, and how a range of one is read
    headers       the tensors of each file: name, type, shape
    model_config  config.json
    schemes, tensors   the table: every tensor of every known layout, with the source of each entry
    spelling      names that mean the same, and what vLLM does with each
    layout        which layout the headers show
    quantisation  what `quantization_config` makes vLLM build, beside what the files hold
    inspection    all of it together, as findings
    memory, engine_flags   what follows from it
    document, report   all of that as JSON, and as a page

Nothing here imports torch or vLLM: the launcher runs it before it starts either.
"""
