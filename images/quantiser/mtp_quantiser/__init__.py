"""Give a stripped DeepSeek-V4-Flash checkpoint its MTP head back, in INT4, and prove it."""
