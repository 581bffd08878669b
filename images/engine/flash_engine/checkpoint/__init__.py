"""Inspects a checkpoint by its headers: its layout, its problems, its memory use and the vLLM flags it needs.

    checkpoint_files   the files of a checkpoint, and reading them from a folder; hub reads those of a repository
    source        opens a folder or a repository
    origin        where the files come from, and therefore what their owner can do
    safetensors_header, headers   the tensors of each safetensors file: name, type, shape
    file_formats, foreign_quantisation, model_families   tables that identify other tools and models
    model_config  the sizes in config.json
    schemes, tensors   every tensor of every known layout, with the source of each entry
    tensor_names  other tools' names for the same tensors, and what vLLM does with each
    layout        detects the layout from the headers
    quantisation  compares what `quantization_config` makes vLLM build with what the files contain
    inspection    runs all checks and collects the findings: format_findings, model_findings, config_findings
    memory, engine_flags   GPU memory and vLLM flags
    document, report   the inspection as JSON, and as text for a terminal

Nothing here imports torch or vLLM: the launcher runs it before it starts either.
"""
